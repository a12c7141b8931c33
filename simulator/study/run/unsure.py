"""What an answer is not sure of: shares of its interval's variance, the one measurement that would narrow it most, and where draws say too little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.model_error import GROUPS
from simulator.measurements.uncertainty import Uncertainty
from simulator.study.run.draws import DRAWS, LEVEL, covariance, left_after, variance_parts
from simulator.study.run.facts import ModelErrorFacts, PredictionFacts, UnsureFacts, WorthMeasuring
from simulator.study.run.moved import causes
from simulator.study.run.point import Point
from simulator.study.run.prediction import PREDICTED, Prediction, World, delivers
from simulator.study.run.result import Gains, PointRow, Remark
from simulator.study.run.scenario import Scenario
from simulator.study.run.wording import PARAMETERS

BENCH = ("tps_per_user_mean", "accepted_length")  # what a benchmark tells of a cell
LEAST_VARIANCE = 1e-12


class Headline:
    """The number that an answer stands on: what its best policy delivers at the first promise that is kept, else its speed at the highest load."""

    def __init__(self, prediction: Prediction, gains: Gains) -> None:
        self.prediction = prediction
        kept = [row for row in gains.at_sla if row.delivered and row.policy in prediction.choosable]
        promise = min((row.sla_tps for row in kept), key=[row.sla_tps for row in gains.at_sla].index, default=None)
        self.promise = promise
        if promise is not None:
            row = max((row for row in kept if row.sla_tps == promise), key=lambda row: row.delivered.mean if row.delivered else 0.0)
            self.policy, self.load = row.policy, 0.0
            self.words = f"the throughput of {self.policy} at {promise:g} tok/s per user"
            return
        usable = [(load, policy) for policy, loads in prediction.usable.items() if policy in prediction.choosable for load in loads]
        self.load = max((load for load, _ in usable), default=0.0)
        here = [policy for load, policy in usable if load == self.load]
        speed = prediction.scenario.sla.speed
        self.policy = max(here, key=lambda policy: float(prediction.middle[policy, self.load][speed][0]), default="")
        self.words = f"the speed of {self.policy} at load {self.load:g}" if self.policy else ""

    def read(self, world: World) -> Floats:
        """Its logarithm in every draw [N]."""
        speed = self.prediction.scenario.sla.speed
        if self.promise is None:
            return np.asarray(np.log(world[self.policy, self.load][speed]))
        return np.asarray(np.log(np.maximum(delivers(world, self.prediction.usable, self.policy, speed, self.promise), LEAST_VARIANCE)))

    def slopes(self) -> Floats:
        """What a standard deviation of each state changes [S]: half of what lies between one up and one down."""
        one = np.eye(self.prediction.states.count)
        middle, sides = self.read(self.prediction.middle)[0], [self.read(self.prediction.at(sign * one)) for sign in (1, -1)]
        lost = -np.log(LEAST_VARIANCE) / 2  # where a promise is no longer kept, the other side alone tells
        up, down = (np.where(np.abs(side - middle) > lost, np.nan, side - middle) for side in sides)
        return np.nan_to_num(np.where(np.isnan(up), -down, np.where(np.isnan(down), up, (up - down) / 2)))


def facts(prediction: Prediction, gains: Gains) -> PredictionFacts:
    """What the intervals are made of."""
    uncertainty, errors = prediction.uncertainty, prediction.errors
    told = {
        "level": LEVEL, "draws": DRAWS, "kind": uncertainty.kind, "points": uncertainty.points,
        "assumed": prediction.scenario.known.uncertainty is None,
        "model_error": tuple(
            ModelErrorFacts(
                metric=group, common=(e := errors[group]).common, policy=e.policy, cell=e.cell, comparisons=e.comparisons, source=e.source
            )
            for group in GROUPS
        ),
    }  # fmt: skip
    headline = Headline(prediction, gains)
    return PredictionFacts(**told, **(_shares(prediction, headline) if headline.policy else {}))


def _shares(prediction: Prediction, headline: Headline) -> dict[str, object]:
    """Shares of the variance: of each parameter, of the model, of the simulation; and what would narrow it most."""
    slopes, count = headline.slopes(), prediction.states.parameters
    spread = covariance(prediction.uncertainty, prediction.states.count)
    parts = variance_parts(slopes, spread)
    noise, own = _noise(prediction, headline), _own(prediction, headline)
    whole = max(float(parts.sum()) + noise + own, LEAST_VARIANCE)
    more = {"model_share": min((float(parts[count:].sum()) + own) / whole, 1.0), "noise_share": noise / whole}
    best = _measurement(prediction, slopes, spread, noise + own)
    return {"about": headline.words, "unsure": shares_of(prediction.uncertainty, parts / whole), **more, **({"measure": best} if best else {})}


def shares_of(uncertainty: Uncertainty, shares: Floats) -> tuple[UnsureFacts, ...]:
    """Each parameter with its share of a variance, the first of `shares`; the largest first."""
    told = zip(uncertainty.parameters, shares, strict=False)
    facts = [UnsureFacts(parameter=it.parameter, drafter=it.drafter, sd=it.sd, note=it.note, share=float(share)) for it, share in told]
    return tuple(sorted(facts, key=lambda it: -it.share))


def _noise(prediction: Prediction, headline: Headline) -> float:
    """Variance of the headline between runs that differ in their random draws alone."""
    count = prediction.scenario.run.replications
    if count < 2:
        return 0.0
    states = np.zeros((count, prediction.states.count))
    world = {
        cell: dict(zip(prediction.names, response.values(states, prediction.states.lowest, np.arange(count)).T, strict=True))
        for cell, response in prediction.responses.items()
    }
    return float(np.var(headline.read(world)))


def _own(prediction: Prediction, headline: Headline) -> float:
    """Variance by the model's error of a single cell: that of the pace, as the nearest cell has it."""
    return prediction.errors["speed"].cell ** 2


def _measurement(prediction: Prediction, slopes: Floats, spread: Floats, rest: float) -> WorthMeasuring | None:
    """The benchmark (speed and accepted length of one policy at one load) after which least is left, by Bayes' rule for normal numbers."""
    before = float(slopes @ spread @ slopes) + rest
    best: tuple[float, str, float] | None = None
    for (policy, load), response in prediction.responses.items():
        if policy not in prediction.choosable or load not in prediction.usable[policy]:
            continue
        kept = [PREDICTED.index(name) for name in BENCH if not np.isnan(response.log[:, PREDICTED.index(name)]).any()]
        told = response.slopes(prediction.states.lowest)[:, kept]  # [S, m]
        luck = response.noise()[:, kept] if len(response.log) > 1 else np.zeros((1, len(kept)))
        error = np.diag((luck**2).mean(axis=0) + (response.alone()[:, kept] ** 2).sum(axis=0) + 1e-6)
        left = left_after(slopes, spread, told, error) + rest
        if best is None or left < best[0]:
            best = left, policy, load
    if best is None or before <= LEAST_VARIANCE:
        return None
    return WorthMeasuring(policy=best[1], load=best[2], left=min(sqrt(best[0] / before), 1.0))


def saturated(scenario: Scenario, rows: Sequence[PointRow], moved: Mapping[Point, PointRow]) -> Iterator[Remark]:
    """Where a number that is off makes a point overloaded that is not, or the other way round."""
    usual = {(row.policy, row.load): row.verdict == "overloaded" for row in rows if row.replication == 0}
    names, found = causes(scenario), dict[str, dict[str, None]]()
    for point, row in moved.items():
        if (row.verdict == "overloaded") != usual[row.policy, row.load]:
            unsure = names[point.cause]
            what = PARAMETERS.get(unsure.parameter, unsure.parameter)
            found.setdefault(f"{row.policy} at {row.load:g}", {})[f"{what} {'higher' if point.size > 0 else 'lower'}"] = None
    if found:
        places = ", ".join(f"{place} ({', '.join(by)})" for place, by in list(found.items())[:6]) + (" and others" if len(found) > 6 else "")
        text = f"Near saturation, where what is not known decides whether it is overloaded: {places}; prediction intervals there say too little."
        yield Remark(severity="warning", text=text, remedy="add loads below, or measure what the report names as worth most")
