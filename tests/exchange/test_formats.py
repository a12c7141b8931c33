"""Files of engines and load generators: read as written, refused with file and field where broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import read_aiperf, read_bench, read_guidellm
from simulator.measurements.formats.sglang import AdditiveSps, SampledSps, additive_sps_json, read_sps, read_step_records, read_sts, sampled_sps_json
from simulator.measurements.formats.vllm import counters_in, read_cost_curves, read_counters
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
    assert counters_in("# HELP up\nup 1\n", "x") is None


def test_an_earlier_scrape_is_taken_off(put: Put) -> None:
    early = put("early.txt", METRICS)
    late = put(
        "late.txt",
        METRICS.replace(" 600.0", " 900.0")
        .replace(" 480.0", " 600.0")
        .replace(" 900.0\nvllm:spec_decode_num_acc", " 1100.0\nvllm:spec_decode_num_acc", 1),
    )
    found = read_counters(late, early)
    assert found.drafts == 300
    assert found.survival[0] == pytest.approx(120 / 300)
    with pytest.raises(DsimError, match="a counter fell"):
        read_counters(early, late)


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
    (SAMPLED, read_sps, ["sample_batch_tokens", 2], 16, "sample_batch_tokens.2"),
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
    (CURVES, read_cost_curves, ["verify_curve", 3], [64], "verify_curve"),
    (CURVES, read_cost_curves, ["verify_curve", 3, 1], 0.0, "verify_curve.3.1"),
    (CURVES, read_cost_curves, ["draft_curve", 1, 0], 1, "draft_curve.1.0"),
    (bench(4, 0.01), read_bench, ["mean_tpot_ms"], None, "mean_tpot_ms"),
    (bench(4, 0.01), read_bench, ["output_throughput"], -1.0, "output_throughput"),
    (bench(4, 0.01), read_bench, ["spec_decode_num_drafts"], 0, "spec_decode_num_drafts"),
    (aiperf(4, 0.01), read_aiperf, ["output_token_throughput_per_user"], None, "output_token_throughput_per_user"),
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
        ('position="2"', 'place="2"', "expected positions from 0 on, got ['', '0', '1']"),
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
