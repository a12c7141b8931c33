"""Simulator against engine, with the simulator in the engine's place: no error where there is none, and its cause where one is put in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from simulator.engine.simulate import ClosedTraffic, OpenTraffic, simulate
from simulator.errors import DsimError, ScenarioError
from simulator.report.render.markdown import markdown
from simulator.report.render.terminal import terminal
from simulator.report.validation.engine import engine_page, write_picture
from simulator.report.validation.page import Entry, cell_errors, page
from simulator.study.run.fleet import fleet_of
from simulator.study.run.scenario import load_scenario, validate_scenario
from simulator.study.validation.engine_check import _frames, compare, judged
from simulator.study.validation.engine_runs import HEADLINE, Listed, RunFacts, ServedRun, planned, read_run, window_of
from simulator.traffic.request import RequestSpec

from ..conftest import ROOT

POLICIES = [
    {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
    {"name": "scheduled", "drafter": "dspark", "verification": {"kind": "confidence_scheduled"}},
]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    asked = {
        "name": "check", "profile": str(ROOT / "profiles" / "deepseek-v4-flash"), "policies": POLICIES, "load": [4, 16],
        "engine": {"prefill": {"kind": "separate"}},
        "workload": {"arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 64},
                     "output_tokens": {"kind": "fixed", "tokens": 200}, "domains": {"chat": 1}},
        "run": {"replications": 1, "requests": 8},
    }  # fmt: skip
    file = tmp_path_factory.mktemp("scenario") / "check.yaml"
    file.write_text(yaml.safe_dump(asked))
    return load_scenario(file, [])


def served(scenario, policy, concurrency, requests=120, rate=None):
    """What an engine that is exactly as the profile says would have written."""
    luck = np.random.default_rng(7)
    specs = [RequestSpec(i, 0.0, int(luck.integers(20, 90)), int(luck.integers(150, 400)), "chat") for i in range(requests)]
    if rate is not None:
        specs = [replace(spec, arrival_s=at) for spec, at in zip(specs, np.cumsum(luck.exponential(1 / rate, requests)).tolist(), strict=True)]
    settings = scenario.engine.model_copy(update={"max_batch": concurrency})
    fleet = fleet_of(scenario.model_copy(update={"engine": settings}), policy, 99)  # luck that no replication of the comparison has
    turns = -(-requests // concurrency)
    traffic = ClosedTraffic(concurrency, Listed(specs), turns, np.ones(concurrency)) if rate is None else OpenTraffic(specs, 0.0, 1e9, 1e9)
    return ServedRun(policy, concurrency, rate is not None, *_frames(simulate(traffic, fleet), requests))


@pytest.fixture(scope="module")
def runs(scenario):
    return [served(scenario, policy, r) for policy in scenario.policies for r in (4, 16)]


def test_an_engine_that_is_as_the_profile_says_shows_only_the_luck_of_texts(scenario, runs):
    found = compare(scenario, runs, replications=4)
    for row in found.runs:
        luck = row.simulated_std["accepted_length"] / row.measured["accepted_length"]
        assert abs(row.error["accepted_length"]) < 4 * max(luck, 0.003)
        assert abs(row.error["throughput_tok_s"]) < 0.04
        assert row.why.cost_model == pytest.approx(0, abs=1e-9)
        assert row.why.step_noise == pytest.approx(0, abs=1e-9)
    assert found.ranking.pairs == 2
    assert found.ranking.share == 1.0


def slower(run, factor):
    """The same run with every second lasting longer."""
    stamps = {"requests": ("arrival_s", "first_token_s", "finish_s"), "steps": ("start_s", "end_s", "overhead_s")}
    frames = {name: getattr(run, name).assign(**{c: getattr(run, name)[c] * factor for c in columns}) for name, columns in stamps.items()}
    return replace(run, **frames)


def test_a_wrong_cost_model_is_named(scenario, runs):
    row = compare(scenario, [slower(runs[1], 1.25)], replications=2).runs[0]
    assert row.why.cost_model == pytest.approx(0.25, abs=1e-6)
    assert row.error["throughput_tok_s"] == pytest.approx(0.25, abs=0.05)
    assert abs(row.why.rest) < 0.05
    assert row.error_at_measured_pace["throughput_tok_s"] == pytest.approx(0, abs=0.03)  # put right, nothing of it is left


def test_a_wrong_acceptance_is_named(scenario, runs):
    steps = runs[3].steps
    fewer = np.floor(steps["accepted"] * 0.5)
    worse = steps.assign(accepted=fewer, committed=steps["committed"] - (steps["accepted"] - fewer))
    row = compare(scenario, [replace(runs[3], steps=worse)], replications=2).runs[0]
    assert row.why.acceptance > 0.15
    assert row.why.cost_model == pytest.approx(0, abs=1e-9)


def test_measured_steps_that_captured_graphs_are_refused(scenario, runs):
    """Before the window they are the warm-up; inside they are stalls of 0.3 s that no simulation has."""
    start_s = window_of(runs[0]).start_s
    for which, refused in ((runs[0].steps["end_s"] < start_s, False), (runs[0].steps["end_s"] > start_s, True)):
        captured = replace(runs[0], steps=runs[0].steps.assign(captured_graphs=np.where(which & (which.cumsum() <= 2), 3, 0)))
        if refused:
            with pytest.raises(DsimError, match=r"at 4: 2 of \d+ measured steps captured CUDA graphs"):
                compare(scenario, [captured], replications=1)
        else:
            compare(scenario, [captured], replications=1)


def test_arrivals_in_time_are_simulated_as_they_came(scenario):
    run = served(scenario, scenario.policies[0], 16, requests=60, rate=1.5)
    row = compare(scenario, [run], replications=2).runs[0]
    assert row.open_loop
    assert row.error["tps_per_user_p50"] == pytest.approx(0, abs=0.03)
    assert row.error["ttft_p50_s"] == pytest.approx(0, abs=0.25)


def test_runs_are_read_from_folders_and_shown(scenario, runs, tmp_path):
    folders = []
    for number, run in enumerate(runs):
        folder = tmp_path / str(number)
        folder.mkdir()
        run.requests.to_csv(folder / "requests.csv", index=False)
        run.steps.to_csv(folder / "steps.csv", index=False)
        (folder / "run.json").write_text(json.dumps({"policy": run.policy.name, "concurrency": run.concurrency, "open_loop": False}))
        folders.append(folder)
    read = [read_run(folder, scenario.policies) for folder in folders]
    pd.testing.assert_frame_equal(read[2].requests, runs[2].requests, check_dtype=False)
    found = compare(scenario, read, replications=2)
    about = RunFacts.model_validate(
        {"policy": "", "concurrency": 1, "machine": {"device": "a machine"}, "asked": {"load": {"max_tokens": 40, "temperature": 0}}}
    )
    found = judged(scenario, found, "dsim validate", about)
    assert found.ok == all(row.ok for row in found.rows)
    assert {row.what: row.limit for row in found.rows}["throughput: worst error"] == 0.12
    written = markdown(page([Entry(found)], ""))
    assert "## deepseek-v4-flash-engine" in written
    assert "throughput (simulated / measured, difference)" in written
    assert len(cell_errors(found)) == 2 * len(found.runs)
    table = terminal(engine_page(found, "check"))
    runs = [row for row in found.runs if row.policy == "MTP-1"]
    assert table.count("MTP-1") == 1
    assert all(f"{row.simulated[n]:.4g} / {row.measured[n]:.4g}" in table for row in runs for n in HEADLINE)
    assert "median error" in table
    write_picture(found, tmp_path / "picture.png", "check")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    (folders[0] / "run.json").unlink()
    with pytest.raises(DsimError, match=r"run\.json: no such file"):
        read_run(folders[0], scenario.policies)


def test_what_no_engine_can_run_is_refused(scenario):
    assert planned(scenario)[0][0] == "MTP-1"
    assert len(planned(scenario)) == 4
    bound = load_with(scenario, [{"name": "oracle", "drafter": "dspark", "verification": {"kind": "oracle"}}])
    with pytest.raises(ScenarioError, match="no engine can run"):
        planned(bound)
    content = yaml.safe_load(scenario.file.read_text())
    content["workload"]["arrivals"]["think_s"] = 3
    with pytest.raises(ScenarioError, match=r"think_s: users of an engine that is compared send the next request at once; drop it"):
        planned(validate_scenario(content, scenario.file))


def load_with(scenario, policies):
    content = yaml.safe_load(scenario.file.read_text()) | {"policies": policies}
    file = scenario.file.with_name("other.yaml")
    file.write_text(yaml.safe_dump(content))
    return load_scenario(file, [])


def test_a_run_that_the_profile_cannot_have_made_is_refused(scenario, runs):
    elsewhere = replace(runs[0], requests=runs[0].requests.assign(domain="elsewhere"))
    with pytest.raises(DsimError, match="drafter 'mtp' has no recorded blocks of domain 'elsewhere', which a run has"):
        compare(scenario, [elsewhere], replications=1)
    longer = replace(runs[0], steps=runs[0].steps.assign(verified=10**6))
    with pytest.raises(DsimError, match="that verified 1e\\+06 tokens, with blocks of 1"):
        compare(scenario, [longer], replications=1)
