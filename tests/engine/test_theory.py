"""The engine reduced to systems that were solved by hand: M/D/1, M/G/1, processor sharing, Little's law, closed forms for τ and speed."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Prefill, Separate
from simulator.policies.verification import FixedLength
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import Engine, Floats, Users, agrees, costs, drafting, fleet, independent, open_traffic, poisson, replay, stamps

STEP_S = 0.03
SEEDS = range(30)


def waits(engine: Engine, specs: list[RequestSpec], warmup_s: float, **over: object) -> Floats:
    """Seconds from arrival to admission of the measured ones, at one request at a time."""
    run = engine.open(specs, fleet(costs(base=STEP_S), max_batch=1, **over), warmup_s=warmup_s)  # type: ignore[arg-type]
    table = stamps([r for r in run.requests if r.measured])
    return np.asarray(table[:, 1] - table[:, 0])


def luck_of_gaps(of: list[list[RequestSpec]], rate: float) -> list[float]:
    """By how much the arrivals of each replication came late, a control variate."""
    return [specs[-1].arrival_s - len(specs) / rate for specs in of]


def waiting_time(rate: float, steps: Floats, chance: Floats) -> float:
    """Pollaczek and Khinchine: mean wait in M/G/1 whose service takes `steps` steps with probability `chance`."""
    service = steps * STEP_S
    load = rate * float(service @ chance)
    return rate * float(service**2 @ chance) / (2 * (1 - load))


@pytest.mark.parametrize("load", [0.3, 0.5])
def test_m_d_1(series: Engine, load: float) -> None:
    rate = load / STEP_S
    traffic = [poisson(rate, [2] * 800, seed) for seed in SEEDS[:20]]
    means = [waits(series, specs, 40 * STEP_S).mean() for specs in traffic]
    agrees(means, waiting_time(rate, np.array([1.0]), np.array([1.0])), power=0.2, controls=[luck_of_gaps(traffic, rate)])


def test_m_g_1_with_answers_of_two_lengths(series: Engine) -> None:
    rate = 0.5 / (2 * STEP_S)
    steps, chance = np.array([1.0, 5.0]), np.array([0.75, 0.25])
    outputs = [1 + np.random.default_rng(1000 + seed).choice(steps, 500, p=chance).astype(np.int64) for seed in SEEDS]
    traffic = [poisson(rate, lengths, seed) for seed, lengths in enumerate(outputs)]
    means = [waits(series, specs, 100 * STEP_S).mean() for specs in traffic]
    luck_of_lengths = [lengths.mean() - 1 - steps @ chance for lengths in outputs]
    agrees(means, waiting_time(rate, steps, chance), power=0.2, controls=[luck_of_gaps(traffic, rate), luck_of_lengths])


def rounds_law(tokens: int, conditional: list[float], length: int) -> Floats:
    """P(n rounds) until `tokens` tokens are out when each round commits 1 + min(A, length), slots independent; index n."""
    survival = np.concatenate(([1.0], np.cumprod(conditional)[:length], [0.0]))
    committed = survival[:-1] - survival[1:]  # P(1 + min(A, length) = 1 … length + 1)
    left = np.zeros(tokens + 1)
    left[tokens] = 1.0
    law = [0.0]
    while left[1:].sum() > 1e-14:
        after = np.zeros_like(left)
        for j, p in enumerate(committed, start=1):
            after[: tokens + 1 - j] += p * left[j:]
            after[0] += p * left[1:j].sum()
        law.append(after[0])
        left = np.concatenate(([0.0], after[1:]))
    return np.array(law)


def test_m_g_1_whose_service_is_speculative_decoding(series: Engine) -> None:
    conditional, tokens = [0.8, 0.7, 0.5], 9
    law = rounds_law(tokens - 1, conditional, 3)
    n = np.arange(len(law), dtype=np.float64)
    rate = 0.5 / (STEP_S * float(law @ n))
    means, traffic = [], [poisson(rate, [tokens] * 320, seed) for seed in SEEDS]
    for seed, specs in enumerate(traffic):
        drawn = replay(independent(conditional, 16_384, seed, sequences=1024), seed)
        means.append(waits(series, specs, 60 * STEP_S, policy=FixedLength(length=3), drawn=drawn).mean())
    agrees(means, waiting_time(rate, n, law), power=0.25, controls=[luck_of_gaps(traffic, rate)])


def test_one_at_a_time_is_lindleys_recursion_for_every_request(engine: Engine) -> None:
    """The whole path, not the mean: W' = max(0, W + S - gap)."""
    steps = np.random.default_rng(5).integers(0, 6, 400)
    specs = poisson(0.8 / (2.5 * STEP_S), 1 + steps, 6)
    found = waits(engine, specs, 0.0)
    wait, expected = 0.0, []
    for i, spec in enumerate(specs):
        if i:
            wait = max(0.0, wait + steps[i - 1] * STEP_S - (spec.arrival_s - specs[i - 1].arrival_s))
        expected.append(wait)
    assert max(expected) > 10 * STEP_S
    np.testing.assert_allclose(found, expected, atol=1e-9)


def sojourns(engine: Engine, token_s: float, rate: float, outputs: list[np.ndarray], mean_tokens: float) -> tuple[list[Floats], list[list[float]]]:
    """Stamps of each replication's measured requests when a step takes `token_s` for every request in it, and control variates."""
    traffic = [poisson(rate, 1 + lengths, seed) for seed, lengths in enumerate(outputs)]
    tables = []
    for specs in traffic:
        run = engine.open(specs, fleet(costs(per_token=token_s), max_batch=4096), warmup_s=15 / rate)
        tables.append(stamps([r for r in run.requests if r.measured]))
    return tables, [luck_of_gaps(traffic, rate), [lengths.mean() - mean_tokens for lengths in outputs]]


def test_processor_sharing_token_by_token(series: Engine) -> None:
    """Answers of geometric length make the batch a branching process with one immigrant into an empty house, so that the mean
    time in the batch is known at any coarseness: with offspring mean μ and variance v, (p/q) (v / (1-μ) + 1) / (1 + μ)."""
    token_s, q, load = 0.001, 1 / 15, 0.5
    rate = load * q / token_s
    outputs = [np.random.default_rng(2000 + s).geometric(q, 320) for s in SEEDS]
    mean, variance = 1 - q + rate * token_s, q * (1 - q) + rate * token_s
    truth = token_s / q * (variance / (1 - mean) + 1) / (1 + mean)
    assert truth == pytest.approx(token_s / q / (1 - load), rel=0.05)  # near the continuous limit, yet not at it
    tables, controls = sojourns(series, token_s, rate, outputs, 1 / q)
    agrees([float((t[:, 2] - t[:, 1]).mean()) for t in tables], truth, power=0.15, controls=controls)


@pytest.mark.parametrize("law", ["fixed", "two lengths"])
def test_processor_sharing_does_not_feel_the_law_of_lengths(series: Engine, law: str) -> None:
    """M/G/1-PS: E[T] = E[S] / (1 - ρ) whatever the law, and x / (1 - ρ) for those of size x. First come first served would give
    the second law a wait 1.75 times the first's. Steps of one token each leave a bias of up to one token for each in the batch."""
    token_s, load, size = 0.001, 0.5, 32
    rate = load / (size * token_s)
    draw = [np.random.default_rng(3000 + s).random(180) for s in SEEDS]
    outputs = [np.where(u < 0.25, 80, 16) if law == "two lengths" else np.full(len(u), size) for u in draw]
    tables, controls = sojourns(series, token_s, rate, outputs, size)
    controls = controls if law == "two lengths" else controls[:1]
    bias = token_s / (1 - load)
    agrees([float((t[:, 2] - t[:, 0]).mean()) for t in tables], size * token_s / (1 - load), 0.25, bias, controls)
    if law == "two lengths":
        for tokens in (16, 80):
            of_size = [t[t[:, 3] == tokens + 1] for t in tables]
            agrees([float((t[:, 2] - t[:, 0]).mean()) for t in of_size], tokens * token_s / (1 - load), 0.25, bias, controls)


@pytest.mark.parametrize("prefill", [Instant(), Separate(max_tokens=64), Chunked(token_budget=40), Disaggregated(workers=2, transfer_s=0.02)])
@pytest.mark.parametrize("replicas", [1, 3])
def test_littles_law_between_steps_and_stamps(engine: Engine, prefill: Prefill, replicas: int) -> None:
    """∫ (requests in the batch) dt from the steps = Σ (finish - first token - waiting for the batch) from the requests: L = λ W."""
    specs = poisson(6.0, np.random.default_rng(1).integers(1, 40, 150), 2, prompt=30)
    drawn = replay(independent([0.7, 0.5], 4096, 0))
    world = fleet(costs(0.01, 2e-4, 1e-6, 1e-3, (1e-3, 2e-3)), FixedLength(length=2), drawn, drafting(1e-3), replicas, prefill=prefill, max_batch=6)
    run = engine.run(open_traffic(specs), world)
    assert run.unfinished == 0
    table = stamps(run.requests)
    inside = (run.steps["running"] * (run.steps["end_s"] - run.steps["start_s"])).sum()
    lived = (table[:, 2] - table[:, 1]).sum() - run.join_gaps[:, 2].sum()
    assert inside == pytest.approx(lived, rel=1e-9)
    assert inside > 100 * (run.steps["end_s"] - run.steps["start_s"]).mean()


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_accepted_length_is_one_plus_the_sum_of_survivals(series: Engine, length: int) -> None:
    conditional = [0.85, 0.8, 0.7, 0.6, 0.5]
    found = []
    for seed in range(12 if length else 1):
        drawn = replay(independent(conditional, 65_536, seed, sequences=256), seed)
        run = series.closed(Users(16, lambda _u, _t: 200), 2, fleet(costs(STEP_S), FixedLength(length=length), drawn))
        found.append(1 + run.steps["accepted"].sum() / run.steps["requests"].sum())
    if length == 0:
        assert found == [1.0]
    else:
        agrees(found, 1 + float(np.cumprod(conditional)[:length].sum()), power=0.03)


def test_parametric_acceptance_without_spread_gives_the_closed_form(series: Engine) -> None:
    """σ(μ) alone: slots are independent and P(accepted | before) is what was asked for, chat and math apart."""
    conditional = {"chat": [0.7, 0.6, 0.5], "math": [0.9, 0.9, 0.8]}
    for domain, c in conditional.items():
        found = []
        for seed in range(12):
            blocks = ParametricAcceptance(conditional=conditional, spread=0, seed=seed, sequences_per_domain=64).generate("toy")
            over = fleet(costs(STEP_S), FixedLength(length=3), replay(blocks, seed))
            run = series.closed(Users(8, lambda _u, _t: 200, domain=domain), 3, over)
            found.append(1 + run.steps["accepted"].sum() / run.steps["requests"].sum())
        agrees(found, 1 + float(np.cumprod(c).sum()), power=0.04)


def test_speed_and_throughput_of_a_closed_loop_at_constant_step_time(series: Engine) -> None:
    """Rounds of an answer of n tokens have a known law N: speed is E[(n-1) / N] / T exactly, throughput R (n-1) / E[N] / T."""
    conditional, tokens, users = [0.8, 0.6], 41, 10
    law = rounds_law(tokens - 1, conditional, 2)
    n = np.arange(1, len(law))
    speed = float(law[1:] @ ((tokens - 1) / n)) / STEP_S
    throughput = users * (tokens - 1) / float(law[1:] @ n) / STEP_S
    assert speed == pytest.approx((1 + 0.8 + 0.48) / STEP_S, rel=0.03)  # τ / T up to the cut at the end of an answer
    speeds, deliveries = [], []
    for seed in range(12):
        drawn = replay(independent(conditional, 65_536, seed, sequences=512), seed)
        run = series.closed(Users(users, lambda _u, _t: tokens), 12, fleet(costs(STEP_S), FixedLength(length=2), drawn), seed)
        table = stamps([r for r in run.requests if r.measured])
        speeds.append(float(((table[:, 3] - 1) / (table[:, 2] - table[:, 1])).mean()))
        window = (run.steps["end_s"] > run.start_s) & (run.steps["end_s"] <= run.end_s)
        deliveries.append(run.steps["committed"][window].sum() / (run.end_s - run.start_s))
    agrees(speeds, speed, power=0.04)
    agrees(deliveries, throughput, power=0.03)


def test_the_price_of_a_step_is_paid_in_full(engine: Engine) -> None:
    """Draft, verify by tokens and context, overhead: one request alone, every number by hand."""
    price: Costs = costs(base=0.01, per_token=0.002, per_context=1e-5, overhead=0.003)
    drawn = replay(independent([1 - 1e-12, 1 - 1e-12], 256, 0, sequences=1))  # always both accepted
    over = fleet(price, FixedLength(length=2), drawn, drafting(0.001, 0.0005, 0.0002))
    run = engine.open([RequestSpec(0, 1.0, 100, 7, "")], over)
    assert run.steps["context_tokens"].tolist() == [101, 104]
    draft = 0.001 + 0.0005 + 2 * 0.0002
    assert run.steps["draft_s"].tolist() == pytest.approx([draft] * 2)
    assert run.steps["verify_s"].tolist() == pytest.approx([0.01 + 3 * 0.002 + 1e-5 * c for c in (101, 104)])
    assert run.requests[0].finish_s == pytest.approx(1.0 + 2 * (draft + 0.016 + 0.003) + 1e-5 * 205)
