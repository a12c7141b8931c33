"""A day of traffic, 1.5 million requests, read in the whole and through an hour's window: CPU seconds and peak memory of this checkout, and with
--before those of another one in turns, with the ratio now / before.

    git worktree add ../before COMMIT; python benchmarks/reading.py --before ../before

The files are made here: Azure's form (date-times), ours (seconds, domains), and Mooncake's (JSON lines with prefix blocks). Both sides must read the
same numbers. Every reading is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import ROOT, alternating, save, spread
from pairs import check_imports

HOUR = {"window_s": [3600, 7200]}
READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "date-times, all": ("azure.csv", {}),
    "date-times, an hour": ("azure.csv", HOUR),
    "seconds, all": ("plain.csv", {}),
    "seconds, an hour": ("plain.csv", HOUR),
    "JSON lines, all": ("mooncake.jsonl", {}),
    "JSON lines, an hour with a prefix cache": ("mooncake.jsonl", HOUR | {"prefix_cache": "infinite"}),
}
CHILD = """
import hashlib, json, resource, sys, time
from pathlib import Path
import pandas, pyarrow
from simulator.traffic.traces import TraceSource
source, start = TraceSource.model_validate(json.loads(sys.argv[1])), time.process_time()
trace = source.load(Path())
cpu_s = time.process_time() - start
columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.cached_prompt_tokens, trace.domain)
print(json.dumps({"cpu_s": cpu_s, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "requests": len(trace),
                  "digest": hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()}))
"""


def main() -> None:
    """Measure, show, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of another checkout")
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--repetitions", type=int, default=3, help="of each; one more comes first and is thrown away")
    options = parser.parse_args()
    sides = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    for folder in sides.values():
        check_imports(folder)
    with tempfile.TemporaryDirectory(prefix="dsim-benchmark-") as folder:
        write(Path(folder), options.rows)
        tasks = {(name, side): partial(_read, sides[side], {"path": f"{folder}/{file}", **keys})
                 for name, (file, keys) in READINGS.items() for side in sides}  # fmt: skip
        taken = alternating(tasks, options.repetitions)
    rows = {name: _row(name, {side: taken[name, side] for side in sides}) for name in READINGS}
    print(f"{'':42}{'CPU s':>8}{'peak MB':>9}" + (f"{'before':>9}{'':>9}{'ratio':>8}" if options.before else ""))
    for name, row in rows.items():
        now, before = row["now"], row.get("before")
        more = f"{before['cpu_s']['median']:9.2f}{before['peak_mb']['median']:9.0f}{row['ratio_cpu']['median']:8.2f}" if before else ""
        print(f"{name:42}{now['cpu_s']['median']:8.2f}{now['peak_mb']['median']:9.0f}{more}")
    save("reading", {"rows": options.rows, "readings": rows})


def write(folder: Path, rows: int) -> None:
    """The three files."""
    rng, day = np.random.default_rng(1), datetime(2024, 5, 12)
    times = np.cumsum(rng.exponential(86400 / rows, rows)).tolist()
    prompts, outputs = rng.integers(1, 8000, rows).tolist(), rng.integers(1, 900, rows).tolist()
    with (folder / "azure.csv").open("w") as azure, (folder / "plain.csv").open("w") as plain, (folder / "mooncake.jsonl").open("w") as mooncake:
        azure.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        plain.write("arrival_s,prompt_tokens,output_tokens,domain\n")
        for row, (time_s, prompt, output) in enumerate(zip(times, prompts, outputs, strict=True)):
            stamp = (day + timedelta(seconds=time_s)).isoformat(" ", "microseconds")
            azure.write(f"{stamp}+00:00,{prompt},{output}\n")
            plain.write(f"{time_s:.6f},{prompt},{output},{'chat' if row % 3 else 'code'}\n")
            blocks = [row % 50, *range(20 * row + 100, 20 * row + 99 - (-prompt // 512))]
            request = {"timestamp": int(time_s * 1000), "input_length": prompt, "output_length": output, "hash_ids": blocks}
            mooncake.write(json.dumps(request) + "\n")


def _read(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(source)], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"in {folder}:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _row(name: str, taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    digests = {reading["digest"] for readings in taken.values() for reading in readings}
    if len(digests) > 1:
        raise SystemExit(f"{name}: the two checkouts read different numbers")
    row: dict[str, Any] = {side: {key: spread([reading[key] for reading in readings]) for key in ("cpu_s", "peak_mb")}
                           for side, readings in taken.items()}  # fmt: skip
    row["requests"] = taken["now"][0]["requests"]
    if "before" in taken:
        row["ratio_cpu"] = spread([now["cpu_s"] / before["cpu_s"] for now, before in zip(taken["now"], taken["before"], strict=True)])
    return row


if __name__ == "__main__":
    main()
