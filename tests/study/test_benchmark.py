"""Runs as a benchmark client prints them: against a client and an engine written down in a few lines, on both paths, from YAML and in process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import OpenTraffic, observe
from simulator.measurements.prices import RoundCost
from simulator.policies.prefill import Chunked, Separate
from simulator.policies.verification import ConfidenceScheduled, FixedLength
from simulator.report.run import tables
from simulator.study.run.benchmark import alike, play
from simulator.study.run.client import printed
from simulator.study.run.conditions import conditions
from simulator.study.run.meter import Meter
from simulator.study.run.output import read_result
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from simulator.traffic.request import RequestColumns
from simulator.traffic.workload import Workload
from tests.conftest import SCENARIO, Content, Dsim
from tests.engine import worlds

PLAIN = {"policies": SCENARIO["policies"][:1], "sla": None, "baseline": None}
COSTS = worlds.costs(base=0.01, per_token=1e-4, prefill=(0.01, 1e-4))


def client(**flags: Any) -> Content:
    return {"arrivals": {"kind": "benchmark", "client": "vllm", "num_prompts": 12, "random_input_len": 50, "random_output_len": 21} | flags}


def by_hand(requests: RequestColumns, users: int, room: int) -> dict[str, float]:
    """An engine that does prompts first, `room` tokens a step, and a client with so many requests in flight: 10 ms and 0.1 ms a token."""
    coming = list(zip(requests.prompt_tokens.tolist(), requests.output_tokens.tolist(), strict=True))
    now, queue, batch, ttft, tpot, gaps = 0.0, [[p, o, 0.0] for p, o in coming[:users]], [], [], [], []
    coming = coming[users:]
    while queue or batch:
        if queue:
            left, now_tokens, before = room, 0, now
            for prompt in queue:
                prompt[0] -= (part := min(prompt[0], left))
                left, now_tokens = left - part, now_tokens + part
            now = before + 0.010 + 1e-4 * now_tokens
            for _, answer, sent in (done for done in queue if not done[0]):
                ttft.append(now - sent)
                batch.append([answer - 1, answer, now, now])
            queue = [prompt for prompt in queue if prompt[0]]
        else:
            now += 0.010 + 1e-4 * len(batch)
            for one in batch:
                one[0] -= 1
                gaps.append(now - one[3])
                one[3] = now
            for _, answer, first, _ in (done for done in batch if not done[0]):
                tpot.append((now - first) / (answer - 1))
                queue += [[*coming.pop(0), now]] if coming else []
            batch = [one for one in batch if one[0]]
    times = {"ttft": ttft, "tpot": tpot, "itl": gaps}
    said = {f"{name}_{time}_ms": 1000 * of(values) for time, values in times.items() for name, of in (("mean", np.mean), ("std", np.std))}
    said |= {f"{name}_{time}_ms": 1000 * np.percentile(times[time], q) for time in ("ttft", "tpot") for name, q in (("median", 50), ("p99", 99))}
    return said | {"duration": now, "output_throughput": requests.output_tokens.sum() / now}


def test_a_benchmark_is_not_a_service_under_way() -> None:
    """640 prompts of 1,024 and 1,024 tokens, 128 in flight, prompts first: waves of 16 steps of prompts, so a mean TTFT of 8.5 of them (a service
    under way has 0.12 s), then of 1,023 steps of 128 tokens; TPOT has half the other prompts in it."""
    played = play(RoundCost(COSTS, None, 0, 0), ReplicaSettings(prefill=Separate(max_tokens=8192)), alike(640, 1024, 1024), 128)
    assert played.known("mean_ttft_ms") == pytest.approx(8.5 * 829.2)
    assert played.known("mean_tpot_ms") == pytest.approx(22.8 + 7.5 * 829.2 / 1023)
    assert played.known("output_throughput") == pytest.approx(640 * 1024 / (5 * (16 * 0.8292 + 1023 * 0.0228)))


@pytest.mark.parametrize("users, prompts, ratio", [(7, 40, 0.5), (30, 20, 0.8), (20, 60, 1.0)])
def test_a_client_by_hand(users: int, prompts: int, ratio: float) -> None:
    flags = {"client": "sglang", "num_prompts": prompts, "random_input_len": 200, "random_output_len": 200, "random_range_ratio": ratio}
    requests = Workload.model_validate(client(**flags)).sent(users, 1, 0, 0)
    played = play(RoundCost(COSTS, None, 0, 0), ReplicaSettings(prefill=Separate(max_tokens=512)), requests, users)
    said = by_hand(requests, users, 512)
    assert {name: played.known(name) for name in said} == pytest.approx(said, rel=1e-6, abs=1e-3)
    assert played.path == "compiled"


@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_a_chunk_holds_what_a_round_commits(path: Any) -> None:
    """Answers of 21 tokens, two a round: ten chunks after the first token. vLLM's ITL is the gap of a chunk, SGLang's is shared among its tokens."""
    drawn = worlds.replay(worlds.blocks([[1] * 400], 1))
    fleet = worlds.fleet(COSTS, FixedLength(length=1), drawn, worlds.drafting(), max_batch=8)
    meter, requests = Meter.whole(), alike(8, 50, 21)
    end = observe(OpenTraffic(requests, 0.0, np.inf, 0.0, in_flight=4), fleet, meter, path)
    said, sglang = printed("vllm", meter, end, False), printed("sglang", meter, end, False)
    step_ms = 1000 * (0.01 + 8e-4)
    expected = {"mean_itl_ms": step_ms, "median_itl_ms": step_ms, "mean_tpot_ms": step_ms / 2, "mean_e2el_ms": 10 * step_ms, "std_tpot_ms": 0.0}
    assert {name: said[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert (said["mean_ttft_ms"], said["spec_decode_acceptance_length"], said["spec_decode_acceptance_rate"]) == (None, 2, 100)
    assert (said["completed"], said["failed"], said["total_input_tokens"], said["total_output_tokens"]) == (8, 0, 400, 168)
    assert sglang["mean_itl_ms"] == pytest.approx(step_ms / 2)
    assert (sglang["p99_itl_ms"], sglang["accept_length"]) == (None, 2)
    assert sglang["mean_e2e_latency_ms"] == said["mean_e2el_ms"]
    assert sglang["concurrency"] == pytest.approx(4)
    assert sglang["total_throughput"] == said["total_token_throughput"] == pytest.approx(568 / (20 * step_ms / 1000))


def test_warm_up_requests_leave_nothing_behind() -> None:
    """So they need not be played: with eight that end before the clock starts, every number is the same but for the last digits of a later clock. The
    rule looks two steps back."""
    drawn = worlds.replay(worlds.independent([0.8, 0.6, 0.5], 640, seed=3))
    fleet = worlds.fleet(COSTS, ConfidenceScheduled(), drawn, worlds.drafting(base=1e-3), max_batch=16, prefill=Chunked(token_budget=256))
    prompts, early, at_s = alike(40, 100, 60), alike(8, 100, 60), 1024.0
    later = replace(prompts, arrival_s=np.full(40, at_s))
    warmed = RequestColumns.of([*(replace(spec, index=1000 + spec.index) for spec in early), *later])
    cold, warm = Meter.whole(), Meter(float(np.nextafter(at_s, 0.0)), np.inf, open_loop=False)
    end = observe(OpenTraffic(prompts, 0.0, np.inf, 0.0, in_flight=8), fleet, cold)
    after = observe(OpenTraffic(warmed, at_s, np.inf, 0.0, in_flight=8), fleet, warm)
    said = {name: value for name, value in printed("vllm", cold, end, True).items() if value is not None}
    again = printed("vllm", warm, replace(after, end_s=after.end_s - at_s), True)
    assert {name: again[name] for name in said} == pytest.approx(said, rel=1e-6, abs=1e-4)
    assert said["spec_decode_acceptance_length"] != 1


def test_a_client_whose_requests_are_all_refused() -> None:
    played = play(RoundCost(COSTS, None, 0, 0), ReplicaSettings(), alike(3, 100, 10), 2, max_context=50)
    assert [played.numbers[name] for name in ("completed", "failed", "duration", "output_throughput", "mean_ttft_ms")] == [0, 3, 0, 0, None]


def test_the_table_is_in_the_result_and_on_the_page(scenario: Callable[..., Path], dsim: Dsim) -> None:
    """Four in flight, twelve answers of 21 tokens at 11.4 ms a step: three waves, the first token at once; goodput is judged by its limit."""
    path = scenario(
        workload=client(num_warmups=8), load=[2, 4], baseline=None, sla={"goodput": {"tpot_s": 0.0113}}, run={"replications": 2, "requests": 5}
    )
    told = dsim("run", path, "--out", "out", "--no-report")
    assert told.code == 0, told.err
    for words in ("As the benchmark client prints it", "mean_tpot_ms", "request_throughput"):
        assert words in told.out
    assert "p95_tpot_ms" not in told.out
    whole = tables.client(read_result(Path("out")))
    (row,) = [row for row in whole.groups[0].rows if row[0].text == "p95_tpot_ms"]
    assert [cell.text for cell in row] == ["p95_tpot_ms", "11.20", "11.40"]
    result = json.loads(Path("out/result.json").read_text())
    points = {(point["policy"], point["load"]): point["client"] for point in result["frontier"]}
    plain = {name: value["mean"] for name, value in points["plain", 4].items()}
    assert [plain["mean_tpot_ms"], plain["p99_tpot_ms"]] == pytest.approx([11.4] * 2)
    assert plain["duration"] == pytest.approx(60 * 0.0114)
    assert plain["request_throughput"] == pytest.approx(12 / (60 * 0.0114))
    assert plain["mean_ttft_ms"] is None  # prefill: instant
    assert (plain["request_goodput"], points["plain", 2]["request_goodput"]["mean"]) == (0, pytest.approx(12 / (120 * 0.0112)))
    assert points["scheduled", 4]["spec_decode_acceptance_length"]["mean"] > 1.2
    table = csv.DictReader(Path("out/points.csv").read_text().splitlines())
    rows = {(row["policy"], float(row["load"]), row["replication"]): row for row in table}
    assert float(rows["plain", 4, "0"]["throughput_tok_s_gpu"]) == pytest.approx(plain["output_throughput"])
    assert int(rows["plain", 4, "0"]["requests"]) == plain["completed"] == 12
    (said,) = [line for line in result["conditions"] if line.startswith("Benchmark client (vllm): 12 prompts, all at once")]
    assert "Its 8 warm-up requests would change no number" in said
    assert "Prompts have 50 tokens, answers 21." in said
    copytree("out", "other")
    assert dsim("compare", "out", "other").code == 0
    remarks = " ".join(remark["text"] for remark in result["warnings"])
    assert "12 prompts with 4 in flight" in remarks
    assert "No effect with a benchmark client: run.requests" in remarks


def test_a_rate_is_a_load_too(scenario: Callable[..., Path]) -> None:
    """Few prompts at a rate: all have ended, and the last was sent at num_prompts ÷ rate."""
    of = load_scenario(scenario(**PLAIN, workload=client(load_flag="request_rate", max_concurrency=2, num_prompts=40), load=[5, 500]))
    slow, *_, fast = sweep(of, workers=1)
    assert any("40 prompts, at the load's rate (Poisson); in flight: at most 2 in all" in line for line in conditions(of))
    assert (slow.client["completed"], fast.client["completed"]) == (40, 40)
    answer_s = 20 * 0.0111
    assert slow.client["duration"] == pytest.approx(40 / 5 + answer_s, rel=0.02)
    assert fast.client["duration"] == pytest.approx(20 * 20 * 0.0112, rel=0.02)  # as the limit allows
    assert fast.client["mean_e2el_ms"] == pytest.approx(20 * 11.2, rel=0.02)  # from sending


def test_a_prediction_interval_and_a_fleet(scenario: Callable[..., Path], dsim: Dsim) -> None:
    path = scenario(**PLAIN, workload=client(num_prompts=None, prompts_per_concurrency=3), load=[4], fleet={"replicas": 2})
    told = dsim("run", path, "--out", "out", "--prediction-interval", "--no-report")
    assert told.code == 0, told.err
    (point,) = json.loads(Path("out/result.json").read_text())["frontier"]
    assert point["prediction"]["tps_per_user_mean"]["low"] < point["metrics"]["tps_per_user_mean"]["mean"]
    assert point["client"]["completed"]["mean"] == 24  # three for each of eight in flight
    speed, tpot = point["prediction"]["tps_per_user_mean"], point["prediction"]["mean_tpot_ms"]  # all requests are alike
    assert [1000 / tpot["high"], 1000 / tpot["low"]] == pytest.approx([speed["low"], speed["high"]], rel=1e-3)
    assert "completed" not in point["prediction"]


@pytest.mark.parametrize("changes, wrong", [
    ({"workload": client(num_prompts=None)}, "expected num_prompts, prompts_per_concurrency or both"),
    ({"workload": client() | {"max_concurrency": 4}}, "move it to arrivals"),
    ({"workload": client() | {"output_tokens": {"kind": "fixed", "tokens": 3}}}, "output_tokens and the client's"),
    ({"workload": client(random_input_len=None, random_output_len=None)}, "missing: prompt_tokens, output_tokens"),
    ({"workload": client(), "fleet": {"failures": {"every_hours": 1}}}, "fleet.failures"),
    ({"workload": client(num_prompts=None, prompts_per_concurrency=50_000_000)}, "the client sends 300,000,000 prompts"),
    ({"workload": client(client="locust")}, "'vllm', 'sglang' or 'inferencemax'"),
    ({"workload": client(request_rates=3)}, "did you mean 'request_rate'"),
    ({"workload": client(warmup_requests=3)}, "did you mean 'num_warmups'"),
])  # fmt: skip
def test_mistakes_are_one_line(scenario: Callable[..., Path], dsim: Dsim, changes: Content, wrong: str) -> None:
    told = dsim("run", scenario(**PLAIN, **changes), "--out", "out")
    assert (told.code, wrong in told.err, told.err.count("\n")) == (2, True, 1), told.err
    assert not Path("out").exists()
