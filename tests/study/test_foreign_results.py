"""Result files from strangers: what contradicts itself, or names what is not there, is one line before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from simulator.errors import DsimError
from simulator.report.plan.tables import break_even
from simulator.report.run.differences import difference
from simulator.report.run.plots.frontier import pareto
from simulator.report.run.sketch import frontier
from simulator.study.planning.output import read_either
from simulator.study.planning.result import PlanResult
from simulator.study.run.record import Record
from simulator.study.run.result import Estimate, RunResult
from simulator.study.validation.engine_runs import read_run
from simulator.study.validation.result import Comparison
from tests.conftest import Dsim
from tests.report import synthetic_plan, synthetic_result

COMMAND = ["vllm", "serve", "a/b"]
ENGINE = {"engine": "vLLM", "command": COMMAND}
RUN = synthetic_result.example(("MTP-1", "oracle"), (5, 80)) | {"launch": {"policy": "MTP-1", "replicas": 1, "engines": [ENGINE]}}
PLAN = synthetic_plan.plan(("a", "b"), (20.0, 40.0)).to_json()
ROW = {"what": "TPOT", "simulated": 1.02, "published": 1.0, "difference": 0.02, "unit": "value", "limit": 0.03, "ok": True}
POINT = {"policy": "a", "metric": "speed", "table": "t", "load": 4, "simulated": 90.0, "published": 100.0, "difference": -0.1}
COMPARISON = {"name": "x", "title": "t", "system": "s", "sources": ["p"], "command": "c", "rows": [ROW], "points": [POINT], "ok": True}
NAN, HUGE = float("nan"), 10**400

CASES: list[tuple[type[Record], Any, str, Any, str]] = [
    (RunResult, RUN, "validation.rows.0.ok", NAN, "rows.0.ok: .* or null, got nan"),
    (RunResult, RUN, "validation.rows.0.ok", 1, "rows.0.ok: .*expected true or false, got 1"),
    (RunResult, RUN, "validation.rows.0.ok", False, "ok is false, with a difference of 0.029 and a limit of 0.05"),
    (RunResult, RUN, "validation.rows.0.limit", None, "ok is true"),
    (RunResult, RUN, "validation.ok", True, "ok is true, and its rows are not"),
    (RunResult, RUN, "frontier.0.load", "5", "frontier.0.load: .*expected a number, got '5'"),
    (RunResult, RUN, "frontier.0.load", True, "frontier.0.load: .*expected a number, got true"),
    (RunResult, RUN, "frontier.0.load", 0, "frontier.0.load: .*above 0"),
    (RunResult, RUN, "frontier.0.load", 80, r"frontier: 'MTP-1 at load 80.0' is there twice"),
    (RunResult, RUN, "frontier.0.n", 0, "frontier.0.n: "),
    (RunResult, RUN, "frontier.0.policy", "nobody", "frontier.0: 'nobody' is not one of the result's"),
    (RunResult, RUN, "frontier.0.metrics.tps_per_user_mean.mean", 1e308, r"mean: .*at most 1e\+15, or null, got 1e\+308"),
    (RunResult, RUN, "frontier.0.metrics.tps_per_user_mean.mean", HUGE, r"mean: .*at most 1e\+15"),
    (RunResult, RUN, "frontier.0.metrics.tps_per_user_mean.mean", 0, "is outside its interval"),
    (RunResult, RUN, "frontier.0.metrics.tps_per_user_mean.low", None, "two ends"),
    (RunResult, RUN, "frontier.0.metrics.speedup", {"mean": 1}, "unknown metric 'speedup'"),
    (RunResult, RUN, "frontier.0.curves.ttft", [0.1, 0.2], "expected 24 numbers of ttft, got 2"),
    (RunResult, RUN, "frontier.0.curves.itl", [0.1], "unknown distribution 'itl'"),
    (RunResult, RUN, "policies", [], "policies: "),
    (RunResult, RUN, "policies.1.name", "MTP-1", "policies: 'MTP-1' is there twice"),
    (RunResult, RUN, "gains.baseline", "nobody", "gains.baseline.0: 'nobody'"),
    (RunResult, RUN, "gains.at_sla.0.policy", "nobody", "gains.at_sla.0: 'nobody'"),
    (RunResult, RUN, "published.0.policy", "nobody", "published.0: 'nobody'"),
    (RunResult, RUN, "speed_metric", "speed", "speed_metric: "),
    (RunResult, RUN, "load_kind", "users", "load_kind: "),
    (RunResult, RUN, "warning", [], "warning: .*unknown key 'warning'"),
    (RunResult, RUN, "answer.0", "x" * 1_000_001, "answer.0: .*at most 1,000,000 characters, got 1,000,001"),
    (RunResult, RUN, "scenario.file", "a\0b", "scenario.file: "),
    (RunResult, RUN, "scenario.content", {"\ud800": 1}, "not a result of this dsim"),
    (RunResult, RUN, "format", 2, r"format: not a result of this dsim .expected 1, got 2"),
    (RunResult, RUN, "launch.policy", "nobody", "launch.policy.0: 'nobody'"),
    (RunResult, RUN, "launch.engines", [], "launch.engines: "),
    (RunResult, RUN, "launch.engines.0.engine", "../../vllm", "launch.engines.0.engine: "),
    (RunResult, RUN, "launch.engines.0.files", {"../x.json": ""}, "launch.engines.0.files"),
    (RunResult, RUN, "launch.engines.0.files", {"vllm.sh": ""}, "launch.engines.0.files"),
    (RunResult, RUN, "launch.engines.0.environment", {"A=1 rm -rf x; VLLM_B": "1"}, "launch.engines.0.environment"),
    (RunResult, RUN, "launch.engines.0.environment", {"LD_PRELOAD": "x.so"}, "launch.engines.0.environment"),
    (RunResult, RUN, "launch.engines.0.command", ["rm", "-rf", "x"], "a command of vLLM begins with vllm serve"),
    (PlanResult, PLAN, "best", 7, "best.0: 7 is not one of the result's"),
    (PlanResult, PLAN, "cells.0.replicas", None, "is planned, but without replicas"),
    (PlanResult, PLAN, "cells.0.outcome", "unattainable", "best: choice 0 is not planned"),
    (PlanResult, PLAN, "cells.0.profile", "another", "cells.0: 'another'"),
    (PlanResult, PLAN, "cells.1.cell", 0, "cells: 0 is there twice"),
    (PlanResult, PLAN, "cells.0.points.0.metrics", {}, "has no speed"),
    (PlanResult, PLAN, "by_promise.0.best", 5, "by_promise.0.best.0: 5"),
    (PlanResult, PLAN, "by_promise.0.cells.0.cell", 5, "by_promise.0.cells.0: 5"),
    (PlanResult, PLAN, "day.needed", [1, 2], "rate_rps has 6 entries, needed 2"),
    (PlanResult, PLAN, "day.slot_s", 0, "day.slot_s: "),
    (PlanResult, PLAN, "break_even.0.batch", [1, 2], "batch has 2 entries, tps_without 9"),
    (PlanResult, PLAN, "break_even.0.batch.0", 0, "break_even.0.batch.0: "),
    (PlanResult, PLAN, "price.gpu_hour", "2.5", "price.gpu_hour: "),
    (Comparison, COMPARISON, "name", "", "name: "),
    (Comparison, COMPARISON, "ok", False, "ok is false, and its rows are not"),
    (Comparison, COMPARISON, "points.0.difference", "far", "points.0.difference: "),
    (Comparison, COMPARISON, "points.0.difference", -0.01, "difference is -0.01, and that of the numbers beside it -0.1"),
    (Comparison, COMPARISON, "points.0.difference", None, "difference is nothing, and that"),
    (Comparison, COMPARISON, "rows.0.simulated", 1.5, "difference is 0.02, and that of the numbers beside it 0.5"),
    (Comparison, COMPARISON, "fits", {"": {}}, "fits"),
]  # fmt: skip


def changed(content: Any, path: str, value: Any) -> Any:
    """The same with another value at a dotted path."""
    whole = deepcopy(content)
    *way, last = path.split(".")
    at = whole
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[int(last) if isinstance(at, list) else last] = value
    return whole


@pytest.mark.parametrize(("kind", "content", "path", "value", "problem"), CASES, ids=[f"{c[0].__name__} {c[2]} {str(c[3])[:20]}" for c in CASES])
def test_what_contradicts_itself_is_one_line(kind: type[Record], content: Any, path: str, value: Any, problem: str) -> None:
    kind.from_json(content)
    with pytest.raises(DsimError, match=problem) as caught:
        kind.from_json(changed(content, path, value), "f.json")
    line = str(caught.value)
    assert line.startswith("f.json: ")
    assert len(line) < 600


def test_a_file_of_another_dsim_says_which(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(RUN | {"dsim_version": "0.0.9", "frontier": {}}))
    with pytest.raises(DsimError, match=r"frontier: made by dsim '0\.0\.9', this is .*; make it again with this version of dsim"):
        read_either(tmp_path)


def test_a_launch_from_a_stranger_stays_in_its_folder(world: Path, dsim: Dsim) -> None:
    hostile = changed(RUN, "launch.engines.0.files", {"../../outside.json": "x"})
    (world / "result.json").write_text(json.dumps(hostile))
    before = sorted(world.rglob("*"))
    refused = dsim("export", "launch", "result.json", "--out", "a/b")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
    assert sorted(world.rglob("*")) == before


@pytest.mark.parametrize("numbers", [(5e-324, 1e-320), (1e15, -1e15), (1e15, 1e15 - 0.125), (0.0, 0.0)])
def test_numbers_of_any_size_are_drawn(numbers: tuple[float, float]) -> None:
    content = deepcopy(RUN)
    for place, point in enumerate(content["frontier"]):
        for metric in ("tps_per_user_mean", "throughput_tok_s_gpu"):
            point["metrics"][metric] = {"mean": numbers[place % 2], "low": None, "high": None}
    result = RunResult.from_json(content)
    assert frontier(result, 80, False)
    assert pareto(result).axes


def test_intervals_too_small_to_square_are_compared() -> None:
    """Welch's degrees of freedom take the fourth power of the errors."""
    tiny = difference(Estimate(1.0, 1.0 - 1e-90, 1.0 + 1e-90), Estimate(1e-200, 0.5e-200, 1.5e-200), 5, 5)
    assert (tiny.difference, tiny.distinguishable) == (-1.0, True)


def test_batches_of_one_setting_need_not_be_those_of_another() -> None:
    """Each number stands under its own batch size."""
    content = deepcopy(PLAN)
    content["break_even"][1] |= {"batch": [1, 3], "tps_without": [9.0, 9.0]}
    content["break_even"][1]["curves"] = [{"acceptance": 1.0, "best_length": [2, 4], "gain": [0.5, 0.25], "stops_at": None}]
    made = break_even(PlanResult.from_json(content))
    assert made is not None
    titles = [column.title for column in made.columns]
    shown = dict(zip(titles, (cell.text for cell in made.groups[1].rows[0]), strict=True))
    assert (shown["1"], shown["2"], shown["3"]) == ("k = 2", "", "k = 4")


REQUESTS = {"request": [0, 1], "arrival_s": [0.0, 0.5], "first_token_s": [0.1, 0.6], "finish_s": [1.0, 1.5], "prompt_tokens": [5, 5],
            "output_tokens": [9, 9], "domain": ["a", "a"]}  # fmt: skip
STEPS = {"start_s": [0.1, 0.6], "end_s": [0.5, 1.5], "requests": [1, 2], "verified": [1, 2], "accepted": [1, 1], "committed": [2, 3],
         "overhead_s": [0.0, 0.0], "prefill_tokens": [0, 0], "context_tokens": [10, 20]}  # fmt: skip
FACTS = {"policy": "p", "concurrency": 2, "prompt_numbers": [0, 1]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r, s, f: f.update(concurrency=0), "run.json: concurrency: "),
        (lambda r, s, f: f.update(concurrency="2"), "run.json: concurrency: "),
        (lambda r, s, f: f.update(concurrency=10**9), "run.json: concurrency: "),
        (lambda r, s, f: f.update(concurrency=3), "2 requests at 3 a time"),
        (lambda r, s, f: f.pop("policy"), "run.json: policy: "),
        (lambda r, s, f: f.update(policy="other"), "a run of policy 'other'"),
        (lambda r, s, f: f.update(machine=[1]), "run.json: machine: "),
        (lambda r, s, f: f.update(prompt_numbers=[0]), "prompt_numbers has another length"),
        (lambda r, s, f: r.pop("domain"), "requests.csv: domain: column is missing"),
        (lambda r, s, f: r.update(request=[0, 0]), "request: expected every number from 0 on"),
        (lambda r, s, f: r.update(finish_s=[1.0, 0.55]), "finish_s: is before the first token, row 2"),
        (lambda r, s, f: r.update(first_token_s=[0.1, 0.2]), "first_token_s: is before the arrival, row 2"),
        (lambda r, s, f: r.update(output_tokens=[9, 9.5]), "output_tokens: expected a whole number"),
        (lambda r, s, f: r.update(prompt_tokens=[5, 1e18]), "prompt_tokens: expected a whole number of at most"),
        (lambda r, s, f: r.update(arrival_s=[0.0, "x"]), "requests.csv.*arrival_s"),
        (lambda r, s, f: s.update(end_s=[0.5, 0.6]), "end_s: is not after the start, row 2"),
        (lambda r, s, f: s.update(requests=[1, 3]), "requests: more than the 2 that the engine holds, row 2"),
        (lambda r, s, f: s.update(accepted=[2, 1]), "accepted: more than were verified, row 1"),
        (lambda r, s, f: s.pop("committed"), "steps.csv: committed: column is missing"),
    ],
)
def test_a_run_of_an_engine_fits_together(change: Callable[..., Any], problem: str, tmp_path: Path) -> None:
    class Policy:
        name = "p"

    tables: list[dict[str, Any]] = [deepcopy(REQUESTS), deepcopy(STEPS), deepcopy(FACTS)]

    def written() -> None:
        for name, table in zip(("requests", "steps"), tables, strict=False):
            pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
        (tmp_path / "run.json").write_text(json.dumps(tables[2]))

    written()
    assert len(read_run(tmp_path, [Policy()]).requests) == 2  # type: ignore[list-item]
    change(*tables)
    written()
    with pytest.raises(DsimError, match=problem):
        read_run(tmp_path, [Policy()])  # type: ignore[list-item]
