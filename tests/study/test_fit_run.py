"""A recorded run: costs found again from the series of a run whose costs are known, and the real run against its committed fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements.profile import load_profile
from simulator.measurements.recorded_run import RecordedRun, read_recorded_run
from simulator.study.profiles.fit_run import RunFit as Fit
from simulator.study.profiles.fit_run import _front_end, compare_run, costs_of, fit_run, simulate_run, token_totals
from simulator.study.validation.published import LIMITS
from tests.study.ranks import record

ROOT = Path(__file__).resolve().parents[2]
TRUE = np.array([0.1, 4e-3, 2e-6, 1e-3, 1e-7])


def write_run(folder: Path, requests: int, costs: Any = None) -> Path:
    """A run of the simulated engine as LLMServingSim's bench would have recorded it; its engine holds 8 requests and 256 tokens a step."""
    luck = np.random.default_rng(3)
    arrival = np.sort(luck.uniform(0, requests / 2, requests))
    prompt, output = luck.integers(40, 400, requests), luck.integers(10, 40, requests)
    none = np.zeros(requests)
    bare = RecordedRun(folder, "m", "e", 1.0, 8, 256, arrival - arrival[0], none, none, none, prompt, output, {"running": np.array([1.0, 8.0])})
    run = simulate_run(bare, costs_of(TRUE, bare))
    first, last = (np.array([getattr(r, name) for r in run.requests]) for name in ("first_token_s", "finish_s"))
    times = np.arange(1, int(10 * last.max()) + 10) / 10  # the series has a row each tenth of a second, and its clock began 0.25 s before
    generated, prompts = (np.diff(total, prepend=0.0) * 10 for total in token_totals(run, times - 0.25))
    inside = [int((bare.arrival_s + 0.25 <= t).sum() - (last + 0.25 <= t).sum()) for t in times]
    folder.mkdir()
    meta = {"model": "m", "vllm_version": "0.19.0", "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8, "max_num_batched_tokens": 256}}
    (folder / "meta.json").write_text(json.dumps(meta))
    with (folder / "requests.jsonl").open("w") as lines:
        for i in range(requests):
            at = 1000.0 + bare.arrival_s[i]
            stamps = {"queued_ts": at - 900, "first_token_ts": 100 + first[i], "last_token_ts": 100 + last[i]}
            row = {"request_id": f"b{i}", "input_toks": int(prompt[i]), "output_toks": int(output[i]), "arrival_time": at} | stamps
            lines.write(json.dumps(row) + "\n")
    rows = [f"{t:g},{p:g},{g:g},{min(n, 8)},{max(n - 8, 0)}\n" for t, p, g, n in zip(times, prompts, generated, inside, strict=True)]
    (folder / "timeseries.csv").write_text("t,prompt_throughput,gen_throughput,running,waiting\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "made", 60)


def test_the_costs_that_made_a_run_explain_its_stamps(made: Path) -> None:
    run = read_recorded_run(made)
    rows = compare_run(run, Fit(costs_of(TRUE, run), 0.25, 0.0, 0))
    assert all(abs(row["difference"]) < 1e-6 for row in rows if "requests, mean" not in row["what"])


def test_a_fit_of_the_series_foresees_the_stamps(made: Path) -> None:
    run = read_recorded_run(made)
    fit = fit_run(run)
    assert fit.residual < 0.02
    found = {row["what"]: row["difference"] for row in compare_run(run, fit)}
    assert abs(found["TPOT p50"]) < 0.08  # a short run pins its costs less well than the real one
    assert abs(found["E2E p50"]) < 0.08
    assert abs(found["TTFT p90"]) < 0.10


def test_wrong_costs_do_not_explain_it(made: Path) -> None:
    run = read_recorded_run(made)
    rows = compare_run(run, Fit(costs_of(TRUE * 1.2, run), 0.25, 0.0, 0))
    assert next(row for row in rows if row["what"] == "TPOT p50")["difference"] == pytest.approx(0.2, abs=0.05)


def test_a_run_becomes_a_profile(made: Path, tmp_path: Path, dsim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_recorded_run(made)
    monkeypatch.setattr("simulator.study.profiles.import_run.fit_run", lambda *_, **__: Fit(costs_of(TRUE, run), 0.25, 0.0, 0))
    said = dsim("import", "vllm-run", made, "--out", tmp_path / "p", "--hardware", "two cards")
    assert said.code == 0, said.err
    profile = load_profile(tmp_path / "p")
    assert (profile.engine, profile.target, profile.gpus_per_replica) == ("vLLM 0.19.0", "m", 2.0)
    assert float(profile.costs.verify.seconds([8], 8, 100)[0]) == pytest.approx(0.1 + 8 * 4e-3 + 8 * 100 * 2e-6)
    assert profile.costs.prefill.seconds(100, 50) == pytest.approx(0.1 + 100 * (1e-3 + 50 * 1e-7))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("meta.json", '"max_num_seqs": 8', '"max_num_seqs": 0', "max_num_seqs: expected a number above 0, got 0"),
        ("meta.json", "engine_kwargs", "settings", "engine_kwargs: required key is missing"),
        ("meta.json", '"max_num_seqs": 8', '"max_num_seqs": 0.5', "max_num_seqs: expected a whole number, got 0.5"),
        ("meta.json", '"tensor_parallel_size": 2', '"tensor_parallel_size": 2, "data_parallel_size": "inf"', "data_parallel_size: expected a whole"),
        (
            "meta.json",
            '"tensor_parallel_size": 2',
            '"tensor_parallel_size": 2, "data_parallel_size": NaN',
            "meta.json: not valid JSON (NaN is not a n",
        ),
        ("meta.json", '"model": "m"', '"model": "m", "num_requests": 61', "num_requests: expected the 61 requests of meta.json, got 60"),
        ("requests.jsonl", '"output_toks"', '"tokens"', "requests.jsonl:1: output_toks"),
        ("requests.jsonl", '"output_toks": ', '"output_toks": 0.5, "x": ', "requests.jsonl:1: output_toks: expected a whole number, got 0.5"),
        ("requests.jsonl", '"output_toks": ', '"output_toks": 99', "timeseries.csv: gen_throughput: counts 1,"),
        ("requests.jsonl", '"last_token_ts": 1', '"last_token_ts": 91', "timeseries.csv: t: ends at "),
        ("timeseries.csv", "\n0.2,", "\n0.7,", "timeseries.csv:3: t: expected a row every 0.1 s, got one at 0.7 s after 0.1 s"),
        ("timeseries.csv", "\n0.2,", "\n0.1,", "timeseries.csv:3: t: expected a row every 0.1 s, got one at 0.1 s after 0.1 s"),
        ("timeseries.csv", "\n0.2,", "\n0.2,1e9", "timeseries.csv:3: prompt_throughput: expected a number of at most 1e+09"),
        ("requests.jsonl", '"first_token_ts": 1', '"first_token_ts": 9', "stamps must follow"),
        ("timeseries.csv", "running", "busy", "running: column is missing"),
        ("timeseries.csv", "\n0.2,", "\n0.2,-1", "timeseries.csv:3: prompt_throughput"),
    ],
)
def test_a_broken_run_is_refused_with_file_and_field(made: Path, tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    folder = shutil.copytree(made, tmp_path / "broken")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DsimError) as caught:
        read_recorded_run(folder)
    assert told in caught.value.line()


def test_ticks_in_which_no_step_ended_have_no_row(made: Path, tmp_path: Path) -> None:
    """As the recorder leaves them out, a long wait between two requests with them."""
    folder = shutil.copytree(made, tmp_path / "idle")
    head, first, *rows, last = (folder / "timeseries.csv").read_text().splitlines()
    kept = [row for row in rows if row.split(",")[1:3] != ["0", "0"]]
    assert len(kept) < 0.8 * len(rows)
    (folder / "timeseries.csv").write_text("\n".join([head, first, *kept, last]) + "\n")
    run, whole = read_recorded_run(folder), read_recorded_run(made)
    for name in ("t", "prompt_throughput", "gen_throughput"):
        assert run.series[name] == pytest.approx(whole.series[name])
    moved = [f"{float(row.split(',')[0]) + 500:g},{row.split(',', 1)[1]}" for row in [*kept[-20:], last]]
    (folder / "timeseries.csv").write_text("\n".join([head, first, *kept[:-20], *moved]) + "\n")
    late = read_recorded_run(folder)
    assert len(late.series["t"]) == len(whole.series["t"]) + 5000
    assert late.series["gen_throughput"].sum() == pytest.approx(whole.series["gen_throughput"].sum())


def test_prompts_that_a_cache_had_are_named(made: Path, tmp_path: Path, dsim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(made, tmp_path / "cached")
    head, *rows = (folder / "timeseries.csv").read_text().splitlines()
    cached = [f"{row},{float(row.split(',')[1]) / 4:g}" for row in rows]
    (folder / "timeseries.csv").write_text("\n".join([f"{head},prompt_cached_throughput", *cached]) + "\n")
    run = read_recorded_run(folder)
    assert (run.cached_share, read_recorded_run(made).cached_share) == (pytest.approx(0.25, rel=1e-3), 0.0)
    monkeypatch.setattr("simulator.study.profiles.import_run.fit_run", lambda *_, **__: Fit(costs_of(TRUE, run), 0.25, 0.0, 0))
    said = dsim("import", "vllm-run", folder, "--out", tmp_path / "p")
    assert "warning: 25% of the prompts' tokens came from a cache, and are fitted as if computed: prompts that are not in it cost more" in said.out


@pytest.mark.shared
def test_the_committed_fit_of_the_real_run_is_what_its_table_says(shared: Path) -> None:
    result = json.loads((ROOT / "docs" / "validation" / "vllm_qwen3_32b_rtxpro6000.json").read_text())
    run = read_recorded_run(shared / "measured" / result["name"])
    for part, fit in result["fits"].items():
        values = np.array([*fit["verify"].values(), *fit["prefill"].values()])
        rows = compare_run(run, Fit(costs_of(values, run), fit["clock_s"], 0.0, 0))
        suffix = "" if "whole" in part else f", {part}"
        table = {row["what"]: row for row in result["rows"]}
        for row in rows:
            assert row["simulated"] == pytest.approx(table[row["what"] + suffix]["simulated"], rel=1e-9)
            assert row["published"] == pytest.approx(table[row["what"] + suffix]["published"], rel=1e-9)
        found = {row["what"]: abs(row["difference"]) for row in rows}
        assert max(found["TPOT p50"], found["E2E p50"]) < 0.03
        assert max(found["TTFT p50"], found["TTFT p90"]) < 0.12


# ---- data parallel ranks, pipeline stages ----

RANK = np.array([0.015, 1.3e-4, 1e-7, 7e-5, 1.5e-9])


def traffic(requests: int, rate_rps: float) -> tuple[Any, Any, Any]:
    """Arrivals, prompts and answers as in a chat."""
    luck = np.random.default_rng(5)
    arrival = np.cumsum(luck.exponential(1 / rate_rps, requests))
    prompt, output = (np.clip(luck.lognormal(mean, 0.8, requests), 4, 2000).astype(int) for mean in (6.3, 5.0))
    return arrival - arrival[0], prompt, output


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("ranks") / "two", *traffic(200, 12.0), RANK, ranks=2)


def test_the_costs_of_a_rank_explain_a_run_of_two(ranked: Path) -> None:
    """The hand-written ranks and the simulated replicas are two programs: they agree at the median and the tail, and one replica does not."""
    run = read_recorded_run(ranked)
    assert (run.replicas, run.gpus, run.max_batch) == (2, 1.0, 128)
    found = {row["what"]: row["difference"] for row in compare_run(run, Fit(costs_of(RANK, run), 0.3, 0.0, 0))}
    assert abs(found["TPOT p50"]) < 0.02
    assert abs(found["E2E p50"]) < 0.06
    assert abs(found["TTFT p50"]) < 0.08
    assert abs(found["TTFT p90"]) < 0.10
    one = {row["what"]: row["difference"] for row in compare_run(replace(run, replicas=1), Fit(costs_of(RANK, run), 0.3, 0.0, 0))}
    assert one["TPOT p50"] > 0.3


def test_a_fit_of_two_ranks_knows_a_rank(ranked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits that the real run keeps (E2E of so few requests depends on which rank took what), from a fit that knows neither the costs nor
    which rank took which request."""
    monkeypatch.setattr("simulator.study.profiles.fit_run.TRIALS", 60)
    run = read_recorded_run(ranked)
    fit = fit_run(run)
    found = {row["what"]: abs(row["difference"]) for row in compare_run(run, fit)}
    for what, limit in LIMITS.items():
        assert found[what] < (2 if what == "E2E p50" else 1) * limit, what
    assert fit.residual < 0.01
    assert fit.front_end_s == 0.0
    assert float(fit.costs.verify.seconds([40], 40, 800)[0]) == pytest.approx(0.015 + 40 * (1.3e-4 + 800 * 1e-7), rel=0.05)


def test_two_ranks_are_a_profile_of_one(ranked: Path, tmp_path: Path, dsim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_recorded_run(ranked)
    monkeypatch.setattr("simulator.study.profiles.import_run.fit_run", lambda *_, **__: Fit(costs_of(RANK, run), 0.3, 0.001, 0, 0.004))
    said = dsim("import", "vllm-run", ranked, "--out", tmp_path / "p", "--format", "json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["replicas"], found["rms"], found["warnings"]) == (2, 0.001, [])
    assert {row["fit"] for row in found["comparison"]} == {"fitted to all of it", f"fitted to its first {run.half_s:g} s"}
    profile = load_profile(tmp_path / "p")
    assert profile.gpus_per_replica == 1.0
    assert "2 data parallel ranks" in profile.assumed[0]
    assert "4.0 ms after their arrival" in profile.assumed[1]


def test_what_a_front_end_takes_is_seen_beside_the_wait_for_a_step(tmp_path: Path) -> None:
    """Requests are queued between steps; what they wait beyond that is the front end's, here 30 ms for all but the first."""
    arrival, prompt, output = traffic(200, 12.0)
    late = np.where(np.arange(200) == 0, 0.0, 0.03)
    run = read_recorded_run(record(tmp_path / "late", arrival + late, prompt, output, RANK, ranks=2))
    run = replace(run, arrival_s=run.arrival_s - late)  # stamped before the front end
    simulated = simulate_run(run, costs_of(RANK, run))
    assert _front_end(run, simulated) == pytest.approx(0.03, rel=0.25)
    rows = {row["what"]: row for row in compare_run(run, Fit(costs_of(RANK, run), 0.3, 0.0, 0, 0.03))}
    assert abs(rows["TTFT p50"]["difference"]) < 0.08
    prompt_run = replace(run, arrival_s=run.arrival_s + late)
    assert _front_end(prompt_run, simulate_run(prompt_run, costs_of(RANK, run))) == 0.0


def test_more_running_than_the_engines_hold_is_another_number_of_engines(tmp_path: Path) -> None:
    folder = record(tmp_path / "more", *traffic(300, 60.0), RANK, ranks=2, data_parallel_size=1)
    with pytest.raises(DsimError, match=r"timeseries\.csv:\d+: running: counts \d+ running requests, and meta.json allows 128") as caught:
        read_recorded_run(folder)
    assert "data_parallel_size" in caught.value.line()


def test_stages_make_one_replica_of_more_gpus(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "staged")
    meta = json.loads((folder / "meta.json").read_text())
    meta["engine_kwargs"]["pipeline_parallel_size"] = 4
    (folder / "meta.json").write_text(json.dumps(meta))
    run = read_recorded_run(folder)
    assert (run.replicas, run.gpus, run.max_batch, run.token_budget) == (1, 8.0, 8, 4 * 256)
    meta["resolved_config"] = {"parallel_config": {"pipeline_parallel_size": 2, "data_parallel_size": None}}
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DsimError, match=r"pipeline_parallel_size: is 4, and 2 in resolved_config"):
        read_recorded_run(folder)


def test_a_fit_that_misses_is_warned_of_or_refused(made: Path, tmp_path: Path, dsim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_recorded_run(made)

    def importing(residual: float, out: str, kept_back: float = 0.5) -> Any:
        monkeypatch.setattr("simulator.study.profiles.import_run.fit_run", lambda *_, **__: Fit(costs_of(TRUE, run), 0.25, residual, 0))
        monkeypatch.setattr(RecordedRun, "kept_back", kept_back)
        return dsim("import", "vllm-run", made, "--out", tmp_path / out)

    assert "warning: the fit leaves 2.0% of all tokens over" in importing(0.02, "a").out
    assert "the fit leaves 2.0% of all tokens over (rms): the engine did something else too" in load_profile(tmp_path / "a").not_identifiable
    said = importing(0.06, "b")
    assert said.code == 2
    assert "misses the running totals by 6.0% of all tokens rms" in said.err
    assert not (tmp_path / "b").exists()
    said = importing(0.001, "c", kept_back=0.1)
    assert "warning: no half was kept back: after" in said.out
    assert "10% of the output tokens" in said.out
    assert "fitted to its first" not in said.out
