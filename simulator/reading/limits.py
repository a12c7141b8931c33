"""How much of a file dsim reads before it refuses. `--max-file-mb` or DSIM_MAX_FILE_MB replaces the limits of size."""

from __future__ import annotations

import os

from simulator.errors import DsimError

VARIABLE = "DSIM_MAX_FILE_MB"
STREAM_MB = 2000.0  # unpacked, of a file read line by line
WHOLE_MB = 100.0  # unpacked, of a file read at once: text, JSON, a CSV table, Parquet
YAML_MB = 0.5
LINE_MB = 16.0  # of a line, in a file read line by line
UNPACKED_TIMES, UNPACKED_MB = 100, 32  # a gzip file may unpack to so many times its size, or so many MB
DEPTH = 64  # of mappings and lists in each other
YAML_NODES_PER_MB = 50_000  # keys, values, lists and mappings in a YAML file, aliases not written out: 50 µs each
ALIASED_NODES = 1_000_000  # with aliases written out
COLUMNS = 1000
CELLS = 20_000_000  # of a CSV or Parquet table
RAISE = f"if it is right, raise the limit with --max-file-mb or {VARIABLE}"


def size_mb(default: float) -> float:
    """The limit of a file's size, in MB of 10^6 bytes. Raises DsimError where the environment's is not a number."""
    text = os.environ.get(VARIABLE, "")
    try:
        limit = float(text) if text else default
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise DsimError(f"expected a number of MB above 0, got '{text[:40]}'", where=VARIABLE)
    return limit


def check_memory(what: str, memory_bytes: float) -> None:
    """Raise ValueError where content would take too many bytes of memory; `what` begins the sentence, such as "takes"."""
    if memory_bytes > (most_mb := 5 * size_mb(WHOLE_MB)) * 1e6:
        raise ValueError(f"{what} about {memory_bytes / 1e6:,.0f} MB of memory, at most {most_mb:,.0f} are used; {RAISE}")
