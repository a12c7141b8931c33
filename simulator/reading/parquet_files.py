"""Parquet tables, with one-line errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import DsimError

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(path: Path, columns: Sequence[str] | None = None, error: type[DsimError] = DsimError, remedy: str = "check the path") -> pa.Table:
    """A Parquet table, all of it or some columns. Raises `error`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException) as problem:
        raise error(f"not a Parquet file ({str(problem).splitlines()[0]})", where=path, remedy=remedy) from None
