"""How sure a plan is: what every choice needs in each of the worlds that may be the true one.

The simulated fleet says how many replicas the profile as it is needs; a replica in the mean (study/run/fluid.py), with one number of the profile
moved, says how that need grows. So no trial is run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.assumed import uncertainty_of
from simulator.measurements.model_error import model_error
from simulator.measurements.uncertainty import Uncertainty
from simulator.study.planning.finding import CellResult, Search
from simulator.study.planning.question import Plan
from simulator.study.planning.result import PlanPrediction, SureNeed
from simulator.study.run.draws import DRAWS, LEVEL, States, covariance, drawn, left_after, variance_parts
from simulator.study.run.facts import WorthMeasuring
from simulator.study.run.fleet import fleet_of
from simulator.study.run.fluid import Carried, carried, least_by_fluid, operating, speed_by_fluid
from simulator.study.run.moved import moved
from simulator.study.run.prediction import states_of
from simulator.study.run.result import Range
from simulator.study.run.scenario import Scenario
from simulator.study.run.unsure import shares_of

MOST = 20.0  # times the replicas: a need beyond is none that can be met
LONGER = 0.05  # logarithm of the times that show how a need grows with the pace
LEAST_ERROR = 0.02  # of a benchmark's speed
LEAST = 1e-12


@dataclass(frozen=True)
class Sure:
    """The planned cells of a plan and what they need in every draw."""

    plan: Plan
    search: Search

    @cached_property
    def cells(self) -> dict[int, CellResult]:
        """Those with a fleet."""
        return {n: cell for n, cell in sorted(self.search.cells.items()) if cell.outcome == "planned" and cell.needed and cell.carried_load}

    def _uncertainty(self, cell: int) -> Uncertainty:
        return uncertainty_of(self.plan.choices[cell].scenario.known)

    def _states(self, cell: int) -> States:
        """One for each parameter of the cell's profile, then the model's own errors: choices of one profile have the same."""
        return states_of(self.plan.choices[cell].scenario, len(self.plan.choices))

    @cached_property
    def responses(self) -> dict[int, Floats]:
        """What one standard deviation of each state does to the logarithm of the replicas that a cell needs, [S]."""
        found = {}
        for number, cell in self.cells.items():
            states, uncertainty = self._states(number), self._uncertainty(number)
            scenario = self.plan.scenario(number, 1)
            curve = self._curve(scenario)
            speed = self._speed(cell, curve)
            usual = least_by_fluid(curve, self.plan.shape.peak_rps, speed)
            row = np.zeros(states.count)
            for cause, unsure in enumerate(uncertainty.parameters):
                if unsure.sd == 0 or (unsure.drafter is not None and unsure.drafter != scenario.policies[0].drafter):
                    continue
                row[cause] = _grown(least_by_fluid(self._curve(moved(scenario, cause, 1.0)), self.plan.shape.peak_rps, speed), usual)
            slower = [Carried(c.requests, c.rps * np.exp(-LONGER), c.tps * np.exp(-LONGER)) for c in curve]
            pace = _grown(least_by_fluid(slower, self.plan.shape.peak_rps, speed), usual) / LONGER
            common, own = _model_error(uncertainty)
            row[states.common("speed")], row[states.own("speed", number)] = pace * common, pace * own
            found[number] = row
        return found

    def _curve(self, scenario: Scenario) -> list[Carried]:
        shape = self.plan.shape
        return carried(fleet_of(scenario, scenario.policies[0], 0), shape.mean_prompt, shape.mean_output, scenario.workload.domains, 4)

    def _speed(self, cell: CellResult, curve: list[Carried]) -> float:
        """The mean speed that a replica must have for the promised user to have his, as the simulated fleet shows; 0 without a promise of speed."""
        question, rows = self.plan.question, cell.known.peak(self.plan.load).get(cell.needed or 1, [])
        mean = speed_by_fluid(curve, self.plan.shape.peak_rps / (cell.needed or 1))
        speeds = [row.speed for row in rows if row.speed]
        return question.sla.tps * (mean / float(np.mean(speeds)) if mean and speeds else 1.0)

    @cached_property
    def needs(self) -> dict[int, Floats]:
        """Replicas that each cell needs in every draw [N], a spare included where one is asked for; infinite where no fleet would do."""
        found = {}
        for number, cell in self.cells.items():
            states = self._states(number)
            draws = np.maximum(drawn(self._uncertainty(number), states, 1, self.plan.question.run.seed).states, -states.lowest)
            assert cell.needed is not None
            assert cell.carried_load is not None
            least = cell.needed * min(self.plan.load / cell.carried_load, 1.0)
            factor = np.exp(draws @ self.responses[number])
            need = np.ceil(np.maximum(least * factor, 1.0) - 1e-9)
            need = np.where(factor > MOST, np.inf, np.maximum(need, self.plan.question.fleet.min_replicas))
            found[number] = need + cell.spare
        return found

    def of(self, cell: int) -> SureNeed | None:
        """Of one choice: how many GPUs it may need, how often its fleet is enough and it costs least, and the fleet that is enough as often as
        asked."""
        if cell not in self.needs or (bought := self.cells[cell].replicas) is None:
            return None
        choice, need, wanted = self.plan.choices[cell], self.needs[cell], self.plan.question.sla.probability
        low, high, enough = (np.quantile(need, part, method="inverted_cdf") for part in ((1 - LEVEL) / 2, (1 + LEVEL) / 2, wanted))
        offered = {n: self._price(n) for n in self.needs if not self.plan.bound(n)}
        cheapest = float(((offered[cell] < np.inf) & (offered[cell] <= np.min(list(offered.values()), axis=0))).mean()) if cell in offered else None
        return SureNeed(
            gpus=Range(low=choice.gpus(int(low)), high=choice.gpus(int(high))) if np.isfinite(high) else None,
            enough_in=float((need <= bought).mean()),
            cheapest_in=cheapest,
            replicas=int(enough) if np.isfinite(enough) else None,
        )

    def _price(self, cell: int) -> Floats:
        choice = self.plan.choices[cell]
        return np.asarray((self.needs[cell] * choice.gpus_per_replica + choice.scenario.prefill_gpus) * choice.gpu_hour)

    def facts(self) -> PlanPrediction:
        """What the intervals are made of, for the chosen fleet."""
        best = self.search.best
        uncertainty, row = self._uncertainty(best), self.responses[best]
        spread = covariance(uncertainty, len(row))
        parts = variance_parts(row, spread)
        whole = max(float(parts.sum()), LEAST)
        return PlanPrediction(
            level=LEVEL,
            draws=DRAWS,
            probability=self.plan.question.sla.probability,
            kind=uncertainty.kind,
            points=uncertainty.points,
            unsure=shares_of(uncertainty, parts / whole),
            model_share=min(float(parts[len(uncertainty.parameters) :].sum()) / whole, 1.0),
            measure=self._measurement(best, spread, row),
        )

    def _measurement(self, best: int, spread: Floats, row: Floats) -> WorthMeasuring | None:
        """The benchmark (speed and accepted length of one choice of the same profile at so many users) after which least is left of the variance."""
        before = float(row @ spread @ row)
        found: tuple[float, str, float] | None = None
        for number in self.cells:
            if self.plan.choices[number].profile != self.plan.choices[best].profile or self.plan.bound(number):
                continue
            for users, told in self._told(number).items():
                left = left_after(row, spread, told, np.diag([LEAST_ERROR**2] * told.shape[1]))
                if found is None or left < found[0]:
                    found = left, self.plan.choices[number].policy, users
        return None if found is None or before <= LEAST else WorthMeasuring(policy=found[1], load=found[2], left=min(sqrt(found[0] / before), 1.0))

    def _told(self, number: int) -> Mapping[float, Floats]:
        """By users: what a standard deviation of each state does to the logarithms of speed and accepted length of a choice, [S, 2]."""
        scenario, uncertainty = self.plan.scenario(number, 1), self._uncertainty(number)
        context = self.plan.shape.mean_prompt + self.plan.shape.mean_output / 2
        worlds = [scenario, *(moved(scenario, cause, 1.0) for cause in range(len(uncertainty.parameters)))]
        fleets = [fleet_of(world, world.policies[0], 0) for world in worlds]
        states, (common, own) = self._states(number), _model_error(uncertainty)
        found = {}
        for users in sorted({1, 8, 64, scenario.engine.max_batch} - {u for u in (8, 64) if u > scenario.engine.max_batch}):
            seen = [operating(fleet, users, context, scenario.workload.domains, 4) for fleet in fleets]
            told = np.zeros((states.count, 2))
            for cause, at in enumerate(seen[1:]):
                told[cause] = log(at.tps / seen[0].tps), log(at.accepted_length / seen[0].accepted_length)
            told[states.common("speed"), 0], told[states.own("speed", number), 0] = -common, -own
            found[float(users)] = told
        return found


def _model_error(uncertainty: Uncertainty) -> tuple[float, float]:
    """Standard deviations of the pace: what all choices have in common, and what one has for itself."""
    error = model_error(uncertainty.kind, uncertainty.points)["speed"]
    return error.common, sqrt(error.policy**2 + error.cell**2)


def _grown(need: float, usual: float) -> float:
    """Logarithm of what a need becomes."""
    return log(min(max(need / usual, 1 / MOST), MOST)) if np.isfinite(usual) and usual > 0 else 0.0
