"""Operating points of every client: what they say of users, prompts, failures and of the batch that users saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements.formats.aiperf import read_aiperf
from simulator.measurements.formats.bench import read_bench
from simulator.measurements.formats.guidellm import read_guidellm
from simulator.measurements.formats.loadgen import LoadPoint, read_loads
from tests.exchange.engine_files import aiperf, bench, guidellm

REAL = Path(__file__).parent / "real"
AIPERF = REAL / "aiperf" / "profile_export_aiperf.json"
Put = Callable[..., Path]


def test_a_real_aiperf_export_with_its_servers_counters() -> None:
    loads = read_aiperf(AIPERF)
    (point,) = loads.points
    assert (point.offered, point.requests, point.failed, point.model) == (8, 24, 0, "smollm2")
    assert (point.prompt_tokens, point.output_tokens) == (128, 64)  # as the server counts them: the client's tokenizer makes 98 and 62.9
    assert 1 / point.tps_per_user == pytest.approx(10.39095 / 63, rel=0.003)  # decode_duration
    assert (point.accepted_length, point.budget, point.slots, point.proposing) == (1, 1, 0, 0)
    assert loads.remarks == ["profile_export_aiperf.json: the server counted 2,304 tokens, the client 1,536: other traffic is in its counters"]


def test_counters_beside_an_export_are_of_the_same_benchmark(put: Put) -> None:
    export = json.loads(AIPERF.read_text())
    path = put("profile_export_aiperf.json", export)
    (alone,) = read_aiperf(path).points
    assert (alone.accepted_length, alone.rounds) == (1, 24 * 61.875)  # from its pieces
    put("server_metrics_export.json", json.loads((REAL / "aiperf" / "server_metrics_export.json").read_text()) | {"benchmark_id": "other"})
    assert read_aiperf(path).points == [alone]


def test_a_real_guidellm_report() -> None:
    (point,) = read_guidellm(REAL / "guidellm-c4.json").points
    assert (point.offered, point.requests, point.failed, point.model) == (4, 12, 0, "smollm2")
    assert (point.prompt_tokens, point.output_tokens, point.duration_s) == (128, 64, pytest.approx(40.26, abs=0.01))
    assert point.in_flight == pytest.approx(3.9886, rel=2e-3)  # request_concurrency
    assert (point.accepted_length, point.slots) == (1, 0)


def test_users_who_are_not_alike_have_a_mean_time_per_token(put: Put) -> None:
    for users in (2, 16, 64):  # half of them at 4 tokens a round, half at 1.5: requests end in proportion, 2.75 tokens a round in the mean
        step = 0.010 + 0.0001 * 8 * users
        content = aiperf(users, 1.0)
        content["inter_token_latency"]["avg"] = step / 2.75 * 1e3
        content["output_token_throughput"]["avg"] = users * 2.75 / step
        content["output_token_throughput_per_user"]["avg"] = (4 * 4 + 1.5 * 1.5) / 5.5 / step
        (point,) = read_aiperf(put("a.json", content)).points
        assert (point.concurrency, 2.75 / point.tps_per_user) == pytest.approx((users, step))
    content["output_token_throughput_per_user"]["avg"] *= 1000
    with pytest.raises(DsimError, match=r"output_token_throughput_per_user: says .* tokens per second, and inter_token_latency .*; check the units"):
        read_aiperf(put("a.json", content))


def test_unfinished_requests_were_in_the_batch_too(put: Put) -> None:
    content = guidellm([(64, 0.0164)])
    metrics = content["benchmarks"][0]["metrics"]
    metrics["request_totals"] = {"successful": 200, "incomplete": 64, "errored": 0, "total": 264}
    whole = metrics["output_tokens_per_second"]["total"]["mean"]
    metrics["output_tokens_per_second"]["successful"]["mean"] = 0.84 * whole
    content["benchmarks"][0]["config"] = {"strategy": {"type_": "concurrent", "streams": 64}}
    loads = read_loads([put("g.json", content)], read_guidellm)
    (point,) = loads.points
    assert point.concurrency == pytest.approx(64)
    assert (point.offered, point.requests, point.failed) == (64, 200, 0)


def closed_loop(users: int, turns: int, seed: int) -> tuple[dict[str, Any], float]:
    """A bench result of a world of T(B) = 10 ms + 0.1 ms × B with unlike answers, sent all at once, and the batch that users saw."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 381, users * turns).tolist()
    running: list[list[float]] = []  # tokens left, tokens, first token at
    waiting, clock, tpots, saw = lengths[::-1], 0.0, [], []
    while waiting or running:
        while waiting and len(running) < users:
            tokens = waiting.pop()
            running.append([tokens - 1, tokens, clock])
        clock += 0.010 + 0.0001 * len(running)
        for request in running:
            request[0] -= 1
        tpots += [(clock - first) / (tokens - 1) for left, tokens, first in running if not left]
        running = [request for request in running if request[0]]
    saw = (float(np.mean(tpots)) - 0.010) / 0.0001
    told = {"mean_tpot_ms": 1e3 * float(np.mean(tpots)), "output_throughput": sum(lengths) / clock, "mean_ttft_ms": 0.001, "duration": clock}
    return told | {"max_concurrency": users, "num_prompts": users * turns, "completed": users * turns, "total_output_tokens": sum(lengths)}, saw


@pytest.mark.parametrize(("users", "turns"), [(16, 2), (64, 2), (256, 2), (64, 3), (64, 8)])
def test_the_end_of_a_run_does_not_make_its_batch_small(put: Put, users: int, turns: int) -> None:
    told, saw = closed_loop(users, turns, 3)
    loads = read_loads([put("b.json", told)], read_bench)
    (point,) = loads.points
    plain = point.throughput_tok_s / point.tps_per_user
    assert point.concurrency == pytest.approx(saw, rel=0.05 if users > 16 else 0.12)
    assert abs(point.concurrency / saw - 1) < abs(plain / saw - 1)
    if turns == 2:
        assert plain < 0.9 * saw
        assert f"of {users} users were in flight in the mean: {users * turns} requests are few" in loads.remarks[0]


def test_files_of_one_name_are_told_apart_in_remarks_too(tmp_path: Path) -> None:
    files = [tmp_path / folder / "c16.json" for folder in ("none", "ngram3")]
    for file, turns in zip(files, (2, 3), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps(bench(16, 0.02) | closed_loop(16, turns, 3)[0]))
    loads = read_loads(files, read_bench)
    assert [point.source for point in loads.points] == ["none/c16.json", "ngram3/c16.json"]
    assert [remark.partition(":")[0] for remark in loads.remarks] == ["none/c16.json", "ngram3/c16.json"]


def test_a_long_run_keeps_its_batch() -> None:
    point = LoadPoint("f", 50.0, 400.0, 0.1, output_tokens=101, requests=800, offered=8)
    assert point.in_flight == pytest.approx(400 / 101 * 2.1)
    assert point.concurrency == pytest.approx(400 * 100 / 101 / 50)


@pytest.mark.parametrize(("failed", "said"), [(2, None), (19, "19 of 200 requests failed"), (80, "refused")])
def test_failed_requests_are_named_and_many_refused(put: Put, failed: int, said: str | None) -> None:
    path = put("b.json", bench(4, 0.01) | {"completed": 200 - failed, "failed": failed})
    if said == "refused":
        with pytest.raises(DsimError, match=r"b\.json: failed: 80 of 200 requests failed, and the numbers are of the others; measure a load"):
            read_loads([path], read_bench)
    else:
        remarks = " ".join(read_loads([path], read_bench).remarks)
        assert (said is None) == ("failed" not in remarks)
        assert said is None or said in remarks
    older = {key: value for key, value in bench(4, 0.01).items() if key != "failed"} | {"completed": 200 - failed}
    assert read_bench(put("c.json", older)).points[0].failed == failed


def test_a_rate_of_arrivals_keeps_no_number_of_users(put: Put) -> None:
    assert read_bench(put("b.json", bench(4, 0.01))).points[0].offered == 4
    assert read_bench(put("b.json", bench(4, 0.01) | {"request_rate": 3.5})).points[0].offered is None
    assert read_bench(put("b.json", bench(4, 0.01) | {"request_rate": "trace"})).points[0].offered is None
    assert read_bench(put("b.json", bench(4, 0.01) | {"request_rate": float("inf")})).points[0].offered == 4  # as SGLang's client writes it
    assert read_bench(put("b.json", bench(4, 0.01) | {"max_concurrency": None})).points[0].offered is None


def test_a_row_of_sglang_verifies_in_every_round(put: Put) -> None:
    row = {"backend": "sglang", "mean_tpot_ms": 6.25, "mean_itl_ms": 6.25, "output_throughput": 160.0, "duration": 100.0, "completed": 8}
    row |= {"total_output_tokens": 16_000, "total_input_tokens": 8192, "max_concurrency": 1, "mean_ttft_ms": 40.0}
    (point,) = read_bench(put("r.jsonl", json.dumps(row | {"accept_length": 3.2}))).points
    assert (point.accepted_length, point.budget, point.proposing, point.rounds) == (3.2, None, 1, (16_000 - 8) / 3.2)
    assert (point.prompt_tokens, point.output_tokens, point.requests, point.offered) == (1024, 2000, 8, 1)
    (point,) = read_bench(put("r.jsonl", json.dumps(row | {"accept_length": None}))).points
    assert (point.accepted_length, point.proposing) == (None, None)  # its client shares a gap out among its tokens, so that pieces look like tokens


def test_tokens_that_the_throughput_contradicts_are_not_used(put: Put) -> None:
    sound = read_bench(put("b.json", bench(4, 0.01)))
    assert (sound.points[0].rounds, sound.points[0].proposing, sound.remarks) == (1000, 1, [])
    loads = read_bench(put("b.json", bench(4, 0.01) | {"total_output_tokens": 60_000}))
    (point,) = loads.points
    assert (point.accepted_length, point.budget, point.proposing, point.output_tokens) == (1.8, 2, None, None)  # per draft, as the counters say
    assert loads.remarks[0].startswith("b.json: says 60,000 tokens, and 800 a second for 2.5 seconds: rounds and lengths of answers cannot be read")
