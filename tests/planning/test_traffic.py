"""The peak is found where it is; ServeGen clients give the rates and lengths that they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from simulator.errors import ScenarioError, TraceError
from simulator.study.planning.finding import Search
from simulator.study.planning.question import Plan
from simulator.study.planning.telling import _of_traffic
from simulator.study.run.build import build_result
from simulator.study.run.point import arrivals
from simulator.study.run.scenario import load_scenario
from simulator.study.run.shape import shape_of
from simulator.study.run.sweep import bundle, sweep
from simulator.traffic.arrivals import RateCurve
from simulator.traffic.servegen import ServeGenSource
from simulator.traffic.workload import Workload
from tests.conftest import Content, Dsim

Make = Callable[..., Plan]


def measured(plan: Plan) -> int:
    specs = arrivals(plan.choices[0].scenario, plan.load, 0)
    return sum(plan.warmup_s <= s.arrival_s < plan.warmup_s + plan.window_s for s in specs)


def test_the_busiest_stretch_of_a_trace(make: Make, world: Path) -> None:
    """One request a second for 200 s, but ten a second from 120 to 130."""
    quiet = [float(t) for t in range(200) if not 120 <= t < 130]
    busy = [120 + k / 10 for k in range(100)]
    lines = [f"{t},50,20" for t in sorted(quiet + busy)]
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    rate = 290 / 199
    plan = make(workload={"trace": {"path": "trace.csv"}}, load_rps=rate, run={"warmup_s": 5.0, "window_s": 10.0})
    assert plan.load == pytest.approx(1.0)
    assert measured(plan) == 100
    twice = make(workload={"trace": {"path": "trace.csv"}}, load_rps=2 * rate, run={"warmup_s": 2.5, "window_s": 5.0})
    assert twice.load == pytest.approx(2.0)
    assert measured(twice) == 100


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5, 4.0])
def test_a_trace_is_measured_where_it_is_busiest_at_every_load(load: float, make: Make, world: Path) -> None:
    """One request a second for 400 s, three a second from 190, ten a second from 200 to 210: the window holds the ten seconds, whatever the speed."""
    times = [*range(190), *(190 + k / 3 for k in range(30)), *(200 + k / 10 for k in range(100)), *range(210, 401)]
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},50,20\n" for t in times))
    plan = make(workload={"trace": {"path": "trace.csv"}}, load_rps=len(times) / 400, run={"warmup_s": 5.0, "window_s": 10.0})
    at = arrivals(plan.at_load(plan.scenario(0, 1), load), load, 0).arrival_s * load
    inside = at[(at >= 5.0 * load) & (at < 15.0 * load)]
    every = np.array(times)
    assert len(inside) == max(np.searchsorted(every, every + 10 * load) - np.arange(len(every)))


def test_the_top_of_a_rate_curve(make: Make) -> None:
    workload = {
        "arrivals": {"kind": "rate_curve", "period_s": 1000, "points": [[0, 1], [400, 1], [500, 9], [600, 1]]},
        "prompt_tokens": {"kind": "fixed", "tokens": 10}, "output_tokens": {"kind": "fixed", "tokens": 20},
    }  # fmt: skip
    plan = make(workload=workload, load_rps=90.0, run={"warmup_s": 5.0, "window_s": 10.0})
    assert plan.shape.peak_rps == pytest.approx(90 * 9 / 1.8, rel=0.06)
    expected = 450 * 10 * 0.9  # nearly the top, through the window
    assert measured(plan) == pytest.approx(450 * 10, abs=450 * 10 - expected + 4 * math.sqrt(4500))


@pytest.mark.parametrize(
    ("curve", "window_s", "starts_s"),
    [
        ({"points": [[28800, 1], [50400, 4], [72000, 1]]}, 10, 50400 - 10),
        ({"points": [[28800, 1], [50400, 4], [72000, 1]], "time_scale": 24}, 10, 50400 - 24 * 10),
        ({"points": [[0, 3], [3600, 1]]}, 40, 0),
        ({"points": [[100, 1], [3700, 3]]}, 60, 3700 - 65),
    ],
)
def test_the_top_of_a_curve_that_does_not_repeat(curve: dict[str, Any], window_s: float, starts_s: float, make: Make) -> None:
    """The window lies about the top, to the width of a part of the curve; a run begins within the curve and ends within it."""
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 10}, "output_tokens": {"kind": "fixed", "tokens": 20}}
    workload = {"arrivals": {"kind": "rate_curve", **curve}, **lengths}
    plan = make(workload=workload, load_rps=90.0, run={"warmup_s": 5.0, "window_s": window_s})
    arrivals = plan.choices[0].scenario.workload.arrivals
    assert isinstance(arrivals, RateCurve)
    assert arrivals.start_s == pytest.approx(starts_s, abs=226 if starts_s > 10000 else 1e-6)  # 43,200 s / 96 / 2 = 225
    rates = [rate for _, rate in curve["points"]]
    highest = 90 * max(rates) / ((min(rates) + max(rates)) / 2)
    assert measured(plan) == pytest.approx(highest * window_s, rel=0.03, abs=4 * math.sqrt(highest * window_s))


def test_traffic_that_ends_must_last_for_the_warm_up_too(make: Make, world: Path) -> None:
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},50,20\n" for t in range(201)))
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 10}, "output_tokens": {"kind": "fixed", "tokens": 20}}
    trace = {"trace": {"path": "trace.csv"}}
    ends = lengths | {"arrivals": {"kind": "rate_curve", "points": [[50, 1], [150, 3], [250, 1]]}}
    repeats = lengths | {"arrivals": {"kind": "rate_curve", "period_s": 200, "points": [[0, 1], [100, 3]]}}
    for workload, warmup_s, window_s, says in (
        (trace, 150.0, 100.0, "than warm-up and window."), (ends, 150.0, 100.0, "than warm-up and window."), (ends, 50.0, 250.0, "than the window."),
        (repeats, 150.0, 100.0, ""), (trace, 50.0, 100.0, ""),
    ):  # fmt: skip
        plan = make(workload=workload, load_rps=201 / 200, run={"warmup_s": warmup_s, "window_s": window_s})
        told = [remark.text for remark in _of_traffic(plan, Search({}, 0), cast(Any, SimpleNamespace(day=None))) if "lasts" in remark.text]
        assert told == ([f"The traffic lasts 200 s at this rate, less {says}"] if says else [])


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """Two clients, two windows of 600 s: a steady one at 1/s, a bursty one that is there in the second window at 4/s."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "chunk-0-trace.csv").write_text("0,1.0,1.0,Weibull,1.0,1.0\n600,1.0,1.0,Gamma,1.0,1.0\n")
    (folder / "chunk-1-trace.csv").write_text("0,0,0,,0,0\n600,4.0,2.0,Weibull,0.55,1.0\n")
    for number, (prompt, output) in enumerate((("{100: 0.5, 300: 0.5}", "{10: 1.0}"), ("{7: 1.0}", "{20: 0.25, 40: 0.75}"))):
        content = {"0": {"input_tokens": prompt, "output_tokens": output}, "600": {"input_tokens": "{}", "output_tokens": "{}"}}
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(content))
    return folder


def test_servegen_rates_and_lengths(service: Path) -> None:
    source = ServeGenSource(path=service)
    assert source.service().rates.tolist() == [[1.0, 1.0], [0.0, 4.0]]
    counts, outputs = [], []
    for k in range(40):
        arrival, prompt, output, index = source.requests(3.0, 1200.0, 0, k)
        assert (np.diff(arrival) >= 0).all()
        assert len(set(index.tolist())) == len(index)
        assert set(prompt.tolist()) == {7, 100, 300}
        counts.append([(arrival < 600).sum(), (arrival >= 600).sum()])
        outputs.append(output[prompt == 7].mean())
    mean, error = np.mean(counts, axis=0), np.std(counts, axis=0, ddof=1) / np.sqrt(40)
    assert (np.abs(mean - [600, 3000]) < 4 * error).all()  # at a mean of 3/s the record plays as it is
    assert np.mean(outputs) == pytest.approx(35, abs=4 * np.std(outputs, ddof=1) / np.sqrt(40))


def test_a_service_is_run_and_bundled_like_any_workload(service: Path, scenario: Callable[..., Path]) -> None:
    workload = {"servegen": {"path": str(service)}, "domains": {"chat": 1}}
    asked = load_scenario(scenario(workload=workload, load=[3.0], run={"replications": 1, "warmup_s": 0, "duration_s": 20}, baseline=None, sla=None))
    rows = sweep(asked, workers=1)
    result = build_result(asked, rows)
    assert all(row.requests > 20 for row in rows)
    assert isinstance(result.warnings, tuple)
    sent = bundle(asked)
    assert sorted(name for name in sent.files if name.startswith("servegen/")) == sorted(f"servegen/{file.name}" for file in service.iterdir())
    assert sent.content["workload"]["servegen"] == {"path": "servegen"}


def test_files_of_classes_and_patience_are_bundled_and_marked(
    service: Path, scenario: Callable[..., Path], edit_profile: Callable[[Callable[[Content], Any]], None]
) -> None:
    """Beside files of any source of traffic; other content is another mark."""
    edit_profile(lambda c: c["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 1e-4}))
    Path("chats.csv").write_text("tokens,wait\n40,3\n60,9\n")
    lengths = {"kind": "empirical", "path": "chats.csv", "column": "tokens"}
    patience = {"patience_s": {"kind": "empirical", "path": "chats.csv", "column": "wait"}}
    classes = {"chat": {"share": 1, "sla": {"e2e_s": 9}, "prompt_tokens": lengths}, "job": {"share": 1, "sla": {"e2e_s": 99}, "impatience": patience}}
    drawn = {"arrivals": {"kind": "poisson"}, "prompt_tokens": lengths, "output_tokens": {"kind": "fixed", "tokens": 9}}
    for source, of_classes in ((drawn, classes), ({"servegen": {"path": str(service)}}, {"job": classes["job"]})):
        workload = source | {"domains": {"chat": 1}, "classes": of_classes, "impatience": patience}
        run = {"replications": 1, "warmup_s": 0, "duration_s": 5}
        path = scenario(workload=workload, engine={"prefill": {"kind": "chunked"}}, load=[3.0], run=run, baseline=None, sla=None)
        sent = bundle(load_scenario(path))
        assert sum(content == Path("chats.csv").read_bytes() for content in sent.files.values()) >= 2
        assert "chats.csv" not in str(sent.content)
        text = Path("chats.csv").read_text()
        Path("chats.csv").write_text(text.replace("60", "61"))
        assert bundle(load_scenario(path)).mark != sent.mark
        Path("chats.csv").write_text(text)


def test_servegen_load_scales_and_begins_anew(service: Path) -> None:
    source = ServeGenSource(path=service, start_s=600.0)
    counts = [[((a := source.requests(6.0, 1200.0, 0, k)[0]) < 600).sum(), (a >= 600).sum()] for k in range(20)]
    mean, error = np.mean(counts, axis=0), np.std(counts, axis=0, ddof=1) / np.sqrt(20)
    assert (np.abs(mean - [6000, 1200]) < 4 * error).all()
    quiet = ServeGenSource(path=service, clients=1)
    assert quiet.service().rates.tolist() == [[0.0, 4.0]], "the busiest is kept"


def test_a_higher_load_meets_the_same_luck_sooner(service: Path) -> None:
    source = ServeGenSource(path=service, start_s=600.0)
    slow, fast = (source.requests(load, 600.0, 0, 0) for load in (3.0, 6.0))
    both = sorted(set(slow[3].tolist()) & set(fast[3].tolist()))
    at = [{i: (t, p, o) for t, p, o, i in zip(*run, strict=True)} for run in (slow, fast)]
    assert len(both) > 1000
    assert all(at[1][i][0] == pytest.approx(at[0][i][0] / 2) and at[1][i][1:] == at[0][i][1:] for i in both)


@pytest.mark.parametrize("rows, words", [("5,100,5\n", "1 request;"), ("5,100,5\n5,100,5\n", "2 requests, all at once;")])
def test_a_trace_without_a_rate_cannot_be_planned(world: Path, make: Make, rows: str, words: str) -> None:
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    with pytest.raises(ScenarioError, match=rf"workload\.trace: has no rate over time \({words}"):
        make(workload={"trace": {"path": "trace.csv"}}, load_rps=5)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("chunk-0-trace.csv", "0,many,1,Gamma,1,1\n600,1,1,Gamma,1,1\n", "chunk-0-trace.csv:1"),
        ("chunk-0-trace.csv", "0,-1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n", "rate must be from 0 to 1e+06, got -1"),
        ("chunk-0-trace.csv", "0,1,1,Gamma,1,1\n", "windows"),
        ("chunk-0-trace.csv", "0,1,1,weibull,1,1\n600,1,1,Gamma,1,1\n", "expected Gamma or Weibull, got 'weibull'"),
        ("chunk-0-trace.csv", "0,1,-1,Gamma,1,1\n600,1,1,Gamma,1,1\n", "chunk-0-trace.csv:1: cv must be from 0 to 100, got -1"),
        *(
            ("chunk-0-trace.csv", f"{lines[0]},Gamma,1,1\n{lines[1]},Gamma,1,1\n", "two windows of equal length, of a second or more")
            for lines in (("600,1,1", "0,1,1"), ("5,1,1", "5,1,1"), ("5,1,1", "5.5,1,1"))
        ),
        ("chunk-0-trace.csv", "nan,1,1,Gamma,1,1\n", "chunk-0-trace.csv:1: expected start,rate,cv,family"),
        ("chunk-0-trace.csv", "0,1_0,1,Gamma,1,1\n", "chunk-0-trace.csv:1: expected start,rate,cv,family"),
        ("chunk-0-trace.csv", "0,1,1,Gamma,1,1,1\n", "chunk-0-trace.csv:1: expected start,rate,cv,family"),
        ("chunk-0-trace.csv", "0,1e9,1,Gamma,1,1\n", "rate must be from 0 to 1e+06, got 1e+09"),
        ("chunk-0-trace.csv", "0,1,1,Weibull,1e-9,1\n", "chunk-0-trace.csv:1: a Weibull shape must be from 0.2 to 20, got 1e-09"),
        ("chunk-0-trace.csv", "0,1,1,Weibull,-1,1\n", "a Weibull shape must be from 0.2 to 20, got -1"),
        ("chunk-0-trace.csv", f"0,1,1,{'x' * 5000},1,1\n", "expected Gamma or Weibull, got 'xxx"),
        *(
            ("chunk-1-dataset.json", f'{{"{time}": {{"input_tokens": "{lengths}", "output_tokens": "{{1: 1}}"}}}}', told)
            for time, lengths, told in (
                ("0", "{1e300: 1}", "0: not a valid ServeGen dataset (lengths must be whole numbers from 0 to 100,000,000)"),
                ("0", "{-100: 1}", "lengths must be whole numbers"),
                ("0", "{1: nan}", "expected lengths with their shares"),
                ("0", "{1: 2: 3: 4}", "expected lengths with their shares"),
                ("0", "{1_0: 1}", "expected lengths with their shares"),
                ("0", "{1: 1, 1.0: 2}", "a length appears twice"),
                ("0", "{1: 1e308, 2: 1e308}", "shares must be numbers"),
                ("nan", "{1: 1}", "nan: not a valid ServeGen dataset (expected a time from 0 to 1e+09 s)"),
                ("inf", "{1: 1}", "expected a time"),
            )
        ),
        (
            "chunk-1-dataset.json",
            json.dumps({t: {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"} for t in ("0", "0.0")}),
            "a time appears twice",
        ),
        ("chunk-1-dataset.json", '{"0": 5, "1": null}', "expected lengths with their shares"),
        ("chunk-1-dataset.json", "{}", "no lengths"),
        ("chunk-1-dataset.json", '{"0": {"input_tokens": "{a: 1}", "output_tokens": "{1: 1}"}}', "not a valid ServeGen dataset"),
        ("chunk-1-dataset.json", "[1]", "expected a JSON object"),
    ],
)
def test_a_broken_service_is_refused_in_a_line(service: Path, file: str, text: str, told: str) -> None:
    (service / file).write_text(text)
    with pytest.raises(TraceError) as caught:
        ServeGenSource(path=service).service()
    assert told in caught.value.line()
    assert "\n" not in caught.value.line()


def test_more_requests_of_a_service_than_have_draws_of_their_own_are_refused(service: Path) -> None:
    with pytest.raises(TraceError, match=r"load: a client sends 800,000 requests in a window of 600 s, expected at most 524,288; lower it"):
        ServeGenSource(path=service).requests(1000.0, 600.0, 0, 0)
    with pytest.raises(TraceError, match=r"the run has 16,666,667 windows of 600 s of 2 clients"):
        ServeGenSource(path=service).requests(0.1, 1e10, 0, 0)
    with pytest.raises(TraceError, match=r"load: the run has about 60,000,000 requests, expected at most 50,000,000"):
        ServeGenSource(path=service).requests(100.0, 600_000.0, 0, 0)


def test_a_service_without_lengths_or_folder_is_refused(service: Path) -> None:
    (service / "chunk-1-dataset.json").unlink()
    with pytest.raises(TraceError, match="lengths"):
        ServeGenSource(path=service).service()
    with pytest.raises(TraceError, match="no such folder"):
        ServeGenSource(path=service / "nowhere").service()


def test_a_day_of_a_service_is_planned_for_its_busiest_window(make: Make, service: Path) -> None:
    plan = make(workload={"servegen": {"path": str(service)}}, load_rps=30.0, run={"warmup_s": 5.0, "window_s": 20.0})
    assert plan.shape.curve_rps.tolist() == pytest.approx([10.0, 50.0])
    assert plan.shape.mean_output == pytest.approx((2 * 10 + 4 * 35) / 6)
    assert measured(plan) == pytest.approx(1000, rel=0.3)


@pytest.mark.shared
def test_the_recorded_service(shared: Path) -> None:
    folder = shared / "traffic" / "servegen" / "data" / "reason" / "deepseek-r1"
    source = ServeGenSource(path=folder)
    service = source.service()
    rates = service.rates.sum(axis=0)
    assert len(service.clients) == 73
    assert service.span_s == 86400
    assert rates.mean() == pytest.approx(16, rel=0.01)
    assert (rates.min(), rates.max()) == pytest.approx((4.3, 42.5), rel=0.01)
    shape = shape_of(Workload(servegen=source), 16.0, folder)
    assert shape.mean_output == pytest.approx(1527, rel=0.01)
    assert shape.mean_prompt == pytest.approx(1268, rel=0.01)


def test_a_plan_that_no_machine_can_try_is_refused_before_it_begins(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScenarioError, match=r"run\.window_s: a trial takes 4\d\d,000,0\d\d s, expected at most 100,000,000"):
        make(load_rps=1e-6, run={})
    monkeypatch.setattr("simulator.study.run.limits.machine_bytes", lambda: 1e9)
    with pytest.raises(ScenarioError, match=r"fleet\.max_replicas: batches of a point take about 1\.2 GB of memory, this machine has 1\.0"):
        make(fleet={"max_replicas": 1_000_000})


def test_sessions_are_planned_for_by_their_requests(plan_file: Callable[..., Path], dsim: Dsim) -> None:
    sessions = {
        "arrivals": {"kind": "poisson"}, "turns": 4, "new_tokens": {"kind": "fixed", "tokens": 20},
        "output_tokens": {"kind": "fixed", "tokens": 20}, "think_s": 0.2,
    }  # fmt: skip
    told = dsim("plan", plan_file(workload={"sessions": sessions, "domains": {"chat": 1}}), "--out", "out")
    assert told.code == 0, told.err
    result = json.loads(Path("out/result.json").read_text())
    assert "sessions of 4 requests each" in json.dumps(result)
    assert list(Path("out/trials").glob("*-peak-*-25-0.json"))  # 100 requests a second are 25 sessions
    assert all(choice["prices"] is None for choice in result["cells"])  # prompts are not simulated
    chosen = next(choice for choice in result["cells"] if choice["cell"] == result["best"])
    peak = next(fleet for fleet in chosen["points"] if fleet["replicas"] == chosen["replicas_needed"])
    held = 25 * (3 * 0.2 + 4 * 20 / peak["metrics"]["speed"]["mean"])  # sessions a second × pauses and answers of one, as fast as most at least
    assert 0.6 * held < chosen["sessions_per_gpu"] * chosen["gpus"] < held
    closed = sessions | {"arrivals": {"kind": "closed_loop"}}
    told = dsim("plan", plan_file(workload={"sessions": closed}), "--out", "other")
    assert (told.code, "comes whatever happens" in told.err) == (2, True)
