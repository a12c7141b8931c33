"""Tidy tables of a result: one row a point, and on demand one a request or a step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.arrays import Floats
from simulator.engine.records import RequestRecord, StepRecord
from simulator.errors import DsimError
from simulator.files import whole
from simulator.names import as_cells
from simulator.study.run.metrics import columns
from simulator.study.run.result import PointRow
from simulator.traffic.request import Ending

if TYPE_CHECKING:
    import pandas as pd


def points_table(rows: Sequence[PointRow]) -> pd.DataFrame:
    """policy × load × replication, one row each; unknown numbers are empty."""
    import pandas as pd

    return pd.DataFrame([row.model_dump(exclude={"numbers", "curves", "client"}) | row.numbers for row in rows], columns=columns())


class RequestsFile:
    """A sink that writes every request of a run to Parquet, chunk after chunk: stamps in seconds since the start, in order of
    their end (of a fleet in parts, part after part). Where prompts are not simulated, `ttft_s` is empty; how requests ended is there where users
    `leave`."""

    def __init__(self, path: Path, head: dict[str, Any], prompts: bool = True, leave: bool = False) -> None:
        self._file, self._head, self._prompts, self._leave = _ParquetFile(path), head, prompts, leave

    def __call__(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        import pandas as pd

        of = dict(zip(RequestRecord._fields, rows.T, strict=True))
        of["request"] = of["request"].astype(np.int64)
        columns: dict[str, Any] = {"request": of["request"], **self._head}
        columns["domain"] = np.array(domains, dtype=object)[of["domain"].astype(np.int64)]
        columns["measured"] = of["measured"] > 0
        columns |= {name: of[name] for name in ("arrival_s", "sent_s", "first_token_s", "finish_s")}
        columns |= {name: of[name].astype(np.int64) for name in ("prompt_tokens", "output_tokens", "preemptions")}
        if self._leave:
            names = np.array([ending.name.lower() for ending in Ending], dtype=object)
            columns |= {"ending": names[of["ending"].astype(np.int64)], "ended_s": of["ended_s"]}
            columns |= {name: of[name].astype(np.int64) for name in ("emitted_tokens", "retries")}
        table = pd.DataFrame(columns)
        several = (table["finish_s"] > table["first_token_s"]) & (table["output_tokens"] > 1)
        decode_s = (table["finish_s"] - table["first_token_s"]).where(several, np.nan)
        table["tps_per_user"] = (table["output_tokens"] - 1) / decode_s
        table["tpot_s"] = decode_s / (table["output_tokens"] - 1)
        table["ttft_s"] = table["first_token_s"] - table["sent_s"] if self._prompts else np.nan
        table["e2e_s"] = table["finish_s"] - table["sent_s"]
        self._file.append(table)

    def close(self, keep: bool) -> None:
        """The file is whole, or not to be kept."""
        self._file.close(keep)


class StepsFile:
    """A sink that writes every step of a run to Parquet, chunk after chunk, in order of their end (of a fleet in parts, part after part)."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self._file, self._head = _ParquetFile(path), head

    def __call__(self, rows: Floats) -> None:
        """Rows of StepRecord."""
        import pandas as pd

        table = pd.DataFrame(dict(zip(StepRecord._fields, rows.T, strict=True)))
        counts = ["replica", "requests", "running", "joined", "verified", "accepted", "committed", "prefill_tokens", "context_tokens", "waiting"]
        table[counts] = table[counts].astype(np.int64)
        for at, (name, value) in enumerate(self._head.items()):
            table.insert(at, name, value)
        table["tokens"] = table["requests"] + table["verified"]
        self._file.append(table)

    def close(self, keep: bool) -> None:
        """The file is whole, or not to be kept."""
        self._file.close(keep)


class _ParquetFile:
    """Row groups one after the other under a name of its own, which is given up for the real one when all are there."""

    def __init__(self, path: Path) -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}.{os.getpid()}.parquet")
        self._writer: Any = None

    def append(self, table: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        group = pa.Table.from_pandas(table, preserve_index=False)
        try:
            if self._writer is None:
                self._draft.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._draft, group.schema, compression="zstd")
            self._writer.write_table(group)
        except OSError as problem:
            remedy = "free space, or choose a folder you can write to"
            raise DsimError(f"cannot write ({problem.strerror or problem})", where=self.path, remedy=remedy) from None

    def close(self, keep: bool) -> None:
        if self._writer is not None:
            self._writer.close()
        if keep and self._writer is not None:
            os.replace(self._draft, self.path)
        else:
            self._draft.unlink(missing_ok=True)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all; the same table gives the same bytes."""
    with whole(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all. Texts are cells that no spreadsheet runs; numbers stay numbers."""
    with whole(path) as draft:
        as_cells(table).to_csv(draft, index=False)
