"""Plans whose requests are of several classes: each is judged by its own promise."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.engine.records import RequestRecord
from simulator.errors import ScenarioError
from simulator.study.planning.judge import judge
from simulator.study.planning.make import answer
from simulator.study.planning.question import Plan
from simulator.study.planning.sla import Sla
from simulator.study.planning.trial import TrialRow, limits_used
from simulator.traffic.impatience import RequestClass, Senders
from simulator.traffic.request import Ending

Make = Callable[..., Plan]
SMALL: dict[str, Any] = {
    "policies": [{"name": "plain", "verification": {"kind": "none"}}],
    "settings": [{"max_batch": 8, "prefill": {"kind": "chunked"}}],
    "load_rps": 30.0,
    "run": {"warmup_s": 1.0, "window_s": 8.0, "replications": 3},
}
LENGTHS = {"arrivals": {"kind": "poisson"}, "prompt_tokens": {"kind": "fixed", "tokens": 500}, "output_tokens": {"kind": "fixed", "tokens": 20}}


@pytest.fixture(autouse=True)
def _prompts_cost_time(edit_profile: Callable[..., None], sketched: None) -> None:
    edit_profile(lambda profile: profile["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.01, "per_token_s": 1e-4}))


def workload(**classes: Any) -> dict[str, Any]:
    return LENGTHS | {"classes": classes}


def one(share: float, **sla: float) -> RequestClass:
    return RequestClass.model_validate({"share": share, "sla": sla})


def test_each_request_counts_by_the_limit_that_it_comes_nearest_to() -> None:
    """Of 0.5 s to the first token and 0.1 s for each further one: 0.4 s and 0.05 s use 0.8; 0.1 s and 0.2 s use 2. Who stops was answered."""
    fields = RequestRecord._fields
    row = dict.fromkeys(fields, 0.0) | {"measured": 1, "output_tokens": 11, "ended_s": nan}
    rows = [
        row | {"first_token_s": 0.4, "finish_s": 0.9},
        row | {"first_token_s": 0.1, "finish_s": 2.1},
        row | {"first_token_s": 0.45, "finish_s": nan, "ending": Ending.STOPPED, "ended_s": 0.5, "emitted_tokens": 3},
        row | {"first_token_s": nan, "finish_s": nan, "ending": Ending.LEFT, "ended_s": 9.0},
    ]
    table = np.array([[each[name] for name in fields] for each in rows])
    senders = Senders(None, {"chat": one(1, ttft_s=0.5, tpot_s=0.1)}, 0, 0)
    assert [limits_used(table, senders, share)["chat"] for share in (0.1, 0.3, 0.6, 0.9)] == [0.8, 0.9, pytest.approx(2.0), None]
    assert limits_used(table[:0], senders, 0.9) == {"chat": 0.0}
    rare = Senders(None, {"chat": one(1e6, e2e_s=1), "rare": one(1e-6, ttft_s=1e-3)}, 0, 0)
    assert limits_used(table[:2], rare, 0.6) == {"chat": pytest.approx(2.1), "rare": 0.0}


@pytest.mark.parametrize("used, says", [({"a": 0.9, "b": 0.95}, "kept"), ({"a": 0.1, "b": 1.05}, "broken"), ({"a": None, "b": 0.1}, "broken")])
def test_one_broken_class_breaks_the_sla(used: dict[str, float | None], says: str) -> None:
    rows = [TrialRow(replicas=1, load=1.0, replication=k, verdict="backlogged", numbers={}, limits_used=used) for k in range(3)]
    sla = Sla()
    sla._classes = {"a": one(1, e2e_s=1).sla, "b": one(1, tpot_s=1).sla}
    assert judge(rows, sla) == says
    sla._classes = {"a": one(1, tpot_s=1).sla}  # nothing would notice the queue
    assert judge(rows, sla) == "broken"


def test_a_class_alone_is_planned_as_its_promise_for_all(make: Make) -> None:
    """One class with a TTFT needs the fleet of a plan with that TTFT. Where both of two classes may wait longer, less does;
    a class that is promised what no replica has is named."""
    strict = {"share": 1, "sla": {"ttft_s": 0.15}}
    alike = make(**SMALL, workload=LENGTHS, sla={"ttft": {"seconds": 0.15, "share": 0.95}})
    alone = make(**SMALL, workload=workload(chat=strict), sla={"class_share": 0.95})
    found = [answer(plan, workers=1) for plan in (alike, alone)]
    assert [result.chosen.replicas for result in found] == [found[0].chosen.replicas] * 2
    assert found[0].chosen.carried_rps == found[1].chosen.carried_rps
    assert "plain on" in found[1].answer[0]
    assert "meets the SLA of each class (chat: TTFT at most 0.15 s) for 95 % of its requests at 30 requests per second" in found[1].answer[0]
    loose, batch = {"share": 1, "sla": {"ttft_s": 1}}, {"share": 1, "sla": {"e2e_s": 30}}
    mixed = answer(make(**SMALL, workload=workload(chat=loose, batch=batch), sla={"class_share": 0.95}), workers=1)
    assert (mixed.chosen.replicas or 0) < (found[1].chosen.replicas or 0)
    assert "of batch requests keep their SLA" in mixed.answer[-1]
    with pytest.raises(ScenarioError) as refused:
        answer(make(**SMALL, workload=workload(chat=strict, batch=batch | {"sla": {"tpot_s": 0.001}}), sla={"class_share": 0.95}), workers=1)
    assert "workload.classes.batch.sla: no fleet meets the SLA" in str(refused.value)
    assert "90 %" not in str(refused.value)


@pytest.mark.parametrize("sla, seconds", [({"e2e_s": 600}, 600), ({"ttft_s": 5, "tpot_s": 2}, 5 + 2 * 20), ({"ttft_s": 0.1}, 30)])
def test_a_trial_goes_on_for_as_long_as_a_class_is_promised(sla: dict[str, float], seconds: float, make: Make) -> None:
    classes = {"chat": {"share": 1, "sla": sla}, "other": {"share": 1, "sla": {"ttft_s": 1}}}
    assert make(**SMALL, workload=workload(**classes), sla={"class_share": 0.95}).drain_s == pytest.approx(seconds)


def test_a_trial_goes_on_for_the_promised_first_token_and_the_longest_answer(make: Make) -> None:
    plan = make(**SMALL, workload=LENGTHS, sla={"ttft": {"seconds": 60}})
    assert plan.drain_s == pytest.approx(60 + 1.2 * plan.answers_s[1])
    assert make(**SMALL, workload=LENGTHS, sla={"speed": {"tps": 0.5}, "ttft": {"seconds": 60}}).drain_s == pytest.approx(60 + 1.2 * 20 / 0.5)


@pytest.mark.parametrize("changes, says", [
    ({"sla": {}, "workload": LENGTHS}, "sla: expected speed, ttft or both, got neither; or workload.classes"),
    ({"sla": {"ttft": {"seconds": 1}, "class_share": 0.9}, "workload": LENGTHS}, "sla.class_share is promised, but there are no workload.classes"),
    ({"sla": {"class_share": 1.5}}, "sla.class_share"),
    ({"sla": {}, "workload": workload(chat={"share": 1})}, "workload.classes.chat.sla: required key is missing"),
])  # fmt: skip
def test_mistakes_are_one_line(changes: Any, says: str, dsim: Any, plan_file: Callable[..., Path]) -> None:
    said = dsim("plan", plan_file(**SMALL | changes), "--out", "out")
    assert (said.code, says in said.err, said.err.count("\n")) == (2, True, 1), said.err
