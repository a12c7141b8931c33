"""Goodput: requests that keep every limit, each on its own, counted by hand and through a scenario, a plan and a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from simulator.engine.simulate import OpenTraffic
from simulator.study.planning.sla import Sla
from simulator.study.run.meter import RunMetrics, summarise
from simulator.traffic.goodput import Goodput
from simulator.traffic.request import Request, RequestSpec
from tests.conftest import SCENARIO, Content, Dsim
from tests.engine.worlds import PLAIN, Users, costs, fleet
from tests.study.test_metrics import made, request, steps

REQUESTS = [
    request(0, 0.0, 0.5, 1.5, 11),  # keeps all: TTFT 0.5 s, TPOT 0.1 s, E2E 1.5 s
    request(1, 0.0, 2.0, 3.0, 11),  # late first token
    request(2, 0.0, 0.5, 4.5, 11),  # slow: TPOT 0.4 s
    request(3, 0.0, 0.5, 0.5, 1),  # one token has no time per further token
    request(4, 0.0, 0.5, 1.5, 11, measured=False),
    Request(RequestSpec(5, 0.0, 1, 9, ""), measured=True),  # never answered
]


def of(goodput: Goodput | None, open_loop: bool = True) -> RunMetrics:
    run = made(REQUESTS, steps({"end_s": 1.0}), 4.0, unfinished=1)
    return summarise(run, 2.0, 1, True, open_loop, goodput)


@pytest.mark.parametrize("limits, kept", [
    ({"ttft_s": 1.0}, 3),
    ({"tpot_s": 0.2}, 3),
    ({"e2e_s": 2.0}, 2),
    ({"ttft_s": 1.0, "tpot_s": 0.2}, 2),  # by two shares of 3 in 5 it would be anything from 1 to 3
])  # fmt: skip
def test_a_request_is_good_if_it_keeps_every_limit(limits: dict[str, float], kept: int) -> None:
    row = of(Goodput(**limits))
    assert row["goodput_share"] == kept / 5  # who was never answered keeps nothing, who is not measured does not count
    assert (row["goodput_rps"], row["goodput_rps_gpu"]) == (kept / 4, kept / 8)
    closed = of(Goodput(**limits), open_loop=False)
    assert closed["goodput_rps"] == pytest.approx(kept / 5 * 4 / 4)  # four end in the window of 4 s, the last one at 4.5 s does not


def test_without_limits_there_is_no_goodput() -> None:
    row = of(None)
    assert [row[name] for name in ("goodput_share", "goodput_rps", "goodput_rps_gpu")] == [None] * 3


def test_limits_that_all_keep_and_that_none_keeps() -> None:
    """20 users, answers of 10 tokens, steps of 20 ms: everybody finishes, 1 / (10 × 20 ms) a second each."""
    run = PLAIN.closed(Users(20, lambda _u, _t: 11), 40, fleet(costs(0.02)))
    row = summarise(run, 1.0, 1, False, False, Goodput(tpot_s=0.0201))
    assert row["goodput_share"] == 1.0
    assert row["goodput_rps"] == pytest.approx(20 / 0.2, rel=0.02)
    assert summarise(run, 1.0, 1, False, False, Goodput(tpot_s=0.0199))["goodput_rps"] == 0


def test_open_loop_goodput_is_the_rate_of_good_requests() -> None:
    """One slot, 1 s an answer, arrivals at 0, 0, 2, 2, …: every second one waits for the one before."""
    specs = [RequestSpec(i, float(i // 2 * 2), 1, 11, "") for i in range(40)]
    run = PLAIN.run(OpenTraffic(specs, 0.0, 40.0, 100.0), fleet(costs(0.1), max_batch=1))
    assert summarise(run, 1.0, 1, True, True, Goodput(ttft_s=0.5))["goodput_rps"] == pytest.approx(0.5)
    assert summarise(run, 1.0, 1, True, True, Goodput(e2e_s=2.5))["goodput_rps"] == pytest.approx(1.0)


@pytest.mark.parametrize("content, wrong", [
    ({}, "expected at least one of ttft_s, tpot_s, e2e_s"),
    ({"ttft_s": 0}, "sla.goodput.ttft_s"),
    ({"ttft_ms": 500}, "did you mean 'ttft_s'"),
    ({"ttft_s": 1}, "leaves prompts out"),
    ({"tpot_s": 0.1, "e2e_s": 9}, "leaves prompts out"),
])  # fmt: skip
def test_mistakes_are_one_line(scenario: Callable[..., Path], dsim: Dsim, content: Content, wrong: str) -> None:
    told = dsim("run", scenario(sla={"goodput": content}), "--out", "out")
    assert (told.code, wrong in told.err, told.err.count("\n")) == (2, True, 1), told.err
    assert not Path("out").exists()


def test_a_run_reports_goodput_with_its_interval_and_compare_lists_it(scenario: Callable[..., Path], dsim: Dsim) -> None:
    for out, limit in (("a", 0.0115), ("b", 0.013)):
        path = scenario(sla={"goodput": {"tpot_s": limit}}, policies=SCENARIO["policies"][:1])
        assert dsim("run", path, "--out", out).code == 0
    rows = pd.read_csv("a/points.csv")
    assert dict(zip(rows["load"], rows["goodput_rps_gpu"] > 0, strict=True)) == {2.0: True, 6.0: False}  # 11.2 and 11.6 ms a step
    point = json.loads(Path("b/result.json").read_text())["frontier"][1]["metrics"]
    assert point["goodput_share"]["mean"] == 1.0
    assert point["goodput_rps"]["low"] <= point["goodput_rps"]["mean"] <= point["goodput_rps"]["high"]
    assert "requests within the SLA" in Path("a/report.md").read_text()
    assert "TPOT at most 11.5 ms" in Path("a/report.md").read_text()
    assert "goodput" in dsim("compare", "a", "b").out


def test_a_plan_judges_requests_by_its_own_sla() -> None:
    sla: Any = Sla.model_validate({"speed": {"tps": 40}, "ttft": {"seconds": 2}})
    assert sla.goodput == Goodput(ttft_s=2.0, tpot_s=0.025)
    assert Sla.model_validate({"speed": {"tps": 40}}).goodput == Goodput(tpot_s=0.025)
