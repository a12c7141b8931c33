"""Result files as they lie in folders: missing positions, appended lines, other spellings, empty benchmarks, idle ranks, another tool's file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.measurements.cost import FittedCurve
from simulator.measurements.formats.aiperf import read_aiperf
from simulator.measurements.formats.bench import read_bench
from simulator.measurements.formats.guidellm import read_guidellm
from simulator.measurements.formats.sglang import read_step_records
from simulator.measurements.profile import load_profile
from tests.exchange.engine_files import ADDITIVE, CURVES, METRICS, SAMPLED, STS, aiperf, bench, dump, guidellm

Put = Callable[..., Path]
Dsim = Callable[..., Any]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def sglang_row(users: int, step_s: float, **changes: Any) -> dict[str, Any]:
    """A line of SGLang's `bench_serving --output-file`, at 3.2 tokens a step."""
    row = {"backend": "sglang", "dataset_name": "random", "request_rate": "inf", "max_concurrency": users, "duration": 100.0, "completed": 8 * users}
    row |= {"output_throughput": users * 3.2 / step_s, "mean_ttft_ms": 40.0, "mean_tpot_ms": step_s / 3.2 * 1e3, "concurrency": float(users)}
    return row | {"accept_length": 3.2} | changes


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_position_that_was_never_drafted_is_left_off(put: Put, dsim: Dsim, tmp_path: Path, missing: Any) -> None:
    rates = "spec_decode_per_position_acceptance_rates"
    counts = {"spec_decode_draft_tokens": 3000, "spec_decode_acceptance_length": 2.35, "spec_decode_accepted_tokens": 1350}
    counts["spec_decode_acceptance_rate"] = 45.0
    few = put("few.json", bench(1, 0.01) | counts | {rates: [0.8, 0.55, missing]})
    assert read_bench(few).points[0].survival == [0.8, 0.55]
    assert read_bench(put("none.json", bench(1, 0.01) | counts | {rates: [missing]})).points[0].survival is None
    every = put("every.json", bench(16, 0.02) | counts | {rates: [0.8, 0.35, 0.2]})
    assert dsim("import", "vllm", "--bench", few, "--bench", every, "--out", tmp_path / "p").code == 0
    assert load_profile(tmp_path / "p").drafter("drafter").gamma == 3  # the file that has all positions


@pytest.mark.parametrize("text", [lines(bench(1, 0.01), bench(16, 0.02)), json.dumps([bench(1, 0.01), bench(16, 0.02)])])
def test_appended_results_are_a_point_each(put: Put, text: str) -> None:
    points = read_bench(put("all.json", text)).points
    assert [point.concurrency for point in points] == pytest.approx([1, 16])
    assert len({point.source for point in points}) == 2


def test_rows_of_sglang_say_the_accepted_length_and_not_the_budget(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    rows = put("rows.jsonl", lines(sglang_row(1, 0.0202), sglang_row(16, 0.0232)))  # 20 ms + 0.05 ms a token, at 4 tokens a round
    for tool in ("sglang", "vllm"):
        said = dsim("import", tool, "--bench", rows, "--out", tmp_path / "no")
        assert said.code == 2
        assert "rows.jsonl, line 1: --budget: does not say the budget of a round" in said.err
        said = dsim("import", tool, "--bench", rows, "--budget", 4, "--out", tmp_path / tool)
        assert said.code == 0, said.err
        profile = load_profile(tmp_path / tool)
        assert profile.costs.verify.seconds([4, 64]) == pytest.approx([0.0202, 0.0232], rel=5e-3)
        assert profile.engine == "SGLang"
    assert not (tmp_path / "no").exists()
    plain = put("plain.jsonl", lines(sglang_row(1, 0.01, accept_length=None), sglang_row(16, 0.02, accept_length=None)))
    assert "--accepted-length: does not say" in dsim("import", "sglang", "--bench", plain, "--out", tmp_path / "no").err


def test_rows_of_sglang_that_hold_the_servers_settings_need_no_options(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    """`server_info` of newer clients; speculative_num_draft_tokens counts the anchor."""
    eagle = {"speculative_algorithm": "EAGLE", "speculative_num_draft_tokens": 4, "dp_size": 1}
    rows = put("rows.jsonl", lines(*(sglang_row(users, step, server_info=eagle) for users, step in ((1, 0.0202), (16, 0.0232)))))
    said = dsim("import", "sglang", "--bench", rows, "--out", tmp_path / "eagle")
    assert said.code == 0, said.err
    assert load_profile(tmp_path / "eagle").costs.verify.seconds([4, 64]) == pytest.approx([0.0202, 0.0232], rel=5e-3)
    assert "line 1: accept_length is SGLang's mean since its start or last flush" in said.out + said.err
    none = {"speculative_algorithm": None}
    rows = put("plain.jsonl", lines(*(sglang_row(users, step, accept_length=None, server_info=none) for users, step in ((1, 0.01), (16, 0.02)))))
    assert dsim("import", "sglang", "--bench", rows, "--out", tmp_path / "plain").code == 0
    assert load_profile(tmp_path / "plain").costs.verify.seconds([1, 16]) == pytest.approx([0.01 / 3.2, 0.02 / 3.2], rel=5e-3)


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        ({"tp_size": 4, "pp_size": 2, "dp_size": 1}, "the server had 8 GPUs (tp_size × pp_size): give --gpus-per-replica 8"),
        ({"tp_size": 4, "dp_size": 2}, "2 engines (data parallel) are counted as one: batch and token budget are of all; give --gpus-per-replica"),
    ],
)
def test_servers_of_several_gpus_ask_how_many(put: Put, dsim: Dsim, tmp_path: Path, settings: dict[str, int], remark: str) -> None:
    eagle = {"speculative_algorithm": "EAGLE", "speculative_num_draft_tokens": 4} | settings
    rows = put("rows.jsonl", lines(*(sglang_row(users, step, server_info=eagle) for users, step in ((1, 0.0202), (16, 0.0232)))))
    assert remark in dsim("import", "sglang", "--bench", rows, "--out", tmp_path / "p").out
    assert remark not in dsim("import", "sglang", "--bench", rows, "--out", tmp_path / "q", "--gpus-per-replica", 8).out


TREES = [
    {"speculative_algorithm": "EAGLE3", "speculative_num_steps": 5, "speculative_eagle_topk": 8, "speculative_num_draft_tokens": 64},
    {"speculative_algorithm": "NEXTN", "speculative_num_steps": 3, "speculative_num_draft_tokens": 8},
]


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_is_not_a_chain_as_long_as_it_has_tokens(put: Put, tree: dict[str, Any]) -> None:
    with pytest.raises(DsimError, match=r"rows\.jsonl: server_info\.speculative_eagle_topk: drafts trees of .*; benchmark with --speculative-eagle"):
        read_bench(put("rows.jsonl", lines(sglang_row(4, 0.02, server_info=tree))))
    chain = {"speculative_eagle_topk": 1, "speculative_num_draft_tokens": tree["speculative_num_steps"] + 1}
    for one in (tree | chain, tree | {"speculative_algorithm": "DFLASH"}):
        (point,) = read_bench(put("rows.jsonl", lines(sglang_row(4, 0.02, server_info=one)))).points
        assert point.budget == one["speculative_num_draft_tokens"]


def test_a_client_of_sglang_may_measure_another_server(put: Put) -> None:
    (row,) = read_bench(put("other.jsonl", lines(sglang_row(4, 0.01, backend="vllm", accept_length=None)))).points
    assert (row.engine, row.accepted_length) == ("", None)


def test_a_ramp_is_no_closed_loop(put: Put) -> None:
    ramp = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 50}
    (point,) = read_bench(put("ramp.json", bench(256, 0.02) | ramp)).points
    assert (point.offered, point.held_to, point.rate_rps) == (None, 256, None)


def test_requests_in_flight_are_counted_by_their_times_where_files_say_them(put: Put) -> None:
    """Two requests at once, of 11 and 101 tokens at 100 and 10 ms a token: 1 and 1 s after their first, of which the mean speed knows nothing."""
    unlike = {
        "num_prompts": 2, "completed": 2, "max_concurrency": 2, "duration": 1.1, "total_input_tokens": 2, "total_output_tokens": 112,
        "output_throughput": 112 / 1.1, "mean_tpot_ms": 55.0, "mean_itl_ms": 2000 / 110, "mean_ttft_ms": 100.0, "mean_e2el_ms": 1100.0,
    }  # fmt: skip
    told = {key: value for key, value in bench(2, 0.02).items() if not key.startswith("spec_")} | unlike
    (point,) = read_bench(put("unlike.json", told)).points
    assert point.in_flight == pytest.approx(2)
    assert (point.accepted_length, point.slots) == (1, 0)  # a piece is a token
    (point,) = read_bench(put("silent.json", {key: value for key, value in told.items() if key != "mean_e2el_ms"})).points
    assert point.in_flight == pytest.approx((112 / 1.1) / 56 * (0.1 + 55 * 0.055))  # all that can be said
    assert point.accepted_length is None


def test_exports_of_aiperf_before_its_phases(put: Put) -> None:
    old = {"loadgen": {"concurrency": 4}, "endpoint": {"model_names": ["m"]}}
    (point,) = read_aiperf(put("old.json", aiperf(4, 0.01) | {"input_config": old})).points
    assert (point.offered, point.model) == (4, "m")
    (point,) = read_aiperf(put("rate.json", aiperf(4, 0.01) | {"input_config": old | {"loadgen": {"concurrency": 4, "request_rate": 2}}})).points
    assert point.offered is None


def test_records_get_their_step_cost_from_a_benchmark(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    rows = put("rows.jsonl", lines(sglang_row(1, 0.0202), sglang_row(16, 0.0232)))
    records = put("d.json", dump())
    call = ("import", "sglang", "--bench", rows, "--records", records, "--budget", 4, "--out", tmp_path / "p")
    assert dsim(*call).code == 0
    profile = load_profile(tmp_path / "p")
    assert profile.costs.verify.seconds([4]) == pytest.approx([0.0202], rel=5e-3)
    assert profile.blocks("dspark").gamma == 3
    assert "--bench: an SPS table and results of bench_serving both" in dsim(*call, "--sps", put("s.json", SAMPLED), "--force").err


def test_an_option_that_contradicts_the_counters_is_refused(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    files = [part for n in (1, 16) for part in ("--bench", put(f"b{n}.json", bench(n, 0.01 * n)))]
    said = dsim("import", "vllm", *files, "--accepted-length", 1, "--budget", 1, "--out", tmp_path / "p")
    assert said.code == 2
    assert "--accepted-length: b1.json counts 1.8, got 1; leave the option out" in said.err
    assert not (tmp_path / "p").exists()


def respelt(throughput: str, per_user: str, ttft: str = "ms", scale: float = 1.0) -> dict[str, Any]:
    content = aiperf(8, 0.025)
    content["output_token_throughput"] = {"unit": throughput, "avg": 320 * scale}
    content["output_token_throughput_per_user"] = {"unit": per_user, "avg": 40 * scale}
    content["time_to_first_token"]["unit"] = ttft
    return content


@pytest.mark.parametrize(
    "content",
    [
        respelt("tokens/s", "tokens/s/user"),
        respelt("tok/s", "tok/s/user"),
        respelt("Tokens / sec", "tokens per second per user", "milliseconds"),
        respelt("token/second", "tokens/sec", "msec"),
        respelt("tokens/ms", "tokens/ms/user", scale=1e-3),
    ],
)
def test_units_are_read_as_people_spell_them(put: Put, content: Any) -> None:
    (point,) = read_aiperf(put("a.json", content)).points
    assert (point.tps_per_user, point.throughput_tok_s, point.ttft_s) == pytest.approx((40, 320, 0.09))


@pytest.mark.parametrize("unit", ["tokens/s/gpu", "requests/sec", "tokens", "ms", "tokens/s/user/gpu", "s/token"])
def test_units_of_something_else_are_refused(put: Put, unit: str) -> None:
    with pytest.raises(DsimError, match="unknown unit"):
        read_aiperf(put("a.json", respelt(unit, "tokens/s/user")))


def test_answers_that_were_not_streamed_are_refused_as_such(put: Put) -> None:
    whole = {"request_latency": {"unit": "ms", "avg": 900.0}, "output_token_throughput": {"unit": "tokens/sec", "avg": 900.0}}
    with pytest.raises(DsimError, match="was not streamed"):
        read_aiperf(put("a.json", whole))
    with pytest.raises(DsimError, match=r"mean_tpot_ms: .* measure streamed answers"):
        read_bench(put("b.json", bench(1, 0.01) | {"mean_tpot_ms": 0.0}))
    content = guidellm([(1, 0.01)])
    for name in ("inter_token_latency_ms", "time_to_first_token_ms"):
        content["benchmarks"][0]["metrics"][name]["successful"]["mean"] = 0.0
    with pytest.raises(DsimError, match=r"inter_token_latency_ms\.successful\.mean: .* measure streamed answers"):
        read_guidellm(put("g.json", content))


def emptied(benchmark: Any, way: str) -> None:
    metrics = benchmark["metrics"]
    if way == "totals":
        metrics["request_totals"] = {"successful": 0, "incomplete": 64, "errored": 0, "total": 64}
    for metric in metrics.values():
        if way == "zeros" and "mean" in metric.get("successful", {}):
            metric["successful"] |= {"mean": 0.0, "count": 0}
        if way == "nulls" and "successful" in metric:
            metric["successful"] = None


@pytest.mark.parametrize("way", ["totals", "zeros", "nulls"])
def test_a_benchmark_without_finished_requests_is_left_out_and_said(put: Put, dsim: Dsim, tmp_path: Path, way: str) -> None:
    content = guidellm([(1, 0.01), (8, 0.011), (64, 0.02)])
    emptied(content["benchmarks"][2], way)
    options = ("--accepted-length", 1, "--budget", 1)
    said = dsim("import", "guidellm", put("g.json", content), *options, "--out", tmp_path / "p", "--format", "json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["left_out"] == ["g.json, benchmark 2"]
    profile = load_profile(tmp_path / "p")
    assert "left out, because no request finished: g.json, benchmark 2" in profile.not_identifiable
    assert isinstance(profile.costs.verify, FittedCurve)
    assert profile.costs.verify.measured_tokens == pytest.approx((1, 8))
    for benchmark in content["benchmarks"]:
        emptied(benchmark, way)
    said = dsim("import", "guidellm", put("g.json", content), *options, "--out", tmp_path / "q")
    assert (said.code, "no request finished" in said.err) == (2, True)


def test_a_run_of_which_nothing_finished_is_left_out(put: Put) -> None:
    loads = read_bench(put("all.json", lines(bench(1, 0.01), bench(512, 0.02) | {"completed": 0, "mean_tpot_ms": 0.0, "output_throughput": 0.0})))
    assert (len(loads.points), loads.left_out) == (1, ["all.json, line 2"])


@pytest.mark.parametrize("idle", [{"dspark_info_record": dump() | {"records": []}}, {"dspark_info_record": {}}, {"avg_spec_accept_length": 1.0}])
def test_an_idle_rank_is_passed_over(put: Put, idle: dict[str, Any]) -> None:
    alone = read_step_records(put("one.json", {"internal_states": [{"dspark_info_record": dump()}]}), "d")
    step = {"forward_ct": 13, "bs": 0, "mode": "static", "num_running_reqs": 0, "num_verify_tokens": 0, "step_cpu_ms": 9.0, "reqs": []}
    busy = {"dspark_info_record": dump() | {"records": [*dump()["records"], step]}}  # it also takes part in a step of the others
    both = read_step_records(put("two.json", {"internal_states": [idle, busy]}), "d")
    assert both.times == alone.times
    assert both.blocks is not None
    assert alone.blocks is not None
    assert both.blocks.accepted.tolist() == alone.blocks.accepted.tolist()
    with pytest.raises(DsimError, match="none of 2 ranks has step records"):
        read_step_records(put("none.json", {"internal_states": [idle, idle]}), "d")


FILES: dict[str, Any] = {
    "bench.json": bench(4, 0.01), "rows.jsonl": lines(sglang_row(1, 0.01), sglang_row(8, 0.02)), "aiperf.json": aiperf(4, 0.01),
    "guidellm.json": guidellm([(1, 0.01)]), "sps.json": SAMPLED, "additive.json": ADDITIVE, "sts.json": STS, "curves.json": CURVES,
    "info.json": {"internal_states": [{"dspark_info_record": dump()}]}, "metrics.txt": METRICS,
}  # fmt: skip
IMPORTERS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "vllm --bench": (("vllm", "--bench"), {"bench.json", "rows.jsonl"}),
    "sglang --bench": (("sglang", "--bench"), {"bench.json", "rows.jsonl"}),
    "vllm --curves": (("vllm", "--curves"), {"curves.json"}),
    "vllm --metrics": (("vllm", "--metrics"), {"metrics.txt"}),
    "aiperf": (("aiperf", "--accepted-length", "1", "--budget", "1"), {"aiperf.json"}),
    "guidellm": (("guidellm", "--accepted-length", "1", "--budget", "1"), {"guidellm.json"}),
    "sglang --sps": (("sglang", "--sps"), {"sps.json", "additive.json"}),
    "sglang --sts": (("sglang", "--sps", "sps.json", "--sts"), {"sts.json"}),
    "sglang --records": (("sglang", "--records"), {"info.json"}),
}
PAIRS = [(importer, file) for importer, (_, own) in IMPORTERS.items() for file in FILES if file not in own]


@pytest.mark.parametrize(("importer", "file"), PAIRS)
def test_another_tools_file_is_called_by_its_name(
    put: Put, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, importer: str, file: str
) -> None:
    for name, content in FILES.items():
        put(name, content)
    monkeypatch.chdir(tmp_path)
    said = dsim("import", *IMPORTERS[importer][0], file, "--out", "p")
    assert said.code == 2
    assert said.err.startswith(f"error: {file}")
    assert len(said.err.strip().splitlines()) == 1
    assert "dsim import" in said.err or importer == "vllm --metrics"
    assert not (tmp_path / "p").exists()


def test_mistakes_with_files_are_one_line_and_write_nothing(put: Put, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.chdir(tmp_path)
    good = put("good.json", bench(16, 0.02))
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(good.read_bytes()))
    (tmp_path / "packed.json.xz").write_bytes(b"\xfd7zXZ")
    (tmp_path / "folder").mkdir()
    put("empty.json", "")
    put("nan.json", bench(1, 0.01) | {"mean_tpot_ms": float("nan")})
    put("inf.json", bench(1, 0.01) | {"output_throughput": float("inf")})
    put("huge.json", bench(1, 0.01) | {"output_throughput": 10**400})
    put("text.json", bench(1, 0.01) | {"mean_tpot_ms": "5.5"})
    put("yes.json", bench(1, 0.01) | {"output_throughput": True})
    put("risen.json", bench(1, 0.01) | {"spec_decode_per_position_acceptance_rates": [0.5, 0.7]})
    put("percent.json", bench(1, 0.01) | {"spec_decode_per_position_acceptance_rates": [80.0]})
    put("copy.json", bench(16, 0.02))
    put("cut.json", json.dumps(bench(1, 0.01), indent=1)[:-30])
    expected = {
        "packed.json.gz": "packed.json.gz has the numbers of good.json", "packed.json.xz": "is compressed",
        "folder": "got a folder", "empty.json": "is empty",
        "nan.json": "mean_tpot_ms: expected a finite number, got nan", "inf.json": "output_throughput: expected a finite number, got inf",
        "huge.json": "huge.json: not valid JSON (number 1000", "text.json": "mean_tpot_ms: expected a number, got '5.5'",
        "yes.json": "output_throughput: expected a number, got true", "risen.json": "rates.1: expected at most 0.5",
        "percent.json": "rates.0: expected a number of at most 1", "copy.json": "copy.json has the numbers of good.json",
        "cut.json": "cut.json: not valid JSON",
        "good.json": "has the numbers of good.json", "absent.json": "no such file",
    }  # fmt: skip
    for file, problem in expected.items():
        said = dsim("import", "vllm", "--bench", "good.json", "--bench", file, "--out", "p")
        assert said.code == 2, file
        assert problem in said.err, said.err
        assert len(said.err.strip().splitlines()) == 1
        assert not (tmp_path / "p").exists()
    (tmp_path / "marked.json").write_text(json.dumps(bench(1, 0.01)), encoding="utf-8-sig")
    assert dsim("import", "vllm", "--bench", "good.json", "--bench", "marked.json", "--out", "p").code == 0


def test_a_file_of_single_requests_is_not_an_export(put: Put) -> None:
    record = {"metadata": {"session_num": 0}, "metrics": {"request_latency": {"value": 900.0, "unit": "ms"}}, "error": None}
    with pytest.raises(DsimError, match="is a record of single requests"):
        read_aiperf(put("profile_export.jsonl", lines(record, record)))


def test_one_point_is_too_few(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    said = dsim("import", "vllm", "--bench", put("b.json", bench(16, 0.02)), "--out", tmp_path / "p")
    assert said.code == 2
    assert "too few operating points" in said.err
