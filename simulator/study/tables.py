"""Tidy tables of a result: one row a point, and on demand one a request or a step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.engine.simulate import Run
from simulator.files import whole
from simulator.study.metrics import NUMBERS

if TYPE_CHECKING:
    import pandas as pd

HEAD = ("policy", "drafter", "load_kind", "load", "replication", "requests")


def points_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """policy × load × replication, one row each; unknown numbers are empty."""
    import pandas as pd

    return pd.DataFrame(rows, columns=[*HEAD, *NUMBERS, "verdict"])


def requests_table(run: Run, row: dict[str, Any]) -> pd.DataFrame:
    """Every request of a run with its stamps (seconds since the start) and speeds."""
    import pandas as pd

    several = np.array([r.finish_s > r.first_token_s and r.spec.output_tokens > 1 for r in run.requests], dtype=np.bool_)
    table = pd.DataFrame(
        {
            "request": [r.spec.index for r in run.requests],
            "policy": row["policy"],
            "load": row["load"],
            "replication": row["replication"],
            "domain": [r.spec.domain for r in run.requests],
            "measured": [r.measured for r in run.requests],
            "arrival_s": [r.spec.arrival_s for r in run.requests],
            "first_token_s": [r.first_token_s for r in run.requests],
            "finish_s": [r.finish_s for r in run.requests],
            "prompt_tokens": [r.spec.prompt_tokens for r in run.requests],
            "output_tokens": [r.spec.output_tokens for r in run.requests],
            "preemptions": [r.preemptions for r in run.requests],
        }
    )
    decode_s = (table["finish_s"] - table["first_token_s"]).where(several, np.nan)
    table["tps_per_user"] = (table["output_tokens"] - 1) / decode_s
    table["tpot_s"] = decode_s / (table["output_tokens"] - 1)
    table["ttft_s"] = table["first_token_s"] - table["arrival_s"]
    table["e2e_s"] = table["finish_s"] - table["arrival_s"]
    return table


def steps_table(run: Run, row: dict[str, Any]) -> pd.DataFrame:
    """Every step of a run."""
    import pandas as pd

    table = pd.DataFrame(run.steps.columns)
    counts = ["replica", "requests", "running", "joined", "verified", "accepted", "committed", "prefill_tokens", "context_tokens", "waiting"]
    table[counts] = table[counts].astype(np.int64)
    table.insert(0, "policy", row["policy"])
    table.insert(1, "load", row["load"])
    table.insert(2, "replication", row["replication"])
    table["tokens"] = table["requests"] + table["verified"]
    return table


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all; the same table gives the same bytes."""
    with whole(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    with whole(path) as draft:
        table.to_csv(draft, index=False)
