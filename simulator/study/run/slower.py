"""Where a rule that weighs confidences against prices is slower than one length for all, and why, in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import expm1, log

from simulator.study.run.result import PointResult, Remark
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy

LEAST = 0.02  # of the speed, beyond the intervals


@dataclass(frozen=True)
class Slower:
    """A scheduled rule at a load where the best fixed length of its drafter is faster: both points, and seconds of scheduling in its rounds."""

    scheduled: PointResult
    fixed: PointResult
    scheduling_s: float

    @property
    def speed(self) -> float:
        """What it loses: the logarithm of both speeds' quotient, below 0."""
        return log(_mean(self.scheduled, SPEED) / _mean(self.fixed, SPEED))

    @property
    def cut(self) -> float:
        """Of that, what comes from fewer accepted tokens a round."""
        return log(_mean(self.scheduled, "accepted_length") / _mean(self.fixed, "accepted_length"))

    @property
    def choosing(self) -> float:
        """Of that, what comes from the time of scheduling."""
        return log(1 - self.scheduling_s / _round_s(self.scheduled))

    @property
    def saved(self) -> float:
        """Of that, what shorter rounds win back."""
        return self.speed - self.cut - self.choosing


SPEED = "tps_per_user_overall"


def slower(scenario: Scenario, points: Sequence[PointResult]) -> Iterator[Remark]:
    """A note for each scheduled rule that loses at some loads against the best fixed length of the same drafter."""
    for policy in scenario.policies:
        losses = _losses(scenario, policy, points)
        if losses:
            yield _said(policy, losses)


def _losses(scenario: Scenario, policy: Policy, points: Sequence[PointResult]) -> list[Slower]:
    """Where it loses beyond the intervals and more than LEAST, lowest load first."""
    rule = policy.verification
    if not rule.needs_prices or rule.clairvoyant:
        return []
    fixed = {p.name for p in scenario.policies if p.verification.yardstick and p.drafter == policy.drafter}
    found = []
    for point in sorted((p for p in points if p.policy == policy.name), key=lambda p: p.load):
        beside = [p for p in points if p.policy in fixed and p.load == point.load and p.mean(SPEED)]
        best = max(beside, key=lambda p: _mean(p, SPEED), default=None)
        if best is None or not point.mean(SPEED):
            continue
        mine, theirs = point.metrics[SPEED], best.metrics[SPEED]
        assert mine is not None
        assert theirs is not None
        apart = mine.high is None or theirs.low is None or mine.high < theirs.low
        if apart and mine.mean < (1 - LEAST) * theirs.mean:
            found.append(Slower(point, best, _scheduling_s(scenario, point)))
    return found


def _said(policy: Policy, losses: list[Slower]) -> Remark:
    first = losses[0]
    mine, theirs, rest_s = first.scheduled, first.fixed, _round_s(first.scheduled) - first.scheduling_s
    verified, whole = (f"{_mean(p, 'verification_budget') - 1:.2f}" for p in (mine, theirs))
    missed = _mean(theirs, "accepted_length") - _mean(mine, "accepted_length")
    loads = ", ".join(f"{loss.scheduled.load:g}" for loss in losses[:5]) + (" …" if len(losses) > 5 else "")
    why = [
        f"it verifies {verified} drafted tokens of a request for {whole}, and {missed:.2f} more would have been accepted ({_share(first.cut)})",
        f"its rounds take {1e3 * rest_s:.3g} ms for {1e3 * _round_s(theirs):.3g} ms ({_share(first.saved)})",
    ]
    if first.scheduling_s:
        why.append(f"and {1e3 * first.scheduling_s:.3g} ms of scheduling ({_share(first.choosing)})")
    loss = f"{_share(first.speed)} per-user speed at {mine.load:g}"
    text = f"{policy.name} is slower than {theirs.policy} at load {loads}: {loss}, since {', '.join(why)}."
    if first.scheduling_s and first.choosing < first.cut:
        remedy = "small batches gain by one length, which costs no scheduling: verification: {kind: by_batch}"
    else:
        remedy = "it cuts tokens that pay: see what it believes that steps cost (docs/design.md, As engines have it), its lag and its confidences"
    return Remark(severity="note", text=text, remedy=remedy)


def _scheduling_s(scenario: Scenario, point: PointResult) -> float:
    """Seconds of scheduling in a round of the point's mean batch."""
    scheduling = getattr(scenario.known.costs, "scheduling", None)
    return scheduling.seconds + scheduling.per_request_s * (point.mean("concurrency_mean") or 0.0) if scheduling else 0.0


def _round_s(point: PointResult) -> float:
    """Seconds of a round in the mean: the tokens of one request in it ÷ its speed."""
    return _mean(point, "accepted_length") / _mean(point, SPEED)


def _mean(point: PointResult, metric: str) -> float:
    mean = point.mean(metric)
    assert mean is not None, "known wherever there is a speed"
    return mean


def _share(logarithm: float) -> str:
    return f"{100 * expm1(logarithm):+.1f} %".replace("-", "−")
