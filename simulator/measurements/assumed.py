"""What a profile that says nothing of it is unsure of: derived from where its numbers come from, by the assumptions listed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import hypot, log
from typing import Literal, NamedTuple

import numpy as np

from simulator.measurements.acceptance_library import another_models
from simulator.measurements.cost_kind import Cost, Provenance, TableCost
from simulator.measurements.profile import Profile
from simulator.measurements.statistics import acceptance_statistics
from simulator.measurements.uncertainty import OF_ACCEPTANCE, Parameter, Uncertainty, Unsure

P10_TO_P90 = 2.563  # standard deviations of a normal distribution
LEAST_VARIANCE, MOST_SAMPLED = 1e-3, 1.0  # of an accepted slot; logits, where one text is all there is


class Assumed(NamedTuple):
    """A standard deviation where a number has one of these origins, the reason for it, and the measurement that would tell.

    Of steps that are `estimated` there is none: how far real runs were from them is the model's error (model_error.csv).
    """

    parameter: Parameter
    origins: tuple[Provenance, ...]
    sd: float
    reason: str
    measurement: str


_ONE_BENCH = "one benchmark with speculation"
ASSUMED = (
    Assumed("step", ("fitted", "imported"), 0.03, "a fit that is accepted leaves over a few per cent", "benchmarks at more numbers of users"),
    Assumed("step", ("published",), 0.05, "read from a figure, of another machine", "one benchmark without speculation"),
    Assumed("step", ("synthetic",), 0.2, "made up", "one benchmark without speculation"),
    Assumed("verified", ("fitted", "imported", "published", "synthetic"), 0.5,
            "ordinary decoding cannot tell the cost of a token from that of a request, so drafted tokens may cost half as much or twice",
            f"{_ONE_BENCH} at many users"),
    Assumed("growth", ("measured", "fitted", "imported", "published", "estimated", "synthetic"), 0.5,
            "a step beyond the measured tokens may grow with half the slope or twice (graphs end, kernels change)",
            "a benchmark with as many tokens a step"),
    Assumed("draft", ("synthetic",), 0.1, "drafters take 2 to 25 % of a step of their target", f"{_ONE_BENCH} for one user"),
    Assumed("draft", ("estimated",), 0.05, "operators of a drafter's sizes: launches between them, and what the engine fuses, are not in them",
            f"{_ONE_BENCH} for one user"),
    Assumed("draft", ("fitted", "imported", "published"), 0.03, "what a fit cannot tell from acceptance", f"{_ONE_BENCH} for one user"),
    Assumed("scheduling", ("fitted", "imported", "published", "estimated", "synthetic"), 0.05,
            "engines that choose lengths by prices do it on the host: 1 to 3 ms a step where it shows",
            "one benchmark of the adaptive rule for one user"),
    Assumed("prefill", ("synthetic",), 0.5, "made up", "TTFT of one benchmark, with its prompt lengths"),
    Assumed("prefill", ("estimated",), 0.2, "kernel times of others, and how an engine cuts prompts", "TTFT of one benchmark"),
    Assumed("prefill", ("fitted", "imported", "published"), 0.1, "a fit that is accepted leaves over some per cent", "TTFT of one benchmark"),
    Assumed("level", ("synthetic", "published"), 0.4, "acceptance differs by as much between kinds of text",
            "accepted length of one benchmark on your traffic"),
    Assumed("level", ("fitted", "imported"), 0.2, "fitted on other texts than yours", "accepted length of one benchmark on your traffic"),
    Assumed("level", ("measured",), 0.1, "measured on other texts than yours", "more recorded texts, or accepted length on your traffic"),
    Assumed("tilt", ("synthetic", "fitted"), 0.4, "one number does not tell how acceptance falls along a block", "accepted tokens by position"),
)  # fmt: skip
_KINDS: dict[Provenance, Literal["measured", "fitted", "published", "estimated"]] = {
    "measured": "measured", "imported": "fitted", "fitted": "fitted", "published": "published", "estimated": "estimated", "synthetic": "published",
}  # fmt: skip


def uncertainty_of(profile: Profile) -> Uncertainty:
    """What the profile says of it, else what is assumed; of acceptance from elsewhere, what is said there."""
    known = profile.uncertainty or assumed_uncertainty(profile)
    return _lent(known, profile._lent) if profile._lent else known


def _lent(known: Uncertainty, lent: Mapping[str, Sequence[Unsure]]) -> Uncertainty:
    """With what is not known of the acceptance of these drafters in place of what was; independent of all else."""
    kept = [i for i, it in enumerate(known.parameters) if not (it.parameter in OF_ACCEPTANCE and it.drafter in lent)]
    new = [unsure for unsures in lent.values() for unsure in unsures]
    correlation = None
    if known.correlation is not None:
        whole = np.eye(len(kept) + len(new))
        whole[: len(kept), : len(kept)] = np.array(known.correlation)[np.ix_(kept, kept)]
        correlation = whole.tolist()
    return known.model_copy(update={"parameters": [*(known.parameters[i] for i in kept), *new], "correlation": correlation})


def assumed_uncertainty(profile: Profile) -> Uncertainty:
    """By the provenance and shape of its numbers."""
    return Uncertainty(kind=_KINDS[profile.costs.verify.provenance], parameters=[*_costs(profile), *_acceptance(profile)])


def _costs(profile: Profile) -> Iterator[Unsure]:
    verify, prefill = profile.costs.verify, profile.costs.prefill
    if (jitter := step_spread(verify)) is not None:
        note = "another run differs by no more than its steps do among each other: measure on the machine that serves"
        yield Unsure(parameter="step", sd=jitter, note=note)
    else:
        yield from _by_origin("step", verify.provenance)
    if verify.varies_with != "shape":
        yield from _by_origin("verified", verify.provenance)
    yield from _by_origin("growth", verify.provenance)
    if profile.costs.scheduling is None:
        yield from _by_origin("scheduling", verify.provenance)
    for name, drafter in profile.drafters.items():
        nothing = drafter.draft.seconds(1, 0.0, drafter.gamma) == 0 and not drafter.draft.takes_in and not drafter.draft.every_step_s
        yield from _by_origin("draft", "synthetic" if nothing else drafter.draft.provenance, name)
    if prefill is not None:
        yield from _by_origin("prefill", prefill.provenance)


def _acceptance(profile: Profile) -> Iterator[Unsure]:
    for name in profile.drafters:
        blocks = profile.blocks(name)
        told = acceptance_statistics(blocks)
        error = told.conditional_error[0] / max(float(told.conditional[0] * (1 - told.conditional[0])), LEAST_VARIANCE)  # of a logit
        sampled = min(float(error), MOST_SAMPLED) if blocks.provenance in ("measured", "imported") else 0.0
        yield from _by_origin("level", blocks.provenance, name, sampled)
        if blocks.gamma > 1:
            yield from _by_origin("tilt", blocks.provenance, name)
        drafter = profile.drafters[name]
        if drafter.acceptance_of is not None:
            yield another_models(drafter.family, drafter.acceptance_of, profile.target, name)


def _by_origin(parameter: Parameter, origin: str, drafter: str | None = None, sampled: float = 0.0) -> Iterator[Unsure]:
    for assumed in ASSUMED:
        if assumed.parameter == parameter and origin in assumed.origins:
            note = f"assumed: {assumed.reason}; {assumed.measurement} would tell"
            yield Unsure(parameter=parameter, drafter=drafter, sd=hypot(assumed.sd, sampled), note=note)


def step_spread(verify: Cost) -> float | None:
    """Standard deviation of the logarithm of a measured step, median over the cells of its table; None where it has no p10 and p90."""
    if not isinstance(verify, TableCost) or (spread := verify.table.spread) is None:
        return None
    return log(spread) / P10_TO_P90
