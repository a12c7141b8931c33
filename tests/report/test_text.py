"""The terminal's end, and the comparison of two results."""

from __future__ import annotations

import copy
import json

import pytest

from simulator.errors import DsimError
from simulator.report import wording
from simulator.report.render.terminal import terminal
from simulator.report.run.compare import compare_page
from simulator.report.run.differences import compare, difference
from simulator.report.run.page import run_page
from simulator.report.run.sketch import frontier
from simulator.study.run.result import Estimate, RunResult
from tests.report import synthetic_result as synthetic


def test_plot_has_every_policy_and_no_colour() -> None:
    result = synthetic.result()
    text = frontier(result, 90, False)
    assert all(policy.name in text for policy in result.policies)
    inside = "".join(line for line in text.splitlines() if "│" in line or "┤" in line)
    assert all(letter in inside for letter in "ABCD")
    assert "\x1b" not in text
    assert "\x1b[" in frontier(result, 90, True)


def test_plot_of_nothing() -> None:
    assert "No point" in frontier(synthetic.result(loads=()), 60, False)
    assert frontier(synthetic.result(loads=(80,)), 60, False)


def test_summary_says_what_matters() -> None:
    result = synthetic.result(loads=(5, 80))
    text = terminal(run_page(result), 100)
    wanted = [*result.answer, "+51 % (49…53)", "90.9 (90.0…91.8)", "oracle (bound)"]
    wanted += [text for remark in result.warnings for text in (remark.text, remark.remedy)]
    assert [line for line in wanted if line not in text] == []
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_summary_takes_brackets_as_text() -> None:
    result = synthetic.example(policies=("[red]x[/red]", "b"), loads=(5,))
    result["answer"] = ["[bold]plain[/bold]"]
    text = terminal(run_page(RunResult.from_json(result)), 120)
    assert "[red]x[/red]" in text
    assert "[bold]plain[/bold]" in text


def test_difference_by_hand() -> None:
    # 5 replications each, s.e. 1 and 1: half-width 2.776 each. Welch: s.e. √2, 8 degrees of freedom, t = 2.306, half-width 3.261.
    a, b = Estimate(100.0, 97.224, 102.776), Estimate(103.0, 100.224, 105.776)
    found = difference(a, b, 5, 5)
    assert (found.high or 0) - found.difference == pytest.approx(3.261, abs=2e-3)
    assert found.distinguishable is False
    assert difference(a, Estimate(103.4, 100.624, 106.176), 5, 5).distinguishable is True
    assert difference(a, b, 5, 1).distinguishable is None
    assert difference(Estimate(1.0, None, None), b, 1, 5).distinguishable is None
    assert difference(Estimate(2.0, 2.0, 2.0), Estimate(2.0, 2.0, 2.0), 5, 5).distinguishable is False
    assert difference(Estimate(2.0, 2.0, 2.0), Estimate(2.1, 2.1, 2.1), 5, 5).distinguishable is True


def test_compare_finds_what_was_changed() -> None:
    a = synthetic.example(loads=(5, 80))
    b = copy.deepcopy(a)
    b["scenario"]["content"]["load"]["kind"] = "rate"
    b["scenario"]["seed"] = 8
    speed = b["frontier"][3]["metrics"]["tps_per_user_mean"]
    b["frontier"][3]["metrics"]["tps_per_user_mean"] = {key: 1.2 * value for key, value in speed.items()}
    b["gains"]["at_sla"][0]["gain"] = {"mean": 0.71, "low": 0.69, "high": 0.73}
    b["frontier"].pop()
    compared = compare(RunResult.from_json(a), RunResult.from_json(b))
    data, text = compared.to_json(), terminal(compare_page(compared))
    assert {row["key"] for row in data["scenario_differences"]} == {"run.seed", "scenario.load.kind"}
    assert data["only_in_a"] == [{"policy": "oracle", "load": 80.0}]
    assert data["only_in_b"] == []
    changed = [(p["policy"], p["load"], m) for p in data["points"] for m, found in p["metrics"].items() if found["distinguishable"]]
    assert changed == [("DSpark-5", 80.0, "tps_per_user_mean")]
    assert [(row["at"], row["policy"]) for row in data["gains"] if row["distinguishable"]] == [(80, "DSpark-5")]
    assert data["distinguishable"] == 2
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert "+20.0 % *" in text
    assert "oracle at 80" in text
    assert "scenario.load.kind" in text


def test_compare_keeps_to_the_terminal() -> None:
    a, b = synthetic.example(loads=(5, 80)), synthetic.example(loads=(5, 80, 100))
    b["scenario"]["content"]["load"]["values"] = list(range(400))
    compared = compare(RunResult.from_json(a), RunResult.from_json(b))
    text = terminal(compare_page(compared), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Only in B" in text


def test_compare_with_itself() -> None:
    result = synthetic.result(loads=(5, 80))
    compared = compare(result, result)
    data, text = compared.to_json(), terminal(compare_page(compared))
    assert data["distinguishable"] == 0
    assert "The scenarios are the same." in text


def test_what_has_no_interval_is_not_tested() -> None:
    a, b = synthetic.example(loads=(5, 80)), synthetic.example(loads=(5, 80))
    b["frontier"][0]["metrics"]["tps_per_user_mean"] = {"mean": 1.0, "low": None, "high": None}
    whole = compare(RunResult.from_json(a), RunResult.from_json(a))
    mixed = compare(RunResult.from_json(a), RunResult.from_json(b))
    assert (whole.untested, mixed.untested, mixed.compared) == (0, 1, whole.compared - 1)
    assert "1 more could not be tested: a side has no interval." in terminal(compare_page(mixed), 200)
    for point in b["frontier"]:
        point["n"] = 1
    alone = compare(RunResult.from_json(a), RunResult.from_json(b))
    assert (alone.compared, alone.untested, alone.expected_by_chance) == (0, whole.compared, 0)
    text = terminal(compare_page(alone), 200)
    assert "No difference could be tested against simulation noise: simulate both with run.replications of 2 or more." in text
    assert "chance" not in text


def test_every_starred_difference_has_a_column_and_every_verdict_is_seen() -> None:
    a = synthetic.example(loads=(5, 80))
    b = copy.deepcopy(a)
    text = terminal(compare_page(compare(RunResult.from_json(a), RunResult.from_json(a))), 200)
    assert [word for word in ("TTFT", "TPOT", "goodput", "verdict") if word in text] == []
    point = b["frontier"][3] | {"verdict": "overloaded"}
    for metric in ("ttft_p99_s", "tpot_p99_s", "goodput_rps_gpu"):
        point["metrics"][metric] = {bound: 2 * value for bound, value in point["metrics"][metric].items()}
    b["frontier"][3] = point
    page = compare_page(compare(RunResult.from_json(a), RunResult.from_json(b)))
    text = terminal(page, 200)
    assert [word for word in ("TTFT", "TPOT", "goodput", "stable → overloaded") if word not in text] == []
    assert text.count("+100.0 % *") == 3
    assert max(map(len, terminal(page, 80).splitlines())) <= 80


def test_loads_of_two_kinds_are_not_compared() -> None:
    users, rates = synthetic.result(loads=(5, 80)), synthetic.result(loads=(5, 80), open_loop=True)
    with pytest.raises(DsimError, match=r"concurrency \(concurrent requests per replica\) in A, rate_rps \(requests per second and replica\) in B"):
        compare(users, rates)
    assert "Load: requests per second and replica." in terminal(compare_page(compare(rates, rates)), 200)


def test_gains_over_another_baseline_are_not_compared() -> None:
    a = synthetic.example(loads=(5, 80))
    b = copy.deepcopy(a)
    b["gains"]["baseline"] = "fixed-5"
    compared = compare(RunResult.from_json(a), RunResult.from_json(b))
    assert compared.gains == ()
    assert [row.key for row in compared.scenario_differences] == ["baseline"]
    text = terminal(compare_page(compared), 200)
    assert "Gains are not compared: they are over MTP-1 in A, over fixed-5 in B." in text


def test_compare_knows_a_trace_and_a_profile_by_what_they_say() -> None:
    a = synthetic.example(loads=(5, 80)) | {"trace": "30 requests in 10 s", "files": {"trace": "ab", "profile": "cd"}}
    b = copy.deepcopy(a) | {"trace": "31 requests in 10 s", "files": {"trace": "ac", "profile": "cd"}}
    b["profile"]["assumed"] = []
    b["profile"]["provenance"][0]["note"] = "0.31 % rms"
    compared = compare(RunResult.from_json(a), RunResult.from_json(b))
    assert {row.key for row in compared.scenario_differences} == {"trace", "files.trace", "profile.assumed", "profile.provenance.verify cost"}
    assert "fitted · Figure 7 · 0.31 % rms" in terminal(compare_page(compared), 200)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.0, None, "0"), (-0.001, 2, "0.00"), (-3.2, 1, "−3.2"), (10611.6, 0, "10,612"), (0.0451, None, "0.0451"), (None, 1, "–")],
)
def test_plain_numbers(value: float | None, decimals: int | None, text: str) -> None:
    assert wording.plain(value, decimals) == text


def test_gains_read_as_people_write_them() -> None:
    assert wording.gain(Estimate(0.51, 0.49, 0.53)) == "+51 % (49…53)"
    assert wording.gain(Estimate(0.01, -0.02, 0.03)) == "+1.0 % (−2.0…+3.0)"
    assert wording.gain(Estimate(6.61, None, None)) == "+661 %"
    assert wording.gain(None) == "–"
