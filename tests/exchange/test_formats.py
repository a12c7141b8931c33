"""Files of engines and load generators: read as written, refused with file and field where broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.measurements.formats.aiperf import read_aiperf
from simulator.measurements.formats.bench import read_bench
from simulator.measurements.formats.guidellm import read_guidellm
from simulator.measurements.formats.scrapes import counters_in, read_counters
from simulator.measurements.formats.sglang import AdditiveSps, SampledSps, additive_sps_json, read_sps, read_step_records, read_sts, sampled_sps_json
from simulator.measurements.formats.vllm import read_cost_curves
from tests.exchange.engine_files import ADDITIVE, CURVES, METRICS, SAMPLED, STS, aiperf, bench, dump, guidellm

Put = Callable[..., Path]


def records(path: Path) -> Any:
    return read_step_records(path, "d")


def test_an_sps_table_of_each_form(put: Put) -> None:
    sampled = read_sps(put("s.json", SAMPLED))
    assert isinstance(sampled, SampledSps)
    assert sampled.steps_per_s == [100.0, 95.0, 80.0, 50.0]
    additive = read_sps(put("a.json", ADDITIVE))
    assert isinstance(additive, AdditiveSps)
    assert additive.seconds(4, 8) == pytest.approx(0.008 + 0.001 + 0.0005)
    assert additive.seconds(10, 96) == pytest.approx(0.008 + 0.0025 + 0.0045)
    assert additive.seconds(99, 999) == pytest.approx(0.008 + 0.004 + 0.007)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    tokens=st.lists(st.integers(1, 4096), min_size=2, max_size=8, unique=True),
    seconds=st.lists(st.floats(1e-4, 1.0), min_size=8, max_size=8),
)
def test_what_is_written_is_read_again(tokens: list[int], seconds: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("sps") / "t.json"
    tokens = sorted(tokens)
    path.write_text(sampled_sps_json(tokens, seconds[: len(tokens)]))
    found = read_sps(path)
    assert isinstance(found, SampledSps)
    assert found.tokens == tokens
    assert [1 / s for s in found.steps_per_s] == pytest.approx(seconds[: len(tokens)])
    table = AdditiveSps(0.01, [1.0, 2.0], [0.0, seconds[0]], [float(t) for t in tokens], seconds[: len(tokens)])
    path.write_text(additive_sps_json(table))
    assert read_sps(path) == table


def test_a_calibration(put: Put) -> None:
    assert read_sts(put("sts.json", STS)) == [1.2, 1.5, 1.7]


@pytest.mark.parametrize("wrapped", [False, True])
def test_step_records_become_blocks(put: Put, wrapped: bool) -> None:
    content: Any = {"internal_states": [{"dspark_info_record": dump()}]} if wrapped else dump()
    found = records(put("server_info.json", content))
    blocks = found.blocks
    assert blocks.provenance == "imported"
    assert blocks.length.tolist() == [3 + 1 + 4, 2]  # anchors that the rounds advance over
    assert blocks.accepted.tolist() == [2, 2, 2, 0, 3, 3, 3, 3, 1, 1]
    assert blocks.acceptance is None
    assert blocks.confidence[0].tolist() == pytest.approx([0.9, 0.8, 1 - 5e-5])
    assert [(t.requests, t.tokens, t.n) for t in found.times] == [(1, 4, 2), (2, 8, 1)]
    assert found.times[1].seconds == pytest.approx(0.012)


def test_requests_that_verify_whole_blocks_meet_the_recorded_rounds(put: Put) -> None:
    from simulator.measurements.statistics import visited_rows

    blocks = records(put("d.json", dump())).blocks
    assert blocks.accepted[visited_rows(blocks)].tolist() == [2, 0, 3, 1]


def test_cost_curves_are_made_rising_as_the_engine_does(put: Put) -> None:
    found = read_cost_curves(put("c.json", CURVES))
    assert found.verify == [(1, 5.0), (8, 5.4), (16, 5.4), (64, 7.9), (128, 40.0), (256, 52.0)]
    assert found.graph_limit == 64


def test_counters_of_all_engines(put: Put) -> None:
    found = read_counters(put("metrics.txt", METRICS))
    assert found.drafts == 1000
    assert found.survival == [0.8, 0.5, 0.2]
    assert found.accepted_length == pytest.approx(2.5)
    assert found.engines == 2
    assert counters_in("# HELP up\nup 1\n", "x") is None


def test_an_earlier_scrape_is_taken_off(put: Put) -> None:
    grown = {
        " 600.0\nvllm:spec_decode_num_drafts_total": " 900.0\nvllm:spec_decode_num_drafts_total",
        " 1800.0": " 2700.0",
        " 900.0\nvllm:spec_decode_num_acc": " 1100.0\nvllm:spec_decode_num_acc",
        " 480.0": " 630.0",
        " 300.0": " 350.0",
    }
    later = METRICS
    for count, more in grown.items():
        later = later.replace(count, more, 1)
    early, late = put("early.txt", METRICS), put("late.txt", later)
    found = read_counters(late, early)
    assert (found.drafts, found.draft_tokens, found.accepted_tokens) == (300, 900, 200)
    assert found.survival == [150 / 300, 50 / 300, 0]
    with pytest.raises(DsimError, match=r"early\.txt: vllm:spec_decode_num_drafts: fell from 1300 to 1000 between the scrapes"):
        read_counters(early, late)
    with pytest.raises(DsimError, match="counts no drafted round"):
        read_counters(late, late)


def test_results_of_load_generators(put: Put) -> None:
    (point,) = read_bench(put("b.json", bench(16, 0.02))).points
    assert point.tps_per_user == pytest.approx(90)
    assert point.concurrency == pytest.approx(16)
    assert (point.accepted_length, point.budget, point.survival) == (1.8, 2.0, [0.8])
    (point,) = read_aiperf(put("a.json", aiperf(8, 0.025))).points
    assert (point.tps_per_user, point.concurrency, point.ttft_s) == (pytest.approx(40), pytest.approx(8), pytest.approx(0.09))
    points = read_guidellm(put("g.json", guidellm([(1, 0.01), (32, 0.02)]))).points
    assert [p.tps_per_user for p in points] == pytest.approx([100, 50])
    assert [p.concurrency for p in points] == pytest.approx([1, 32])


Breakage = tuple[str, Any, Callable[[Path], Any], str, Any]
BROKEN: list[tuple[Any, Callable[[Path], Any], list[Any], Any, str]] = [
    (SAMPLED, read_sps, ["sample_steps_per_sec"], None, "sample_steps_per_sec"),
    (SAMPLED, read_sps, ["sample_steps_per_sec", 1], 0.0, "sample_steps_per_sec.1"),
    (SAMPLED, read_sps, ["sample_batch_tokens", 2], 16, "sample_batch_tokens"),
    (SAMPLED, read_sps, ["sample_batch_tokens"], [8], "sample_steps_per_sec"),
    (SAMPLED, read_sps, ["max_batch_tokens"], 63, "max_batch_tokens"),
    (ADDITIVE, read_sps, ["bias_seconds"], 0.0, "bias_seconds"),
    (ADDITIVE, read_sps, ["alpha_seconds"], [0.1], "alpha_seconds"),
    (ADDITIVE, read_sps, ["theta_seconds", 0], "fast", "theta_seconds.0"),
    (STS, read_sts, ["temperatures"], [], "temperatures"),
    (STS, read_sts, ["temperatures", 1], -1.0, "temperatures.1"),
    (dump(), records, ["records", 1, "reqs", 0, "correct_drafts"], 4, "records.1.reqs.0.correct_drafts"),
    (dump(), records, ["records", 0, "reqs", 1, "confidence"], [0.5], "records.0.reqs.1.confidence"),
    (dump(), records, ["records", 2, "forward_ct"], None, "records.2.forward_ct"),
    (dump(), records, ["gamma"], 2.5, "gamma"),
    (CURVES, read_cost_curves, ["verify_curve", 3], [64], "verify_curve.3"),
    (CURVES, read_cost_curves, ["verify_curve", 3, 1], 0.0, "verify_curve.3.1"),
    (CURVES, read_cost_curves, ["draft_curve", 1, 0], 1, "draft_curve"),
    (bench(4, 0.01), read_bench, ["mean_tpot_ms"], None, "mean_tpot_ms"),
    (bench(4, 0.01), read_bench, ["output_throughput"], -1.0, "output_throughput"),
    (bench(4, 0.01), read_bench, ["spec_decode_num_drafts"], 0, "spec_decode_num_drafts"),
    (aiperf(4, 0.01), read_aiperf, ["inter_token_latency", "avg"], 0.0, "inter_token_latency.avg"),
    (aiperf(4, 0.01), read_aiperf, ["output_token_throughput", "unit"], "furlongs", "output_token_throughput.unit"),
    (guidellm([(1, 0.1)]), read_guidellm, ["benchmarks"], [], "benchmarks"),
    (
        guidellm([(1, 0.1)]),
        read_guidellm,
        ["benchmarks", 0, "metrics", "inter_token_latency_ms"],
        None,
        "benchmarks.0.metrics.inter_token_latency_ms",
    ),
]


@pytest.mark.parametrize(("content", "read", "at", "value", "field"), BROKEN, ids=[f"{b[1].__name__}-{b[4]}-{b[3]}" for b in BROKEN])
def test_a_broken_file_is_refused_with_its_field(put: Put, content: Any, read: Callable[[Path], Any], at: list[Any], value: Any, field: str) -> None:
    broken = copy.deepcopy(content)
    here = broken
    for key in at[:-1]:
        here = here[key]
    if value is None:
        del here[at[-1]]
    else:
        here[at[-1]] = value
    read(put("sound.json", content))
    path = put("broken.json", broken)
    with pytest.raises(DsimError) as caught:
        read(path)
    assert str(caught.value.where) == str(path)
    assert caught.value.key == field


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('position="1"} 300.0', 'position="1"} many', ":11: expected a Prometheus sample, got"),
        ('position="2"', 'place="2"', "expected positions from 0 on, got ', 0, 1'"),
        (" 480.0", " 4800.0", "position 0 was accepted"),
        ("vllm:spec_decode_num_draft_tokens_total", "other", "draft_tokens: is missing"),
        ("vllm:spec_decode_num_", "other_", "drafts: is missing"),
    ],
)
def test_a_broken_scrape_is_refused(put: Put, old: str, new: str, told: str) -> None:
    path = put("metrics.txt", METRICS.replace(old, new))
    with pytest.raises(DsimError) as caught:
        read_counters(path)
    assert told in caught.value.line()
    assert str(path) in caught.value.line()


@pytest.mark.parametrize("read", [read_sps, read_sts, records, read_cost_curves, read_bench, read_aiperf, read_guidellm])
@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "null"])
def test_what_is_no_json_object_is_refused(put: Put, read: Callable[[Path], Any], content: str) -> None:
    path = put("x.json", content)
    with pytest.raises(DsimError, match=r"x\.json"):
        read(path)
    with pytest.raises(DsimError, match="no such file"):
        read(path.with_name("absent.json"))


def test_blocks_that_were_cut_are_refused(put: Put) -> None:
    with pytest.raises(DsimError, match="cut before verification"):
        records(put("d.json", dump(mode="compact")))


def test_simulated_acceptance_is_refused_and_its_step_times_are_read(put: Put) -> None:
    """SGLang profiles step times with SGLANG_SIMULATE_ACC_LEN=1."""
    with pytest.raises(DsimError, match=r"d\.json: simulate_acc_len: acceptance was simulated, 3 tokens a round; restart the server"):
        records(put("d.json", dump() | {"simulate_acc_len": 3.0}))
    assert records(put("d.json", dump() | {"simulate_acc_len": None})).blocks is not None
    times = [{key: value for key, value in step.items() if key != "reqs"} for step in dump()["records"]]
    found = records(put("d.json", dump() | {"simulate_acc_len": 1.0, "records": times}))
    assert (found.blocks, len(found.times)) == (None, 2)


def test_the_flat_stand_in_of_sglang_is_refused(put: Put) -> None:
    flat = {"sample_batch_tokens": [1], "sample_steps_per_sec": [1.0], "max_batch_tokens": 64}
    with pytest.raises(DsimError, match="flat stand-in"):
        read_sps(put("s.json", flat))


def test_a_dump_without_confidences(put: Put) -> None:
    assert records(put("d.json", dump(confidences=False))).blocks.confidence is None
    mixed = dump()
    del mixed["records"][1]["reqs"][0]["confidence"]
    with pytest.raises(DsimError, match="some have none"):
        records(put("d.json", json.loads(json.dumps(mixed))))
    assert np.isfinite(records(put("d.json", dump())).blocks.confidence).all()


def changed(content: Any, *changes: tuple[list[Any], Any]) -> Any:
    """A copy with some values replaced."""
    copied = copy.deepcopy(content)
    for at, value in changes:
        inner = copied
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = value
    return copied


RATES = "spec_decode_per_position_acceptance_rates"
CONTRADICTIONS: list[tuple[Callable[[Path], Any], Any, str]] = [
    (read_bench, changed(bench(4, 0.01), ([RATES], [5.0])), f"{RATES}.0: expected a number of at most 1"),
    (read_bench, changed(bench(4, 0.01), ([RATES], [0.1, 0.9])), f"{RATES}.1: expected at most 0.1"),
    (read_bench, changed(bench(4, 0.01), (["completed"], 0), (["failed"], 200)), "completed: counts no finished request"),
    (read_bench, changed(bench(4, 0.01), (["spec_decode_acceptance_length"], 2.0)), "accepted_tokens: accounts for 1.8 tokens per round"),
    (read_bench, changed(bench(4, 0.01), (["spec_decode_accepted_tokens"], 10**12)), "accepted_tokens: expected at most the 1000 drafted"),
    (read_bench, changed(bench(4, 0.01), (["spec_decode_draft_tokens"], 0)), "draft_tokens: expected a number above 0"),
    (read_bench, changed(bench(4, 0.01), (["spec_decode_draft_tokens"], 10)), "draft_tokens: expected 1 to 127 tokens for each of 1000 drafts"),
    (read_bench, changed(bench(4, 0.01), ([RATES], [0.01] * 128)), f"{RATES}: expected at most 127 entries"),
    (read_bench, changed(bench(4, 0.01), (["spec_decode_acceptance_rate"], 30.0)), "acceptance_rate: accounts for 1.3 tokens"),
    (read_bench, changed(bench(4, 0.01), (["backend"], {"a": 1})), "backend: expected a text"),
    (read_aiperf, changed(aiperf(4, 0.01), (["output_token_throughput"], [])), "output_token_throughput: expected a mapping"),
    (read_aiperf, changed(aiperf(4, 0.01), (["output_token_throughput", "unit"], "u" * 3000)), "output_token_throughput.unit: "),
    (read_guidellm, {"benchmarks": [{"metrics": []}]}, "benchmarks.0.metrics: expected a mapping"),
    (read_guidellm, {"benchmarks": {"metrics": {}}}, "benchmarks: expected a list"),
    (read_guidellm, changed(guidellm([(1, 0.1)]), (["benchmarks", 0, "metrics", "request_totals"], 7)), "request_totals: expected a mapping"),
    (
        read_guidellm,
        changed(guidellm([(1, 0.1)]), (["benchmarks", 0, "metrics", "output_tokens_per_second", "successful"], "x")),
        "successful: expected",
    ),
    *((records, changed(dump(), (["gamma"], gamma)), "gamma: expected a number of at most 127") for gamma in (128, 10**6, 10**10)),
    (records, changed(dump(), (["records", 1, "reqs", 0, "prefix_len"], 19)), "records: request 'a' has 19 tokens at step 11, after 20 at step 10"),
    (records, changed(dump(), (["records", 0, "reqs", 0, "rid"], {"a": 1})), "records.0.reqs.0.rid: expected a text"),
    (records, {"internal_states": [7]}, "internal_states: expected a list of objects"),
    (records, {"internal_states": [{"dspark_info_record": [1]}]}, "internal_states.0.dspark_info_record: expected a JSON object"),
    (read_cost_curves, changed(CURVES, (["verify_curve"], [[1, 2], [3, 1e7]])), "verify_curve: expected at most 1e+06 ms"),
    (read_sts, {"temperatures": [1.0] * 128}, "temperatures: expected at most 127 entries"),
]


@pytest.mark.parametrize(("read", "content", "problem"), CONTRADICTIONS, ids=[f"{c[0].__name__}-{c[2][:50]}" for c in CONTRADICTIONS])
def test_a_file_that_contradicts_itself_is_refused_in_a_short_line(put: Put, read: Callable[[Path], Any], content: Any, problem: str) -> None:
    with pytest.raises(DsimError) as caught:
        read(put("f.json", content))
    assert problem in caught.value.line()
    assert len(caught.value.line()) < 500 + len(str(put("f.json", {})))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (' 900.0\n', " 1e12\n", "accepted_tokens: expected at most the 3,000 drafted tokens, got 1,000,000,000,600"),
        (" 1800.0", " 0", "accepted_tokens: expected at most the 1,200 drafted tokens, got 1,500"),
        (" 1800.0", " 18000", "draft_tokens: expected 1 to 3 tokens for each of 1,000 drafts, got 19,200"),
        (" 480.0", " 380.0", "accepted_tokens_per_pos: expected 1,500 accepted tokens in all positions, got 1,400"),
        (" 480.0", " 479.5", "expected a count, got 479.5"),
        (" 480.0", " inf", "expected a count, got inf"),
        ('position="2"', 'position="²"', "expected positions from 0 on, got '0, 1, ²'"),
        ('{engine="1",model_name="m"} 400.0', '{engine="0",model_name="m"} 400.0', ":4: vllm:spec_decode_num_drafts_total: appears twice"),
        ('engine="1"', 'engine="' + "1" * 20_000 + '"', ":4: expected a Prometheus sample, got 'vllm:"),
    ],
)  # fmt: skip
def test_counters_that_contradict_one_another_are_refused(put: Put, old: str, new: str, problem: str) -> None:
    with pytest.raises(DsimError) as caught:
        read_counters(put("metrics.txt", METRICS.replace(old, new)))
    assert problem in caught.value.line()
    assert len(caught.value.line()) < 400 + len(str(put("metrics.txt", "")))


def test_as_many_positions_as_recorded_blocks_have_are_read(put: Put) -> None:
    def scrape(positions: int) -> str:
        names = ("drafts", "draft_tokens", "accepted_tokens")
        totals = [f"vllm:spec_decode_num_{name}_total {count}" for name, count in zip(names, (1000, 1000 * positions, positions), strict=True)]
        counts = [f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{k}"}} 1' for k in range(positions)]
        return "\n".join([*totals, *counts])

    assert len(read_counters(put("m.txt", scrape(127))).survival) == 127
    with pytest.raises(DsimError, match="expected at most 127 positions, got 128"):
        read_counters(put("m.txt", scrape(128)))


def test_labels_hold_any_character(put: Put) -> None:
    for mark in "\u2028\x85\x0c":
        assert read_counters(put("m.txt", METRICS.replace('"m"', f'"m{mark}"'))).drafts == 1000
        assert len(read_bench(put("b.json", json.dumps(bench(4, 0.01) | {"label": f"a{mark}b"}, ensure_ascii=False))).points) == 1


def test_results_of_two_servers_are_refused(put: Put) -> None:
    from simulator.measurements.formats.loadgen import read_loads

    first = put("a.json", bench(4, 0.01))
    with pytest.raises(DsimError, match=r"b\.json is of model 'other', and a\.json of 'm'"):
        read_loads([first, put("b.json", bench(8, 0.02) | {"model_id": "other"})], read_bench)
    with pytest.raises(DsimError, match=r"b\.json and a\.json are of two engines"):
        read_loads([first, put("b.json", bench(8, 0.02) | {"backend": "sglang"})], read_bench)
    with pytest.raises(DsimError, match=r"b\.json: expected 0\.001 to 1,000,000 tokens per second and user, got 1e\+07"):
        read_loads([first, put("b.json", bench(8, 0.02) | {"mean_tpot_ms": 1e-4})], read_bench)
