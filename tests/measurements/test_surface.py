"""The joint fit: worlds whose costs are known come back, and what points cannot tell apart stays wide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.surface import SurfaceFit, fit_surface
from simulator.measurements.surface_priors import family_of, kind_of

BASE, TOKEN, REQUEST, DRAFT = 0.01, 4e-5, 6e-5, 0.0015
SURVIVAL = [0.8, 0.55, 0.3]


def point(users: float, slots: int, counted: bool = True, cliff: tuple[float, float] = (1e9, 0.0), noise: float = 0.0) -> LoadPoint:
    """A world of a straight line over tokens and requests, and drafting."""
    length = 1 + sum(SURVIVAL[:slots])
    tokens = users * (1 + slots)
    time = BASE + TOKEN * tokens + REQUEST * users + (DRAFT if slots else 0.0) + (cliff[1] if tokens > cliff[0] else 0.0)
    speed = length / time * np.exp(noise)
    told = {"accepted_length": length, "survival": SURVIVAL[:slots], "rounds": 1e6} if slots and counted else {}
    return LoadPoint(f"k{slots}, {users:g} users", speed, users * speed, budget=1.0 + slots, slots=slots, **told)  # type: ignore[arg-type]


def sd(fit: SurfaceFit, parameter: str) -> float:
    return next(p.sd for p in fit.uncertainty.parameters if p.parameter == parameter)


USERS = (1, 2, 4, 8, 16, 32, 64)
NONE = [point(users, 0) for users in USERS]


def test_tokens_requests_and_drafting_come_back_from_points_of_several_lengths() -> None:
    fit = fit_surface([*NONE, *(point(users, k) for k in (1, 3) for users in USERS)])
    tokens, requests = np.array([8.0, 64, 256]), 32.0
    np.testing.assert_allclose(fit.costs.verify.seconds(tokens, requests), BASE + TOKEN * tokens + REQUEST * requests, rtol=0.05)
    assert fit.drafters["drafter"].draft.seconds(1, 0, 3) == pytest.approx(DRAFT, rel=0.25)
    np.testing.assert_allclose(np.cumprod(fit.drafters["drafter"].conditional), SURVIVAL, rtol=0.02)
    assert fit.rms < 0.01


def test_lengths_that_were_not_measured_are_predicted_from_two_points() -> None:
    fit = fit_surface([*NONE, point(1, 3), point(64, 3)])
    kept = [point(users, k) for k in (1, 2, 3) for users in (4, 16, 32)]
    assert max(abs(p.difference) for p in fit.predict(kept, ["drafter"] * len(kept))) < 0.05


def test_ordinary_decoding_alone_leaves_wide_what_it_cannot_tell() -> None:
    alone, both = fit_surface(NONE), fit_surface([*NONE, *(point(users, 3) for users in USERS)])
    assert sd(alone, "verified") > 0.3 > 1.5 * sd(both, "verified")
    assert any("as opposed to cost per request" in sentence for sentence in alone.unknown)
    assert not any("as opposed to cost per request" in sentence for sentence in both.unknown)


def test_a_speculative_sweep_alone_does_not_book_drafting_on_ordinary_decoding() -> None:
    fit = fit_surface([point(users, 3) for users in USERS])
    assert 0 < fit.drafters["drafter"].draft.seconds(1, 0, 3) < BASE
    assert float(fit.costs.verify.seconds(1.0, 1.0)) < BASE + TOKEN + REQUEST + DRAFT
    assert sd(fit, "draft") > 0.05


def test_acceptance_that_nobody_counted_is_what_speeds_ask_for() -> None:
    fit = fit_surface([*NONE, *(point(users, 3, counted=False) for users in USERS)])
    assert 1 + sum(np.cumprod(fit.drafters["drafter"].conditional)) == pytest.approx(2.65, rel=0.1)
    assert any("counted in none" in sentence for sentence in fit.unknown)


def test_a_cliff_is_kept_where_the_graph_limit_is_told() -> None:
    cliff = (128.0, 0.03)
    points = [point(users, k, cliff=cliff) for k in (0, 1, 3) for users in USERS]
    fit = fit_surface(points, graph_limit=128)
    below, above = fit.costs.verify.seconds(np.array([128.0, 129.0]), 32.0)
    assert above - below == pytest.approx(0.03, rel=0.1)
    assert fit.rms < 0.02


def test_prompts_are_counted_once() -> None:
    """10 ms + 0.1 ms a token, prompts 0.1 ms a token in chunks: the users of a closed loop are stretched by each other's prompts."""
    points = []
    for users in (1, 8, 32, 64):
        step, own, answer = 0.01 + 1e-4 * users, 0.1024, 256
        token_s = step + (users - 1) * own / (answer - 1)
        ttft = step + own
        throughput = users * answer / (ttft + (answer - 1) * token_s)
        known = {"prompt_tokens": 1024.0, "output_tokens": 256.0, "offered": float(users)}
        points.append(LoadPoint(f"c{users}", 1 / token_s, throughput, ttft, slots=0, **known))  # type: ignore[arg-type]
    fit, users = fit_surface(points), np.array([1.0, 64.0])
    assert fit.costs.verify.seconds(users, users) == pytest.approx(0.01 + 1e-4 * users, rel=0.05)
    assert fit.costs.prefill is not None
    assert fit.costs.prefill.seconds(1024) == pytest.approx(0.1124, rel=0.01)
    tokens = float(np.diff(fit.costs.verify.seconds(np.array([64.0, 256.0]), 64.0))[0])
    assert tokens == pytest.approx(1e-4 * 192, rel=0.2)  # their part of the slope is known from the price of a prompt's token alone
    assert fit_surface(points, by_tokens=True).costs.verify.seconds(users, users) == pytest.approx(0.01 + 1e-4 * users, rel=0.02)
    unknown = fit_surface([replace(p, prompt_tokens=None) for p in points])
    assert unknown.costs.prefill is None
    assert any("prompts are within the step cost" in sentence for sentence in unknown.assumed)


def test_points_that_belong_to_no_engine_are_refused() -> None:
    wrong = [point(users, 0, noise=0.5 * (-1) ** i) for i, users in enumerate(USERS)]
    with pytest.raises(DsimError, match=r"no step cost fits these points: .* rms"):
        fit_surface(wrong).check()
    with pytest.raises(DsimError, match=r"^too few operating points"):
        fit_surface([NONE[0]])


def test_scheduling_is_told_by_adaptive_points_and_leaves_the_rest_alone() -> None:
    fit = fit_surface([*NONE, *(point(users, k) for k in (1, 3) for users in USERS)])
    late = [
        replace(p, tps_per_user=p.tps_per_user / (1 + 0.002 * p.tps_per_user / (p.accepted_length or 1)), adaptive=True)
        for p in (point(1, 3), point(4, 3))
    ]
    scheduled = fit.with_scheduling(late, ["drafter"] * 2)
    assert scheduled.scheduling_s == pytest.approx(0.002, rel=0.25)
    assert scheduled.costs.verify == fit.costs.verify
    assert scheduled.costs.scheduling is not None
    assert scheduled.costs.scheduling.seconds == pytest.approx(scheduled.scheduling_s, rel=1e-4)
    assert 0 < sd(scheduled, "scheduling") < 0.1
    assert fit.scheduling_s == 0


def test_a_shared_cache_is_told_from_requests_by_points_of_several_lengths() -> None:
    """Tokens × all cached tokens: as large as half of the rest at 16 users with four tokens each. Twice the context is then foreseen."""
    cell = 4e-7

    def shared(users: float, slots: int, prompt: float) -> LoadPoint:
        length, tokens = 1 + sum(SURVIVAL[:slots]), users * (1 + slots)
        time = BASE + TOKEN * 20 * tokens + (DRAFT if slots else 0.0) + cell * tokens * users * (prompt + 64)
        told = {"accepted_length": length, "survival": SURVIVAL[:slots], "rounds": 1e6} if slots else {}
        alone = {"ttft_s": BASE} if users == 1 else {}
        lengths = {"prompt_tokens": 1e-3 * prompt, "output_tokens": 2 * (0.999 * prompt + 64)}  # prompts cost nothing here, contexts do
        speed = length / time
        return LoadPoint(f"{users}, {slots}, {prompt}", speed, users * speed, budget=1.0 + slots, slots=slots, **lengths, **told, **alone)  # type: ignore[arg-type]

    points = [*(shared(users, 0, 64) for users in (1, 4, 16)), *(shared(users, 3, 64) for users in (1, 4, 16)), shared(16, 3, 256)]
    kept = [shared(users, 3, 512) for users in (8, 16)]
    fits = [fit_surface(points, shared=flag) for flag in (True, False)]
    misses = [max(abs(p.difference) for p in fit.predict(kept, ["drafter"] * 2)) for fit in fits]
    assert misses[0] < 0.05
    assert misses[1] > 0.2
    verify = fits[0].costs.verify
    assert verify.kind == "curve"
    assert verify.per_token_cell_s == pytest.approx(cell, rel=0.3)
    assert any("one cache for all requests" in line for line in fits[0].assumed)


AT, DIPS = np.array([1.0, 2, 4, 8, 16, 32, 64]), np.array([1, 1.3, 0.9, 1, 1, 0.9, 1])


def jagged(tokens: float) -> float:
    """A step of kernels that change with the number of tokens, seconds."""
    return float((BASE + (TOKEN + REQUEST) * tokens) * np.interp(tokens, AT, DIPS))


def test_steps_may_cost_less_than_smaller_ones_where_kernels_change() -> None:
    fit, smooth = fit_surface([LoadPoint(f"c{users:g}", 1 / jagged(users), users / jagged(users), slots=0) for users in AT]), fit_surface(NONE)
    found = np.array([fit.costs.verify.seconds(users, users) for users in AT])
    np.testing.assert_allclose(found, [jagged(users) for users in AT], rtol=0.06)
    assert sd(fit, "step") > 1.5 * sd(smooth, "step")  # steps between the measured ones stray


def test_a_drafter_that_runs_token_after_token_goes_through_the_same_kernels() -> None:
    def drafting(users: float) -> LoadPoint:
        speed = (1 + sum(SURVIVAL)) / (jagged(4 * users) + 3 * 0.5 * jagged(users))
        told = {"accepted_length": 1 + sum(SURVIVAL), "survival": SURVIVAL, "rounds": 1e6}
        return LoadPoint(f"k3, {users:g}", speed, users * speed, budget=4.0, slots=3, **told)  # type: ignore[arg-type]

    plain = [LoadPoint(f"c{users:g}", 1 / jagged(users), users / jagged(users), slots=0) for users in AT]
    points = [*plain, drafting(1), drafting(16)]
    fit = fit_surface(points, [*[""] * len(plain), *["draft"] * 2], kinds={"draft": "chain"})
    kept = [drafting(users) for users in (2.0, 4.0, 8.0)]
    assert max(abs(p.difference) for p in fit.predict(kept, ["draft"] * 3)) < 0.08
    cost = fit.drafters["draft"].draft
    assert cost.seconds(2, 0, 3) > cost.seconds(4, 0, 3)


@pytest.mark.parametrize("beside", [-0.1, 0.0, 0.15])
def test_steps_under_ngrams_may_take_less_or_more_than_those_without(beside: float) -> None:
    """Points that propose in some rounds only: what every step takes beside is told from drafting, which is paid where anything is proposed."""

    def looked_up(users: float) -> LoadPoint:
        plain = point(users, 0)
        proposing, length = 0.3, 1 + 0.3 * 0.9
        time = BASE * (1 + beside) + (TOKEN * (1 + 3 * proposing) + REQUEST) * users
        told = {"accepted_length": length, "survival": [0.5, 0.3, 0.1], "rounds": 1e6, "proposing": proposing}
        return replace(plain, tps_per_user=length / time, throughput_tok_s=users * length / time, budget=1 + 3 * proposing, slots=3, **told)

    fit = fit_surface([*NONE, looked_up(1), looked_up(8), looked_up(32)], [*[""] * len(NONE), *["ngram"] * 3], kinds={"ngram": "lookup"})
    assert fit.drafters["ngram"].draft.every_step_s / BASE == pytest.approx(beside, abs=0.03)
    kept = [looked_up(users) for users in (2.0, 4.0, 16.0)]
    assert max(abs(p.difference) for p in fit.predict(kept, ["ngram"] * 3)) < 0.02


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("eagle3", "chain", "eagle3"), ("EAGLE-2", "chain", "eagle"), ("MTP-1", "chain", "mtp"), ("draft", "chain", "draft"),
        ("drafter", "chain", "other"), ("mine", "unknown", "other"), ("dspark5", "block", "dspark"), ("dflash", "block", "dflash"),
        ("ngram", "lookup", "ngram"), ("suffix", "lookup", "suffix"),
    ],
)  # fmt: skip
def test_how_a_drafter_drafts_is_in_its_name(name: str, kind: str, family: str) -> None:
    assert (kind_of(name), family_of(name)) == (kind, family)
