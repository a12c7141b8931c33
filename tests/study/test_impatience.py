"""Users who leave and classes of requests, from a scenario and a plan to their columns; what nobody can mean is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from simulator.engine.records import RequestRecord
from simulator.study.planning.sla import Sla
from simulator.study.planning.trial import promised
from simulator.traffic.request import Ending
from tests.conftest import SCENARIO, Content, Dsim

OPEN: Content = SCENARIO["workload"] | {"arrivals": {"kind": "poisson"}}
CHUNKED: Content = {"prefill": {"kind": "chunked"}, "max_batch": 2}
RUN: Content = {"replications": 2, "warmup_s": 2, "duration_s": 20}
TWO: Content = {"chat": {"share": 3, "sla": {"ttft_s": 0.3}}, "batch": {"share": 1, "priority": 1, "sla": {"e2e_s": 60}}}


@pytest.fixture
def prompts(edit_profile: Callable[[Callable[[Content], Any]], None]) -> None:
    """Prompts have a price."""
    edit_profile(lambda c: c["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 1e-4}))


def workload(**more: Any) -> Content:
    return OPEN | more


@pytest.mark.parametrize("more, wrong", [
    ({"impatience": {"patience_s": -1}}, "workload.impatience.patience_s: expected seconds above 0"),
    ({"impatience": {"patience_s": 0}}, "workload.impatience.patience_s: expected seconds above 0"),
    ({"impatience": {"patience_s": {"kind": "uniform", "min_s": 5, "max_s": 2}}}, "expected max_s above min_s"),
    ({"impatience": {}}, "expected at least one of patience_s, stop_share, timeout"),
    ({"impatience": {"stop_share": 1.5}}, "workload.impatience.stop_share: expected a number of at most 1"),
    ({"impatience": {"timeout": {"seconds": 0}}}, "workload.impatience.timeout.seconds: expected a number above 0"),
    ({"impatience": {"timeout": {"seconds": 1, "retries": -1}}}, "workload.impatience.timeout.retries: expected a number of at least 0"),
    ({"impatience": {"timeout": {"seconds": 1, "until": "ever"}}}, "workload.impatience.timeout.until"),
    ({"classes": {"chat": {"share": 1}}}, "workload.classes.chat.sla: required key is missing"),
    ({"classes": {"chat": {"share": 1, "sla": {}}}}, "expected at least one of ttft_s, tpot_s, e2e_s"),
    ({"classes": {"chat": {"share": 0, "sla": {"tpot_s": 1}}}}, "workload.classes.chat.share: expected a number above 0"),
    ({"classes": {"chat": {"share": 1, "sla": {"ttft_s": 1}}}}, "workload.classes.chat.sla: expected tpot_s alone"),
    ({"arrivals": {"kind": "benchmark", "client": "vllm", "num_prompts": 9}, "impatience": {"stop_share": 1}}, "waits for every answer"),
])  # fmt: skip
def test_mistakes_are_one_line(scenario: Callable[..., Path], dsim: Dsim, more: Content, wrong: str) -> None:
    said = dsim("run", scenario(workload=workload(**more), run=RUN, load=[2]), "--out", "out")
    assert (said.code, wrong in said.err, said.err.count("\n")) == (2, True, 1), said.err
    assert not Path("out").exists()


@pytest.mark.usefixtures("prompts")
@pytest.mark.parametrize("changes, wrong", [
    ({"sla": {"goodput": {"ttft_s": 1}}}, "sla.goodput: each of workload.classes has a promise of its own"),
    ({"workload": OPEN, "engine": CHUNKED | {"admission": {"kind": "priority"}}}, "engine.admission: needs workload.classes"),
])  # fmt: skip
def test_promises_and_priorities_have_one_place(scenario: Callable[..., Path], dsim: Dsim, changes: Content, wrong: str) -> None:
    content = {"workload": workload(classes=TWO), "engine": CHUNKED, "run": RUN, "load": [2]} | changes
    said = dsim("run", scenario(**content), "--out", "out")
    assert (said.code, wrong in said.err, said.err.count("\n")) == (2, True, 1), said.err


@pytest.mark.usefixtures("prompts")
def test_a_run_says_how_requests_ended_and_every_request_is_counted_once(scenario: Callable[..., Path], dsim: Dsim) -> None:
    impatience = {"patience_s": 0.6, "stop_share": 0.2, "timeout": {"seconds": 0.15, "retries": 1, "backoff_s": 0.05}}
    content = {"workload": workload(impatience=impatience, classes=TWO), "engine": CHUNKED | {"admission": {"kind": "priority"}}, "run": RUN}
    path = scenario(policies=SCENARIO["policies"][:2], load=[12], **content)
    assert dsim("run", path, "--out", "a", "--requests").code == 0
    rows = pd.read_csv("a/points.csv")
    assert (rows[["left", "stopped", "timed_out", "retries"]] > 0).all().all()
    requests = pd.concat(map(pd.read_parquet, Path("a").rglob("*requests*.parquet")))
    first = requests[(requests["policy"] == "plain") & (requests["replication"] == 0) & requests["measured"]]
    counts = first["ending"].value_counts()
    row = rows.iloc[0]
    for name in ("left", "stopped", "timed_out"):
        assert counts[name] == row[name]
    assert len(first) == row[["requests", "left", "stopped", "timed_out", "unfinished", "rejected"]].sum()
    assert row["goodput_rps"] == pytest.approx(row["goodput_share"] * len(first) / 20)
    whole = first[first["ending"] == "none"]
    assert row["ttft_p50_s"] == pytest.approx(np.quantile(whole["ttft_s"], 0.5))
    (batch, chat) = json.loads(Path("a/result.json").read_text())["frontier"][0]["classes"]
    assert chat["requests"] + batch["requests"] == len(requests[(requests["policy"] == "plain") & requests["measured"]])
    assert (chat["goodput_rps"] + batch["goodput_rps"]) == pytest.approx(rows["goodput_rps"][:2].mean())
    assert 2 < chat["requests"] / batch["requests"] < 4.5
    report = Path("a/report.md").read_text()
    assert "users leave before the end, which is played in Python" in report
    assert "Of requests within the SLA of their class, " in report
    assert "By class: batch, E2E at most 60 s; chat, TTFT at most 0.3 s." in report
    assert dsim("run", path, "--out", "b").code == 0
    assert Path("b/points.csv").read_bytes() == Path("a/points.csv").read_bytes()


@pytest.mark.usefixtures("prompts")
def test_classes_alone_change_no_number_but_goodput_and_stay_compiled(scenario: Callable[..., Path], dsim: Dsim) -> None:
    for out, more in (("a", {}), ("b", {"classes": TWO})):
        said = dsim("run", scenario(workload=workload(**more), engine=CHUNKED, run=RUN, load=[4], policies=SCENARIO["policies"][:1]), "--out", out)
        assert said.code == 0, said.err
    a, b = pd.read_csv("a/points.csv"), pd.read_csv("b/points.csv")
    goodput = ["goodput_rps", "goodput_rps_gpu", "goodput_share"]
    assert b[goodput].notna().all().all()
    pd.testing.assert_frame_equal(a.drop(columns=goodput), b.drop(columns=goodput))
    assert a[["left", "stopped", "timed_out", "retries"]].isna().all().all()
    assert "Engine: compiled." in Path("b/report.md").read_text()
    assert "Priorities of classes have no effect" in Path("b/report.md").read_text()


@pytest.mark.usefixtures("prompts")
def test_the_interactive_class_gains_by_priority(scenario: Callable[..., Path], dsim: Dsim) -> None:
    good = {}
    for kind in ("first_come", "priority"):
        content = {"workload": workload(classes=TWO), "engine": CHUNKED | {"admission": {"kind": kind}}, "run": RUN}
        assert dsim("run", scenario(load=[8], policies=SCENARIO["policies"][:1], **content), "--out", kind).code == 0
        good[kind] = json.loads(Path(kind, "result.json").read_text())["frontier"][0]["classes"][1]["goodput_rps"]
    assert good["priority"] > 1.2 * good["first_come"]


@pytest.mark.usefixtures("prompts")
def test_a_plan_has_goodput_by_class_and_counts_who_left(world: Path, dsim: Dsim) -> None:
    content = {
        "name": "small", "profiles": ["tiny"], "policies": SCENARIO["policies"][:1], "settings": [{"max_batch": 4, "prefill": {"kind": "chunked"}}],
        "workload": workload(classes=TWO, impatience={"patience_s": 5, "stop_share": 0.1}), "load_rps": 20.0, "sla": {"speed": {"tps": 20}},
        "price": {"gpu_hour": 2.0}, "fleet": {"max_replicas": 6}, "run": {"warmup_s": 2.0, "window_s": 10.0, "replications": 3}, "what_if": False,
    }  # fmt: skip
    (world / "plan.yaml").write_text(yaml.safe_dump(content))
    said = dsim("plan", "plan.yaml", "--out", "p", "--workers", 1)
    assert said.code == 0, said.err
    result = json.loads(Path("p/result.json").read_text())
    choice = result["cells"][result["best"]]
    fleet = next(point for point in choice["points"] if point["replicas"] == choice["replicas_needed"])
    metrics, classes = fleet["metrics"], fleet["classes"]
    assert [one["name"] for one in classes] == ["batch", "chat"]
    assert sum(one["goodput_rps"] for one in classes) == pytest.approx(metrics["goodput_rps"]["mean"])
    assert sum(one["stopped"] for one in classes) == pytest.approx(metrics["stopped"]["mean"] * fleet["n"])
    assert metrics["stopped"]["mean"] > 0
    assert "chat, TTFT at most 0.3 s" in Path("p/report.md").read_text()


def test_a_stopped_answer_is_judged_by_what_there_was_and_who_left_was_never_answered() -> None:
    """Ten tokens a second: stopped after 5 of 50, whole, and nobody's."""
    fields = RequestRecord._fields
    row = dict.fromkeys(fields, 0.0) | {"measured": 1, "arrival_s": 0.0, "first_token_s": 1.0, "output_tokens": 50, "ended_s": np.nan}
    rows = [
        row | {"finish_s": np.nan, "ending": Ending.STOPPED, "ended_s": 1.4, "emitted_tokens": 5},
        row | {"finish_s": 5.9, "emitted_tokens": 50},
        row | {"finish_s": np.nan, "first_token_s": np.nan, "ending": Ending.LEFT, "ended_s": 3.0},
    ]
    table = np.array([[one[name] for name in fields] for one in rows], dtype=np.float64)
    kept = promised(table, Sla.model_validate({"speed": {"tps": 9}, "ttft": {"seconds": 2}}))
    assert (kept["speed_kept"], kept["ttft_kept"]) == pytest.approx((2 / 3, 2 / 3))
