"""A score says how far off a seal was: errors by hand, noise, decisions, and what was left out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from simulator.report.board.page import board_page
from simulator.report.render.markdown import markdown
from simulator.study.sealed.make_score import score_of
from simulator.study.sealed.measured import read_result
from simulator.study.sealed.result import Score
from simulator.study.sealed.score import limits
from simulator.study.sealed.seal import Seal, read_seal
from tests.conftest import ROOT, Dsim
from tests.sealed.conftest import CLIENT, Write

REAL = ROOT / "tests" / "exchange" / "real" / "vllm_cpu"


def whole(write: Write, factors: dict[tuple[str, float], float]) -> list[str]:
    return [f"{policy}={write(f'{policy}-{load:g}.json', policy, load, factor)}" for (policy, load), factor in factors.items()]


FACTORS = {("plain", 2.0): 1.0, ("plain", 6.0): 1.25, ("MTP-1", 2.0): 0.8, ("MTP-1", 6.0): 1.0}


def test_errors_are_predicted_over_measured(sealed: Seal, result_file: Write) -> None:
    score = score_of(sealed, "x", whole(result_file, FACTORS))
    errors = {(cell.policy, cell.load): cell.numbers["tps_per_user"].error for cell in score.cells}
    assert errors == pytest.approx({("plain", 2.0): 0, ("plain", 6.0): -0.2, ("MTP-1", 2.0): 0.25, ("MTP-1", 6.0): 0})
    assert score.cells[0].files_sha256 == (hashlib.sha256(Path(score.cells[0].files[0]).read_bytes()).hexdigest(),)
    speed = score.errors_of("tps_per_user")
    assert speed is not None
    assert (speed.cells, speed.median, speed.worst) == (4, pytest.approx(0.1), pytest.approx(0.25))
    assert (speed.worst_at.policy, speed.worst_at.load) == ("MTP-1", 2)
    assert speed.noise is None
    kept = {limit.what: limit.ok for limit in score.limits}
    assert kept["worst error of per-user speed"] is kept["median error of per-user speed"] is False
    assert not score.ok
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_an_exact_prediction_keeps_every_limit_but_that_its_intervals_are_too_wide(sealed: Seal, result_file: Write) -> None:
    score = score_of(sealed, "x", whole(result_file, dict.fromkeys(FACTORS, 1.0)))
    assert [limit.what for limit in score.limits if not limit.ok] == ["measurements within the 90 % interval"]
    assert score.mean_regret == 0
    assert score.ranking.right == score.ranking.pairs == 2
    assert all(knee.predicted == knee.measured for knee in score.knees)


def test_following_a_wrong_order_costs_what_the_best_would_have_given(sealed: Seal, result_file: Write) -> None:
    ahead = [sealed.conditions[0].cell(policy, 2.0) for policy in ("MTP-1", "plain")]
    over = ahead[0].numbers["tps_per_user"].value / ahead[1].numbers["tps_per_user"].value  # type: ignore[union-attr]
    assert over > 1.1
    score = score_of(sealed, "x", whole(result_file, FACTORS | {("plain", 2.0): 2 * over}))
    (regret,) = [one for one in score.regret if one.load == 2]
    assert (regret.chosen, regret.best) == ("MTP-1", "plain")
    assert regret.loss == pytest.approx(1 - 0.8 / 2)  # 0.8 · MTP-1 instead of 2 · over · plain
    (wrong,) = score.ranking.wrong
    assert (wrong.first, wrong.second, wrong.load) == ("plain", "MTP-1", 2)
    assert wrong.predicted == pytest.approx(1 / over - 1)


def test_a_promise_that_no_policy_was_measured_to_keep_is_named(sealed: Seal, result_file: Write) -> None:
    score = score_of(sealed, "x", whole(result_file, {key: factor / 100 for key, factor in FACTORS.items()}))
    promises = sealed.conditions[0].decisions.promises
    assert not any(one.tps_per_user for one in score.regret)
    assert [remark for remark in score.remarks if "promised" in remark] == [
        f"small: promised {promise.tps_per_user:.3g} tok/s per user: no policy was measured to keep it (the seal: {promise.policy})"
        for promise in promises
    ]
    assert promises


def test_repeats_are_averaged_and_say_the_noise(sealed: Seal, result_file: Write) -> None:
    over = {load: _ratio(sealed, load) for load in (2.0, 6.0)}
    files = [f"plain={result_file(f'p{i}.json', 'plain', 2, factor)}" for i, factor in enumerate((0.9, 1.1))]
    files.append(f"MTP-1={result_file('m.json', 'MTP-1', 2, 1.05 / over[2.0])}")  # 5 % above plain: within noise of 14 %
    score = score_of(sealed, "x", files)
    plain = next(cell for cell in score.cells if cell.policy == "plain")
    assert (plain.repeats, plain.numbers["tps_per_user"].error) == (2, pytest.approx(1 / 0.99 - 1))  # of the times' mean, (1/0.9 + 1/1.1) ÷ 2
    speed = score.errors_of("tps_per_user")
    assert speed is not None
    assert speed.noise == pytest.approx(0.142, abs=0.001)  # (log 1.1 - log 0.9) ÷ √2
    assert (score.ranking.pairs, score.ranking.ties) == (0, 1)
    assert {(place.policy, place.load) for place in score.not_measured} == {("plain", 6), ("MTP-1", 6)}
    assert any(remark.startswith("sealed and not measured: small/plain at 6") for remark in score.remarks)


def test_open_loops_without_repeats_have_the_noise_of_closed_ones(
    world: Path, sealed: Seal, result_file: Write, scenario: Callable[..., Path], dsim: Dsim
) -> None:
    arrivals = {"kind": "benchmark", "client": "vllm", "load_flag": "request_rate", "num_prompts": 8}
    scenario("open.yaml", **CLIENT | {"workload": CLIENT["workload"] | {"arrivals": arrivals}, "load": [3]})
    assert dsim("predict", "small.yaml", "open.yaml", "--seal", "both.json").code == 0
    rate = {"request_rate": 3.0, "max_concurrency": None}
    files = [f"small/plain={result_file(f'p{i}.json', 'plain', 2, factor)}" for i, factor in enumerate((0.9, 1.1))]
    files.append(f"open/plain={result_file('o.json', 'plain', 2, **rate)}")
    files.append(f"open/MTP-1={result_file('m.json', 'MTP-1', 2, 1.05 / _ratio(sealed, 2.0), **rate)}")  # 5 % above plain: within noise of 14 %
    score = score_of(read_seal(world / "both.json"), "x", files)
    assert (score.ranking.pairs, score.ranking.ties) == (0, 1)
    speed = score.errors_of("tps_per_user", "rate_rps")
    assert speed is not None
    assert speed.noise == pytest.approx(0.142, abs=0.001)
    noise = [remark for remark in score.remarks if "measured twice" in remark]
    assert noise == ["no cell of open loops was measured twice: their noise is taken to be that of closed loops"]


def test_when_a_measurement_began_counts_and_what_was_recommended_is_missed(sealed: Seal, result_file: Write) -> None:
    at = datetime.fromisoformat(sealed.sealed_at)
    after = (at + timedelta(minutes=2)).astimezone().strftime("%Y%m%d-%H%M%S")
    best = next(choice.policy for choice in sealed.conditions[0].decisions.recommended if choice.load == 2)
    (other,) = {"plain", "MTP-1"} - {best}
    for seconds, date, words in (
        (60, after, None), (600, after, "1 of 1 measurements are older than the seal"), (60, "", "1 of 1 files do not say when they were measured"),
        (60, (at + timedelta(minutes=2)).isoformat(), None),
    ):  # fmt: skip
        score = score_of(sealed, "x", [f"{other}={result_file('p.json', other, 2, date=date, duration=seconds)}"])
        assert (score.older, score.undated) == ((words or "").count("older"), (words or "").count("do not say"))
        dated = [remark for remark in score.remarks if "older" in remark or "do not say" in remark]
        assert [remark[: len(words or "")] for remark in dated] == ([words] if words else [])
        assert any(remark.startswith(f"recommended and not measured: small/{best} at 2; ") for remark in score.remarks)


def _ratio(seal: Seal, load: float) -> float:
    first, second = (seal.conditions[0].cell(policy, load) for policy in ("MTP-1", "plain"))
    assert first is not None
    assert second is not None
    return first.numbers["tps_per_user"].value / second.numbers["tps_per_user"].value


def test_what_was_not_sealed_failed_or_was_another_benchmark_is_named(sealed: Seal, result_file: Write) -> None:
    files = [
        f"plain={result_file('a.json', 'plain', 2)}",
        f"plain={result_file('b.json', 'plain', 2, 1.01, max_concurrency=64)}",
        f"plain={result_file('c.json', 'plain', 6, 1.02, completed=20, failed=4, total_output_tokens=500, duration=None)}",
    ]
    score = score_of(sealed, "x", files)
    assert score.not_sealed == ("small/plain/b.json (load 64)",)
    assert score.failed == 4
    told = "\n".join(score.remarks)
    for line in (
        "measured and not sealed",
        "4 of 24 requests failed",
        "an answer has 25 tokens",
        "are older than the seal",
        "no cell was measured twice",
    ):
        assert line in told, line


def test_loads_of_a_fleet_are_users_per_replica(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    said = dsim("predict", "small.yaml", "--seal", "fleet.json", "--set", "fleet.replicas=2", "--set", "run.replications=1")
    assert said.code == 0, said
    assert "2 users per replica: " in said.out
    result_file("a.json", "plain", 2, max_concurrency=4)
    result_file("b.json", "plain", 2, 1.1, max_concurrency=16)
    said = dsim("score", "fleet.json", "plain=a.json", "plain=b.json", "--format", "json")
    assert said.code == 0, said
    score = Score.from_json(json.loads(said.out))
    assert [cell.load for cell in score.cells] == [2]
    assert score.not_sealed == ("small/plain/b.json (load 8: 16 in flight ÷ 2 replicas)",)
    assert "plain, MTP-1 at 2, 6 users per replica" in markdown(board_page([score], (), "Do it."))


def test_a_folder_holds_conditions_and_policies(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    for policy in ("plain", "MTP-1"):
        (world / "measured" / "small" / policy).mkdir(parents=True)
        for repeat in range(2):
            ending = "jsonl" if repeat else "json"  # SGLang's client writes lines
            result_file(f"measured/small/{policy}/c2-{repeat}.{ending}", policy, 2, 1 + repeat / 100)
        (world / "measured" / "small" / policy / "profile_export.jsonl").write_text('{"metrics": {}}')  # AIPerf's, of every request
    said = dsim("score", "seal.json", "measured", "--out", "mine.score.json", "--engine", "vLLM", "--format", "json")
    assert said.code == 0, said
    told = json.loads(said.out)
    assert told == json.loads((world / "mine.score.json").read_text())
    assert (told["name"], told["engine"], told["seal"]["digest"]) == ("mine", "vLLM", sealed.digest)
    assert [cell["repeats"] for cell in told["cells"]] == [2, 2]
    assert dsim("score", "seal.json", "measured", "--out", "mine.score.json").code == 0  # a score may be made anew
    assert "is not a score" in dsim("score", "seal.json", "measured", "--out", "seal.json").err


OTHERS = "tool,how,condition,policy,load,metric,value\n"


def test_other_tools_stand_beside(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    value = sealed.conditions[0].cell("plain", 2)
    assert value is not None
    row = f"Other,by flags,small,plain,2,tps_per_user,{value.numbers['tps_per_user'].value * 1.5}\n"
    (world / "o.csv").write_text(OTHERS + row + row.replace(",2,tps", ",6,tps"))
    rows = [dict(zip(OTHERS.strip().split(","), [*row.strip().split(",")[:4], 2, "tps_per_user", 1.0], strict=True))]
    (world / "o.json").write_text(json.dumps(rows))
    (world / "bad.csv").write_text(OTHERS + row.replace("small", "large"))
    file = f"plain={result_file('a.json', 'plain', 2)}"
    score = score_of(sealed, "x", [file], others=world / "o.csv")
    (other,) = score.others
    assert (other.tool, other.cells, other.median, other.ours_worst) == ("Other", 1, pytest.approx(0.5), pytest.approx(0))
    assert score_of(sealed, "x", [file], others=world / "o.json").others[0].median > 0.9
    (world / "p90.csv").write_text(OTHERS + row.replace("tps_per_user", "ttft_p90_s"))
    score = score_of(sealed, "x", [file], others=world / "p90.csv")
    assert score.others == ()
    assert "--others predicts ttft_p90_s, which no file has" in score.remarks
    said = dsim("score", "seal.json", file, "--others", "bad.csv")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "large/plain at 2 is not a cell of the seal" in said.err
    (world / "twice.csv").write_text(OTHERS + row + row.replace("1.5", "2.5"))
    assert "small/plain at 2: is predicted twice" in dsim("score", "seal.json", file, "--others", "twice.csv").err


def test_mistakes_are_one_line(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    file = result_file("a.json", "plain", 2)
    (world / "copy.json").write_bytes(file.read_bytes())
    result_file("model.json", "MTP-1", 2, model_id="large")
    result_file("rate.json", "plain", 2, request_rate=3.0)
    result_file("paced.json", "plain", 2, pace_s=1.0)
    result_file("none.json", "plain", 2, completed=0, mean_tpot_ms=0, output_throughput=0)
    (world / "odd.json").write_text('{"a": 1}')
    (world / "cut.json").write_text(file.read_text()[:100])
    for words, says in (
        (["fast=a.json"], "no condition was sealed with 'fast'"),
        (["large/plain=a.json"], "no condition was sealed with 'large/plain'"),
        (["plain=z*.json"], "no file matches 'z*.json'"),
        (["plain=missing.json"], "missing.json"),
        (["plain=odd.json"], "is not a result of a benchmark client"),
        (["plain=a.json", "plain=a.json"], "is given twice"),
        (["plain=a.json", "plain=copy.json"], "has the numbers of small/plain/a.json"),
        (["plain=a.json", "MTP-1=model.json"], "is of model 'large'"),
        (["plain=rate.json"], "its prompts came at a rate, not by max_concurrency alone"),
        (["plain=cut.json"], "not valid JSON"),
        (["plain=none.json"], "none of the files is of a cell that was sealed: small/plain/none.json: no request finished"),
        (["plain=a.json", "--probes", "paced.json", "--probes", "paced.json"], "paced.json: --probes: is given twice"),
        (["plain=paced.json", "--probes", "paced.json"], "paced.json: --probes: is among the measurements of the seal"),
        (["nowhere"], "is neither a folder nor NAME=FILE"),
        (["tiny"], "holds no result files of what was sealed"),
    ):
        said = dsim("score", "seal.json", *words)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
        assert says in said.err


def test_another_model_and_other_drafts_are_named(sealed: Seal, result_file: Write) -> None:
    """A server's name of its model may be part of the whole name."""
    counters = {"spec_decode_num_drafts": 100, "spec_decode_accepted_tokens": 20, "spec_decode_acceptance_length": 1.2}
    one = counters | {"spec_decode_draft_tokens": 100, "spec_decode_per_position_acceptance_rates": [0.2]}
    two = counters | {"spec_decode_draft_tokens": 200, "spec_decode_per_position_acceptance_rates": [0.15, 0.05]}

    def told(policy: str, model: str = "", **changes: Any) -> list[str]:
        file = result_file("a.json", policy, 2, **changes)
        return [
            line
            for line in score_of(sealed, "x", [f"{policy}={file}"], model=model).remarks
            if re.search("drafted|called its model|--model|speed and TTFT say", line)
        ]

    assert told("plain") == told("MTP-1", **one) == told("plain", "org/Small-7B-Instruct") == []
    assert told("plain", "org/Large-7B") == ["--model says 'org/Large-7B', and the profile of the seal 'small'"]
    assert told("plain", "org/Large-7B", model_id="large-7b") == [
        "--model says 'org/Large-7B', and the profile of the seal 'small'",
        "the server called its model 'large-7b', and the seal is of 'small'",
    ]
    assert told("MTP-1", **two) == ["small/MTP-1/a.json: the server drafted 2 tokens, and the seal is of mtp, fixed (length 1)"]
    assert told("plain", **one) == ["small/plain/a.json: the server drafted 1 tokens, and the seal is of no drafter"]
    (crowded,) = told("plain", mean_tpot_ms=5000.0)
    assert crowded.startswith("small/plain/a.json: throughput, speed and TTFT say")
    assert told("MTP-1", mean_itl_ms=7.0, mean_tpot_ms=7.0) == [
        "small/MTP-1/a.json: the server drafted nothing, and the seal is of mtp, fixed (length 1)"
    ]
    sglang = {"backend": "sglang", "accept_length": 1.2}
    settings = {"speculative_algorithm": "EAGLE3", "speculative_num_draft_tokens": 2}
    assert told("MTP-1", **sglang) == told("MTP-1", **sglang, server_info=settings) == []
    assert told("MTP-1", **sglang, server_info=settings | {"speculative_num_draft_tokens": 4}) == [
        "small/MTP-1/a.json: the server drafted 3 tokens, and the seal is of mtp, fixed (length 1)"
    ]
    assert told("plain", **sglang, server_info=settings) == ["small/plain/a.json: the server drafted 1 tokens, and the seal is of no drafter"]
    assert told("plain", **sglang) == ["small/plain/a.json: the server drafted some tokens (accepted length 1.2), and the seal is of no drafter"]


def test_results_of_llama_cpp_without_scrapes_say_nothing_of_drafts(world: Path, sealed: Seal, result_file: Write) -> None:
    """Every token is a piece of its own there, accepted drafts too."""
    pieces = {"mean_itl_ms": 7.0, "mean_tpot_ms": 7.0}
    files = [f"MTP-1={result_file(f'{load}.json', 'MTP-1', load, **pieces)}" for load in (2, 6)]
    score = score_of(_of_engine(sealed, "llama.cpp b1"), "x", files)
    assert not any("accepted_length" in cell.numbers for cell in score.cells)
    (told,) = [remark for remark in score.remarks if "drafted" in remark]
    assert told.startswith("results of llama.cpp without scrapes of /metrics beside them")
    clients = REAL.parent / "guidellm-c4.json", REAL.parent / "aiperf" / "profile_export_aiperf.json"
    assert read_result(clients[0]).points[0].slots == 0
    (world / "aiperf.json").write_bytes(clients[1].read_bytes())  # without the counters beside it
    assert [read_result(path, pieces=False).points[0].slots for path in (clients[0], world / "aiperf.json")] == [None, None]


def test_all_clients_say_when() -> None:
    real = Path(__file__).parents[1] / "exchange" / "real"
    files = [real / "aiperf" / "profile_export_aiperf.json", real / "guidellm-c4.json", REAL / "none-c4.json"]
    assert [read_result(file).points[0].measured_at[:10].replace("-", "")[:8] for file in files] == ["20261128"] * 3


def _of_engine(seal: Seal, engine: str) -> Seal:
    conditions = tuple(c.model_copy(update={"profile": c.profile.model_copy(update={"engine": engine})}) for c in seal.conditions)
    return seal.model_copy(update={"conditions": conditions})


def test_llama_has_a_limit_of_its_own(sealed: Seal, result_file: Write) -> None:
    score = score_of(sealed, "x", whole(result_file, FACTORS), engine="llama.cpp b11434")
    found = [next(limits(score.summary, score.ranking, score.regret, llama_cpp)).most for llama_cpp in (False, True)]
    assert found == [0.06, 0.08]
    assert score.limits[0].most == 0.06  # the sealed profile is of another engine, whatever --engine says
    assert "--engine says 'llama.cpp b11434', and the profile of the seal 'ours'" in score.remarks
    assert score_of(_of_engine(sealed, "llama.cpp b11434"), "x", ["plain=plain-2.json"]).limits[0].most == 0.08


def test_an_open_loop_is_found_by_its_rate_and_judged_by_ttft(world: Path, scenario: Callable[..., Path], dsim: Dsim, edit_profile: Any) -> None:
    edit_profile(lambda c: c["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 1e-4}))
    arrivals = {"kind": "benchmark", "client": "vllm", "load_flag": "request_rate", "num_prompts": 20}
    lengths = {name: {"kind": "fixed", "tokens": 40} for name in ("prompt_tokens", "output_tokens")}
    policies = [{"name": "plain", "verification": {"kind": "none"}}]
    scenario(policies=policies, workload={"arrivals": arrivals, **lengths}, load=[3.5], sla=None,
             engine={"max_batch": 8, "prefill": {"kind": "chunked", "token_budget": 256}})  # fmt: skip
    assert dsim("predict", "small.yaml", "--seal", "open.json").code == 0
    seal = read_seal(world / "open.json")
    (cell,) = seal.conditions[0].cells
    assert seal.conditions[0].decisions.knees == seal.conditions[0].decisions.promises == ()
    numbers = {name: number.value for name, number in cell.numbers.items()}
    content = {
        "num_prompts": 20, "completed": 20, "request_rate": 3.5, "max_concurrency": None, "total_input_tokens": 800, "total_output_tokens": 800,
        "output_throughput": numbers["throughput_tok_s"], "duration": 800 / numbers["throughput_tok_s"],
        "mean_tpot_ms": 1e3 / numbers["tps_per_user"],
        "mean_ttft_ms": 1e3 * numbers["ttft_mean_s"], "median_ttft_ms": 1e3 * numbers["ttft_p50_s"], "p90_ttft_ms": 1.25e3 * numbers["ttft_p90_s"],
    }  # fmt: skip
    (world / "r.json").write_text(json.dumps(content))
    score = score_of(seal, "x", ["plain=r.json"])
    errors = {name: number.error for name, number in score.cells[0].numbers.items()}
    assert errors["ttft_p50_s"] == pytest.approx(0)
    assert errors["ttft_p90_s"] == pytest.approx(-0.2)
    assert [limit.what for limit in score.limits] == ["worst error of TTFT p50, open loop", "worst error of TTFT p90, open loop"]
    assert not any("in flight" in remark for remark in score.remarks)
    assert not any("burstiness" in remark for remark in score_of(seal, "x", [_other(world, content, burstiness=1.0)]).remarks)
    assert any(
        "burstiness 0.3, and those of the seal 1" in remark for remark in score_of(seal, "x", [_other(world, content, burstiness=0.3)]).remarks
    )
    (world / "held.json").write_text(json.dumps(content | {"max_concurrency": 4}))
    held = score_of(seal, "x", ["plain=held.json"])
    assert any("at most 4 requests in flight (max_concurrency), and the seal is of any number" in remark for remark in held.remarks)


def _other(world: Path, content: dict[str, Any], **changes: Any) -> str:
    (world / "other.json").write_text(json.dumps(content | changes))
    return "plain=other.json"


def test_real_files_that_were_kept_out_are_predicted_and_scored(world: Path, scenario: Callable[..., Path], dsim: Dsim) -> None:
    """From four files of vLLM to a profile, a seal of two more cells, and their score."""
    fit = [f"{name}={REAL / file}-c{users}.json" for name, file in (("none", "none"), ("ngram", "ngram3")) for users in (1, 8)]
    said = dsim("import", "vllm", "--bench", *fit, "--out", "ours", "--engine", "vLLM 0.32.0", "--hardware", "one CPU core")
    assert said.code == 0, said
    policies = [
        {"name": "none", "verification": {"kind": "none"}},
        {"name": "ngram3", "drafter": "ngram", "verification": {"kind": "fixed", "length": 3}},
    ]
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 99}, "output_tokens": {"kind": "fixed", "tokens": 64}}
    arrivals = {"kind": "benchmark", "client": "vllm", "num_prompts": 16}
    engine = {"max_batch": 64, "prefill": {"kind": "chunked", "token_budget": 2048}}
    run = {"replications": 2}
    scenario("mixed.yaml", profile="ours", policies=policies, load=[4], sla=None, run=run, workload={"arrivals": arrivals, **lengths}, engine=engine)
    assert dsim("predict", "mixed.yaml", "--seal", "seal.json").code == 0
    said = dsim("score", "seal.json", f"none={REAL}/none-c4.json", f"ngram3={REAL}/ngram3-c4.json", "--format", "json")
    assert said.code == 0, said
    score = Score.from_json(json.loads(said.out))
    assert (score.engine, score.hardware, score.model) == ("vLLM 0.32.0", "one CPU core", "smollm2")
    assert score.older == 2
    assert (score.first_measured, score.not_measured, score.not_sealed) == ("20261128-133345", (), ())
    assert not any("requests were sent" in remark or "tokens in the mean" in remark for remark in score.remarks)
    measured = {cell.policy: cell.numbers["tps_per_user"].measured for cell in score.cells}
    assert measured == pytest.approx({"none": 1000 / 63.20659, "ngram3": 1000 / 45.01531}, rel=1e-5)  # mean_tpot_ms of the files
    for cell in score.cells:
        assert {*cell.numbers} >= {"tps_per_user", "throughput_tok_s", "tpot_mean_s", "tpot_p50_s", "ttft_mean_s", "ttft_p50_s"}
        assert abs(cell.numbers["tps_per_user"].error) < 0.2  # a definition that is wrong is further off


def test_the_pace_of_the_machine_tells_drift_from_errors(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    """A machine that took 1.25 times as long for the second repeat, and as long as beside the probes for all else."""
    for number, pace_s in enumerate((0.98, 1.0, "1.02")):  # --metadata writes texts
        result_file(f"probe{number}.json", "plain", 2, 1 + number / 100, pace_s=pace_s)
    made = [("p1", "plain", 2, 1.0, 1.0), ("p2", "plain", 2, 1 / 1.25, 1.25), ("m", "MTP-1", 2, 1.0, 1.04), ("m6", "MTP-1", 6, 1.0, None)]
    files = [f"{policy}={result_file(f'{name}.json', policy, load, factor, pace_s=pace_s)}" for name, policy, load, factor, pace_s in made]
    score = score_of(sealed, "x", files, probes=[str(world / "probe*.json")])
    assert {(cell.policy, cell.load): cell.pace for cell in score.cells} == {
        ("plain", 2): pytest.approx(1.125), ("MTP-1", 2): pytest.approx(1.04), ("MTP-1", 6): None,
    }  # fmt: skip
    pace = score.pace
    assert pace is not None
    assert (pace.probes, pace.cells, pace.off) == (3, 2, 1)
    assert (pace.lowest, pace.highest) == (pytest.approx(1.04), pytest.approx(1.125))
    assert pace.spread == pytest.approx(0.0163, abs=1e-4)
    speed = next(one for one in pace.errors if one.number == "tps_per_user")
    raw = score.errors_of("tps_per_user")
    assert raw is not None
    assert raw.worst == pytest.approx(0.125)  # limits are of what was measured: times of 1 and 1.25
    assert (speed.cells, speed.worst) == (2, pytest.approx(1 - 1 / 1.04))
    assert (speed.noise, speed.noise_measured) == (pytest.approx(0, abs=1e-9), raw.noise)
    said = dsim("score", "seal.json", *files, "--probes", "probe*.json", "--format", "text")
    assert "1 of 2 cells were measured more than 5.0 % off it" in " ".join(said.out.split())
    assert "+12.5 %!" in said.out
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_probes_without_a_pace_are_refused(world: Path, sealed: Seal, result_file: Write, dsim: Dsim) -> None:
    file = f"plain={result_file('a.json', 'plain', 2)}"
    result_file("probe.json", "plain", 2, 1.1)
    said = dsim("score", "seal.json", file, "--probes", "probe.json")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "probe.json: pace_s: does not say the pace of its machine" in said.err
    result_file("probe.json", "plain", 2, 1.1, pace_s=1.0)
    score = score_of(sealed, "x", [file], probes=["probe.json"])
    assert score.pace is None
    assert "no measurement says the pace of its machine (pace_s)" in score.remarks
