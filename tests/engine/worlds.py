"""Small worlds to test the engine in: hand-made recorded blocks, costs, fleets and traffic, without YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import ClosedTraffic, Fleet, OpenTraffic, Path, Run, Traffic, simulate
from simulator.measurements.cost import Cliff, Costs, FittedCurve, LinearDraft, LinearPrefill, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import Replay, lay_out, nothing_drafted
from simulator.policies.prefill import Instant
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import NoSpeculation, VerificationPolicy
from simulator.traffic.request import Request, RequestSpec

Floats = NDArray[np.float64]


def costs(
    base: float = 0.0,
    per_token: float = 0.0,
    per_context: float = 0.0,
    overhead: float = 0.0,
    prefill: tuple[float, float] | None = (0.0, 0.0),
    cliffs: Sequence[tuple[int, float]] = (),
    contexts: Literal["mean", "longest"] = "mean",
) -> Costs:
    """Step costs; `prefill` is (base, per token), None where there is none."""
    steps = [Cliff(tokens=tokens, add_s=jump) for tokens, jump in cliffs]
    verify = FittedCurve(
        provenance="synthetic", base_s=base, per_token_s=per_token, per_context_token_s=per_context, cliffs=steps, measured_tokens=(1, 1e6)
    )
    prompts = None if prefill is None else LinearPrefill(provenance="synthetic", base_s=prefill[0], per_token_s=prefill[1])
    return Costs(verify=verify, prefill=prompts, overhead=Overhead(provenance="synthetic", seconds=overhead), contexts=contexts)


def drafting(base: float = 0.0, per_request: float = 0.0, per_slot: float = 0.0) -> LinearDraft:
    return LinearDraft(provenance="synthetic", base_s=base, per_request_s=per_request, per_slot_s=per_slot)


def blocks(accepted: Sequence[Sequence[int]], gamma: int, confidence: Floats | None = None, domains: Sequence[str] | None = None) -> RecordedBlocks:
    """Recorded sequences, given by the A_i of their anchors, one list each."""
    lengths = np.array([len(a) for a in accepted], dtype=np.int64)
    of = list(domains or ["a"] * len(accepted))
    names = tuple(dict.fromkeys(of))
    return RecordedBlocks(
        drafter="toy", gamma=gamma, temperature=1.0, provenance="synthetic", source="made up", domains=names,
        sequence_domain=np.array([names.index(name) for name in of]), first_row=np.cumsum(lengths) - lengths, length=lengths,
        accepted=np.array([a for sequence in accepted for a in sequence], dtype=np.int64), confidence=confidence,
    )  # fmt: skip


def independent(conditional: Sequence[float], rows: int, seed: int, sequences: int = 64) -> RecordedBlocks:
    """Blocks whose slots are accepted independently with the given conditional acceptances, which are the confidences too."""
    luck = np.random.default_rng(seed).random((rows, len(conditional)))
    taken = np.logical_and.accumulate(luck < np.array(conditional), axis=1).sum(axis=1)
    per = rows // sequences
    split = [taken[i * per : (i + 1) * per].tolist() for i in range(sequences)]
    return blocks(split, len(conditional), np.tile(np.array(conditional, dtype=np.float64), (per * sequences, 1)))


def replay(of: RecordedBlocks, seed: int = 0, replication: int = 0, clairvoyant: bool = False) -> Replay:
    return lay_out(of, None, clairvoyant, seed, replication)


def fleet(
    price: Costs,
    policy: VerificationPolicy | None = None,
    drawn: Replay | None = None,
    draft: LinearDraft | None = None,
    replicas: int = 1,
    router: Any = None,
    kv_pages: int | None = None,
    page_tokens: int = 16,
    luck: int = 0,
    believed: Costs | None = None,
    **settings: Any,
) -> Fleet:
    policy, drawn = policy or NoSpeculation(), drawn or nothing_drafted()

    def priced(by: Costs) -> RoundCost:
        return RoundCost(
            by,
            draft,
            drawn.gamma,
            policy.longest(drawn.gamma),
            lambda n, context: policy.drafted_at(n, drawn.gamma, context),
            scheduled=policy.schedules,
        )

    prices = priced(price)
    return Fleet(
        replicas=replicas,
        settings=ReplicaSettings(**({"prefill": Instant()} | settings)),
        policy=policy,
        replay=drawn,
        prices=prices,
        believed=prices if believed is None else priced(believed),
        router=router or RoundRobin(),
        kv_pages=kv_pages,
        page_tokens=page_tokens,
        luck=np.random.default_rng(luck),
    )


def poisson(rate: float, outputs: Sequence[int] | NDArray[np.int64], seed: int, prompt: int = 1, domain: str = "") -> list[RequestSpec]:
    """Requests with these output tokens at Poisson times."""
    at = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(outputs)))
    return [RequestSpec(i, float(s), prompt, int(n), domain) for i, (s, n) in enumerate(zip(at, outputs, strict=True))]


def open_traffic(specs: Sequence[RequestSpec], warmup_s: float = 0.0, until_s: float | None = None, drain_s: float = 1e9) -> OpenTraffic:
    """All of `specs` that arrive after the warm-up are measured, unless `until_s` is given."""
    return OpenTraffic(specs, warmup_s, specs[-1].arrival_s + 1e-9 if until_s is None else until_s, drain_s)


@dataclass(frozen=True)
class Users:
    """A closed loop whose requests are a function of (user, turn)."""

    users: int
    answer: Callable[[int, int], int]
    prompt: Callable[[int, int], int] = lambda _user, _turn: 1
    think_s: float = 0.0
    domain: str = ""
    varied: bool = False  # pauses of 0, 1 and 2 times think_s, before the first request too

    def pause_s(self, user: NDArray[np.int64], turn: NDArray[np.int64]) -> Floats:
        times = np.broadcast_arrays(user, turn)
        factor = (times[0] * 7 + times[1] * 4) % 3 if self.varied else times[1] > 0
        return np.asarray(self.think_s * factor, dtype=np.float64)

    @property
    def domains(self) -> tuple[str, ...]:
        return (self.domain,)

    def draw(self, user: NDArray[np.int64], turn: NDArray[np.int64]) -> NDArray[np.int64]:
        pairs = np.broadcast(user, turn)
        drawn = [(self.prompt(u, t), self.answer(u, t), 0, 0) for u, t in ((int(u), int(t)) for u, t in pairs)]
        return np.array(drawn, dtype=np.int64).reshape(*pairs.shape, 4)

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec:
        return RequestSpec(turn * self.users + user, arrival_s, self.prompt(user, turn), self.answer(user, turn), self.domain)


@dataclass(frozen=True)
class Engine:
    """The engine on one of its paths; the fixture `engine` gives both."""

    path: Path

    def run(self, traffic: Traffic, over: Fleet) -> Run:
        return simulate(traffic, over, self.path)

    def open(self, specs: Sequence[RequestSpec], over: Fleet, **window: float) -> Run:
        return self.run(open_traffic(specs, **window), over)

    def closed(self, source: Users, turns: int, over: Fleet, seed: int = 0) -> Run:
        return self.run(ClosedTraffic(source.users, source, turns, np.random.default_rng(seed).random(source.users)), over)


PLAIN = Engine("plain")


def stamps(requests: Sequence[Request]) -> Floats:
    """Arrival, first token, finish and output tokens, [n, 4]."""
    return np.array([(r.spec.arrival_s, r.first_token_s, r.finish_s, r.spec.output_tokens) for r in requests], dtype=np.float64).reshape(-1, 4)


def agrees(replications: Sequence[float], truth: float, power: float, bias: float = 0.0, controls: Sequence[Sequence[float]] = ()) -> None:
    """The mean over replications is `truth`, within Student's 1 - 1e-4 interval and a known `bias`.

    `power` is the relative error of the engine that this would find with 95 % probability: the test refuses to be weaker.
    `controls` are numbers of each replication whose expectation is 0; what they explain is taken out (control variates).
    """
    n, freedom = len(replications), len(replications) - 1 - len(controls)
    known = np.column_stack([np.ones(n), *controls])
    weight = np.linalg.inv(known.T @ known)
    fitted = weight @ known.T @ np.asarray(replications, dtype=np.float64)
    spread = float(np.sum((replications - known @ fitted) ** 2)) / freedom
    mean, error = float(fitted[0]), float(np.sqrt(spread * weight[0, 0]))
    limit = float(student.ppf(1 - 5e-5, freedom))
    assert abs(mean - truth) <= limit * error + bias, f"{mean:.5g} is {(mean - truth) / error:+.1f} standard errors from {truth:.5g}"
    found = (limit + 1.7) * error + bias
    assert found <= power * abs(truth), f"finds an error of {found / abs(truth):.1%} at best, not of {power:.1%}"
