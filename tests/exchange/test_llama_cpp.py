"""llama.cpp: rounds and acceptance where drafts end with their answer, results beside scrapes, and a whole import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.measurements.formats.bench import read_bench, read_llama_cpp
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.profile import load_profile
from simulator.study.profiles.counted import acceptance, gamma_of
from simulator.study.profiles.given_points import Cell, Named
from simulator.study.profiles.scraped import read_scrapes
from simulator.study.sealed.measured import read_result

Put = Callable[..., Path]
REAL = Path(__file__).parent / "real"
MIXED = ("ngram3-c1", "ngram3-c8", "none-c1", "none-c4", "none-c16")


def played(k: int, accepted: float, answers: int, tokens: int) -> tuple[SpecCounters, int]:
    """Answers of so many tokens by a drafter of k that is right with a chance, cut at what is left less one: what the server counts, and rounds."""
    rng, rounds = np.random.default_rng(3), 0
    counts = {"drafts": 0, "draft_tokens": 0, "accepted_tokens": 0}
    positions = np.zeros(k)
    for _ in range(answers):
        left = tokens - 1
        while left:
            drafted = min(k, left - 1)
            taken = int(np.argmin(np.append(rng.random(drafted) < accepted, False)))
            rounds += 1
            counts["drafts"] += drafted > 0
            counts["draft_tokens"] += drafted
            counts["accepted_tokens"] += taken
            positions[:taken] += 1
            left -= taken + 1
    return SpecCounters(**counts, per_position=positions.tolist(), generated=answers * tokens, answers=answers, engine="llamacpp"), rounds


@pytest.mark.parametrize(("k", "accepted", "tokens"), [(3, 0.5, 64), (5, 0.8, 64), (5, 0.8, 24), (2, 0.3, 16)])
def test_rounds_and_acceptance_where_drafts_end_with_their_answer(k: int, accepted: float, tokens: int) -> None:
    counters, rounds = played(k, accepted, 1000, tokens)
    assert counters.rounds == rounds
    assert counters.proposing == 1.0
    assert not counters.cut
    assert counters.survival == pytest.approx([accepted**j for j in range(1, k + 1)], rel=0.03)
    plain = [count / counters.drafts for count in counters.per_position]
    assert plain[-1] < 0.985 * accepted**k  # what was never drafted would count as rejected


@given(k=st.integers(2, 8), drafts=st.integers(1, 500), share=st.floats(0, 1), accepted=st.floats(0, 1))
def test_positions_that_drafts_had_add_up(k: int, drafts: int, share: float, accepted: float) -> None:
    drafted = round(drafts * (1 + share * (k - 1)))
    counts = SpecCounters(drafts, drafted, 0, [0.0] * k, generated=4 * drafts, engine="llamacpp")
    if counts.had is None:
        assert drafted < drafts * (k + 1) / 2 + 1e-9
        return
    assert sum(counts.had) == pytest.approx(drafted)
    assert counts.had == sorted(counts.had, reverse=True)
    assert counts.had[0] == drafts


def test_look_up_that_proposes_now_and_then() -> None:
    counters = SpecCounters(100, 280, 120, [60.0, 40.0, 20.0], generated=1000, answers=20, engine="llamacpp")
    assert counters.rounds == 1000 - 20 - 120
    assert counters.proposing == pytest.approx(100 / 860)
    assert counters.survival == pytest.approx([0.6, 40 / (100 - 20 / 3), 20 / (100 - 40 / 3)])


def scrape(drafts: int, drafted: int, positions: list[int], generated: int, prompt: int) -> str:
    counts = {
        "tokens_predicted_total": generated,
        "prompt_tokens_total": prompt,
        "prompt_tokens_cached_total": 0,
        "spec_decode_num_drafts_total": drafts,
        "spec_decode_num_draft_tokens_total": drafted,
        "spec_decode_num_accepted_tokens_total": sum(positions),
    }
    lines = [f"llamacpp:{name} {count}" for name, count in counts.items()]
    lines += [f'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="{k}"}} {n}' for k, n in enumerate(positions)]
    return "\n".join(lines)


def test_scrapes_given_apart_know_the_answers_of_the_results(put: Put) -> None:
    """llama-server counts no answers: without them first tokens are rounds that did not draft, and the drafter is one that proposes now and then."""
    counters, _ = played(3, 0.5, 100, 64)
    positions = [int(count) for count in counters.per_position]
    after = put("after.txt", scrape(int(counters.drafts), int(counters.draft_tokens or 0), positions, 6400, 900))
    cell = Cell(LoadPoint("c4.json", 50.0, 200.0, output_tokens=64.0, requests=100), "d", Path("c4.json"))
    scrapes = read_scrapes([Named("d", after)], [], None, [], "drafter", [cell])
    told = acceptance("d", [cell], scrapes["d"])
    assert told is not None
    assert (told.proposing, gamma_of(told, [cell], None)) == (1.0, 3)
    assert told.survival == pytest.approx([0.5, 0.25, 0.125], rel=0.1)


def as_llama_cpp(put: Put, name: str) -> Path:
    """A real result of vLLM as llama-server would have given it: one piece a token, counters beside it and not in it."""
    content: dict[str, Any] = json.loads((REAL / "vllm_cpu" / f"{name}.json").read_text())
    drafts, drafted = (content.get(f"spec_decode_{key}", 0) for key in ("num_drafts", "draft_tokens"))
    positions = [round(rate * drafts) for rate in content.get("spec_decode_per_position_acceptance_rates", ())]
    content = {key: value for key, value in content.items() if not key.startswith("spec_decode")} | {"mean_itl_ms": content["mean_tpot_ms"]}
    put(f"{name}-before.txt", scrape(7, 20, [3, 2, 1] if drafts else [], 500, 900) if drafts else scrape(0, 0, [], 64, 90))
    more = (7, 20, [3, 2, 1], 500, 900) if drafts else (0, 0, [0, 0, 0], 64, 90)
    after = [drafts + more[0], drafted + more[1], [a + b for a, b in zip(positions, more[2], strict=False)]]
    put(f"{name}-after.txt", scrape(*after, content["total_output_tokens"] + more[3], content["total_input_tokens"] + more[4]))
    return put(f"{name}.json", content)


def test_a_result_takes_the_scrapes_beside_it(put: Put) -> None:
    path = as_llama_cpp(put, "ngram3-c4")
    (point,) = read_llama_cpp(path).points
    assert point.slots == 3
    assert point.rounds == 1024 - 16 - 263
    assert point.accepted_length == pytest.approx(1 + 263 / 745)
    assert point.budget == pytest.approx(1 + 458 / 745)
    assert point.proposing == pytest.approx(154 / 745)
    assert read_bench(path).points[0].slots == 0  # one piece a token: taken for a server without speculation
    assert read_result(path).points == [point]  # as a score reads it
    (plain,) = read_llama_cpp(as_llama_cpp(put, "none-c4")).points
    assert (plain.slots, plain.accepted_length, plain.budget) == (0, 1.0, 1.0)
    (path.parent / "ngram3-c4-after.txt").unlink()
    with pytest.raises(DsimError, match=r"ngram3-c4-after\.txt: is missing, and ngram3-c4-before\.txt is there; measure again with both"):
        read_llama_cpp(path)
    (path.parent / "ngram3-c4-before.txt").unlink()
    (alone,) = read_llama_cpp(path).points
    assert alone.slots is None


def test_scrapes_of_another_engine_beside_a_result_are_refused(put: Put) -> None:
    path = as_llama_cpp(put, "ngram3-c4")
    for when in ("before", "after"):
        put(f"ngram3-c4-{when}.txt", (REAL / f"vllm-ngram3-c4-{when}.txt").read_text())
    with pytest.raises(DsimError, match=r"ngram3-c4-after\.txt: is a scrape of vllm; give dsim import the command of that engine"):
        read_llama_cpp(path)


@pytest.mark.parametrize("cache", ["unified", "split"])
def test_results_and_scrapes_become_a_profile(put: Put, tmp_path: Path, dsim: Callable[..., Any], cache: str) -> None:
    paths = {name: as_llama_cpp(put, name) for name in MIXED}
    files = [f"{'ngram' if name.startswith('ngram') else 'none'}={path}" for name, path in paths.items()]
    out = tmp_path / "p"
    told = dsim("import", "llamacpp", "--bench", *files, "--cache", cache, "--out", out, "--format", "json")
    assert told.code == 0, told.err
    data = json.loads(told.out)
    assert data["drafters"] == ["ngram"]
    assert data["rms"] < 0.1
    profile = load_profile(out)
    assert profile.engine == "llama.cpp"
    assert profile.costs.prefill is not None
    assert profile.costs.prefill.apart == (cache == "split")
    assert (profile.costs.verify.model_dump()["per_token_cell_s"] > 0) == (cache == "unified")


def test_a_result_of_a_drafter_without_counters_asks_for_them(put: Put, tmp_path: Path, dsim: Callable[..., Any]) -> None:
    paths = [as_llama_cpp(put, name) for name in ("none-c1", "none-c4", "ngram3-c4")]
    for path in put("ngram3-c4-before.txt", ""), put("ngram3-c4-after.txt", ""):
        path.unlink()
    files = [f"none={paths[0]}", f"none={paths[1]}", f"ngram={paths[2]}"]
    told = dsim("import", "llamacpp", "--bench", *files, "--out", tmp_path / "p")
    assert told.code == 2
    assert "ngram3-c4.json: --accepted-length: does not say the accepted length of a round" in told.err
