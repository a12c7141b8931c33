"""What a run predicts, with all that it does not know: intervals of every number and gain, and in how many of the draws a policy is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.assumed import uncertainty_of
from simulator.measurements.model_error import GROUPS, Group, ModelError, model_error
from simulator.measurements.uncertainty import Uncertainty, Unsure
from simulator.rng import stream
from simulator.study.run.draws import DRAWS, Change, Draws, Pace, Response, States, between, drawn, interval, model_states, ratio
from simulator.study.run.metrics import METRICS
from simulator.study.run.moved import bent, causes
from simulator.study.run.pareto import evidence
from simulator.study.run.point import Point
from simulator.study.run.result import GainAtSla, GainAtThroughput, Gains, PointResult, PointRow, Range
from simulator.study.run.scenario import Scenario

SLOWER = ("tps_per_user", "throughput", "goodput_rps")  # numbers that a longer time makes smaller, in proportion
SLOWER_ENDS = ("_throughput", "_goodput")
GOOD = ("goodput_rps_gpu", "goodput_rps", "request_goodput")  # `goodput_share` times the rate of requests: share and rate are predicted
LONGER = ("_s", "_ms", "duration", *(metric.name for metric in METRICS if metric.place == "parts"))  # and the ends of those that it makes larger
COUNTED = ("preemptions", "unfinished", "rejected", "truncated", "tokens_per_step_p50", "tokens_per_step_max", "busy_fraction")
PREDICTED = tuple(metric.name for metric in METRICS if metric.name not in COUNTED)
COUNTED_BY_CLIENT = ("completed", "failed", "total_input_tokens", "total_output_tokens")
IN_GROUP: dict[Group, tuple[str, ...]] = {"ttft": ("ttft",), "accepted_length": ("accepted_length", "acceptance_length", "accept_length")}
AT_MOST = {"goodput_share": 1.0, "prefix_hit_share": 1.0, "waste_fraction": 1.0, "spec_decode_acceptance_rate": 100.0}
LIKE = ("tps_per_user_mean", "throughput_tok_s_gpu", "ttft_p50_s", "ttft_p90_s")  # by which a change is told to be like a longer time
LEAST_KNOWN = 0.5  # of the draws, for an interval of a gain
LEAST_NUMBER = 1e-12

Cell = tuple[str, float]  # a policy and a load
World = Mapping[Cell, Mapping[str, Floats]]  # numbers of every cell, by draw [N]


@dataclass(frozen=True)
class Prediction:
    """Rows of a run, and of those that were repeated with a number moved."""

    scenario: Scenario
    rows: Sequence[PointRow]
    moved: Mapping[Point, PointRow]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The M numbers of a cell: metrics, then what a benchmark client prints."""
        return (*PREDICTED, *(name for name in self.rows[0].client if name not in COUNTED_BY_CLIENT))

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """What the profile is unsure of."""
        return uncertainty_of(self.scenario.known)

    @cached_property
    def errors(self) -> dict[Group, ModelError]:
        """The model's own."""
        return model_error(self.uncertainty.kind, self.uncertainty.points)

    @cached_property
    def states(self) -> States:
        """All that is not known."""
        return states_of(self.scenario, len(self.scenario.policies))

    @cached_property
    def draws(self) -> Draws:
        """The same for all policies and loads."""
        return drawn(self.uncertainty, self.states, self.scenario.run.replications, self.scenario.run.seed)

    @cached_property
    def responses(self) -> dict[Cell, Response]:
        """Of every policy at every load where something is known."""
        found = {}
        for number, policy in enumerate(self.scenario.policies):
            for load in self.scenario.loads(policy):
                found[policy.name, load] = self._response(number, policy.name, load)
        return found

    @cached_property
    def world(self) -> World:
        """What every cell becomes in every draw."""
        return self._world(self.draws.states, self.draws)

    def at(self, states: Floats) -> World:
        """What every cell becomes at given states [N, S], without any luck."""
        return self._world(states, None)

    def _world(self, states: Floats, draws: Draws | None) -> World:
        world: dict[Cell, dict[str, Floats]] = {}
        for place, (cell, response) in enumerate(self.responses.items()):
            luck = None
            if draws is not None:
                luck = stream(self.scenario.run.seed, "prediction of a cell", place).standard_normal((len(states), len(GROUPS)))
            values = response.values(states, self.states.lowest, None if draws is None else draws.replication, luck)
            most = AT_MOST | dict.fromkeys(("verification_budget", *IN_GROUP["accepted_length"]), self._longest[cell[0]])
            world[cell] = {name: np.minimum(values[:, m], most.get(name, np.inf)) for m, name in enumerate(self.names)}
            world[cell] |= {name: world[cell][name] * world[cell]["goodput_share"] for name in GOOD if name in self.names}
        return world

    @cached_property
    def _longest(self) -> dict[str, float]:
        """The most tokens of a request in a step, its anchor included, by policy."""
        gammas = {name: drafter.gamma for name, drafter in self.scenario.known.drafters.items()}
        return {p.name: 1.0 + (p.verification.longest(gammas[p.drafter]) if p.drafter else 0) for p in self.scenario.policies}

    def _response(self, number: int, name: str, load: float) -> Response:
        mine = sorted((row for row in self.rows if row.policy == name and row.load == load), key=lambda row: row.replication)
        table = np.array([[_number(_as_predicted(row, name)) for name in self.names] for row in mine])
        with np.errstate(divide="ignore"):
            log = np.log(table)
        log[~np.isfinite(log)] = np.nan
        pace, still = self._pace(number, load), Change(0.0, np.zeros(len(self.names)))
        common, own = model_states(self.states, number, self.errors, {group: self._per_unit(group) for group in GROUPS})
        sides = [self._moved(pace, number, load, cause) for cause in range(self.states.parameters)]
        others = range(self.states.parameters, self.states.count)
        up = [*(rise for rise, _ in sides), *(common.get(column, still) for column in others)]
        down = [*(fall for _, fall in sides), *(common.get(column, still).times(-1.0) for column in others)]
        return Response(log, pace, up, down, own)

    def _per_unit(self, group: Group) -> Change:
        """What one unit of a logarithm in a group of metrics changes; of speed, the pace of everything."""
        if group == "speed":
            return Change(1.0, np.zeros(len(self.names)))
        return Change(0.0, np.array([float(any(part in name for part in IN_GROUP[group])) for name in self.names]))

    def _pace(self, number: int, load: float) -> Pace:
        """How numbers answer to times that are all longer or shorter."""
        cause = len(causes(self.scenario)) - 1
        told = {0.0: np.zeros(len(self.names))} | {
            size * causes(self.scenario)[cause].sd: change for size, change in self._runs(number, load, cause).items()
        }
        at = sorted(told)
        x, changes = np.array(at), np.array([told[x] for x in at])
        beyond = np.tile([_stretched(name) for name in self.names], (2, 1))
        if len(at) > 1 and self.scenario.workload.load_kind != "concurrency":  # no more is served than comes, however fast
            rates = [m for m, name in enumerate(self.names) if beyond[0, m] < 0 and not name.startswith("tps_per_user")]
            last = np.array([(changes[1] - changes[0]) / (x[1] - x[0]), (changes[-1] - changes[-2]) / (x[-1] - x[-2])])
            beyond[:, rates] = np.clip(last[:, rates], -1.0, 0.0)
        return Pace(x, changes, beyond)

    def _runs(self, number: int, load: float, cause: int) -> dict[float, Floats]:
        """What numbers [M] change in the runs with a cause moved, by how many standard deviations; at a load that was not run, as between others."""
        base = {row.load: row for row in self.rows if row.policy == self.scenario.policies[number].name and row.replication == 0}
        found = {}
        for size in sorted({p.size for p in self.moved if (p.policy, p.cause) == (number, cause)}):
            runs = {p.load: row for p, row in self.moved.items() if (p.policy, p.cause, p.size) == (number, cause, size)}
            loads = sorted(runs)
            told = [ratio([_as_predicted(runs[at], m) for m in self.names], [_as_predicted(base[at], m) for m in self.names]) for at in loads]
            found[size] = between(loads, np.array(told), load)
        return found

    def _moved(self, pace: Pace, number: int, load: float, cause: int) -> tuple[Change, Change]:
        """What a standard deviation up and down of a cause changes; where only one was run, the other as a replica in the mean says."""
        runs = {size: self._as_pace(pace, change) for size, change in self._runs(number, load, cause).items()}
        if not runs:
            return (still := Change(0.0, np.zeros(len(self.names)))), still
        end = float(self.states.lowest[cause])
        if -1.0 in runs:
            return runs[1.0], runs[-1.0].times(1 / min(end, 1.0)) if end > 0 else runs[-1.0]  # it went no further down than to its end
        return runs[1.0], runs[1.0].times(-1.0 if end < np.inf else -bent(self.scenario, number, cause, load))

    def _as_pace(self, pace: Pace, change: Floats) -> Change:
        """A change [M] as the pace that is most like it, and the rest."""
        x = pace.like(change, [self.names.index(name) for name in LIKE])
        return Change(x, change - pace(np.array([x]))[0])

    # what results say

    def of_point(self, point: PointResult) -> PointResult:
        """With an interval of each of its numbers, and how its speed stands to the baseline's at the same load."""
        speed, base = self.scenario.sla.speed, (self.scenario.base, point.load)
        here = self.world[point.policy, point.load]
        more: dict[str, object] = {"prediction": {name: _range(values) for name, values in here.items() if not np.isnan(values).any()}}
        there = self.world.get(base)
        if there is not None and point.policy != base[0] and not np.isnan(here[speed] + there[speed]).any():
            relative = here[speed] / there[speed] - 1
            more |= {"over_baseline": _range(relative), "better_in": float((relative > 0).mean())}
        return point.model_copy(update=more)

    def of_gains(self, gains: Gains) -> Gains:
        """With intervals, and in how many draws each policy delivers more than the baseline, and more than any."""
        usable = self.usable
        at_sla = []
        for promise in dict.fromkeys(row.sla_tps for row in gains.at_sla):
            delivered = {policy: delivers(self.world, usable, policy, self.scenario.sla.speed, promise) for policy in usable}
            best = np.array([delivered[policy] for policy in usable if policy in self.choosable])
            most = best.max(axis=0) if len(best) else np.zeros(DRAWS)
            rows = (row for row in gains.at_sla if row.sla_tps == promise)
            at_sla += [self._delivered(row, delivered[row.policy], delivered[gains.baseline], most) for row in rows]
        matched = [self._matched(row, gains.baseline) for row in gains.at_matched_throughput]
        return gains.model_copy(update={"at_sla": tuple(at_sla), "at_matched_throughput": tuple(matched)})

    def _matched(self, row: GainAtThroughput, baseline: str) -> GainAtThroughput:
        if row.gain is None:
            return row
        throughput = delivers(self.world, self.usable, baseline, self.scenario.sla.speed, row.sla_tps)
        speeds = keeps(self.world, self.usable, row.policy, self.scenario.sla.speed, throughput)
        told = keeps(self.middle, self.usable, row.policy, self.scenario.sla.speed, self._middle_of(baseline, row.sla_tps))[0] / row.sla_tps
        gain = _known(speeds / row.sla_tps * _to(1 + row.gain.mean, told) - 1)
        kept = speeds[throughput > 0]  # draws in which the baseline keeps the promise: there is nothing to match in the others
        return row.model_copy(update={"prediction": gain, "better_in": _share(kept, np.full(len(kept), row.sla_tps))} if gain else {})

    def _delivered(self, row: GainAtSla, mine: Floats, baseline: Floats, most: Floats) -> GainAtSla:
        """Draws are read along straight lines, the row's numbers along a smooth one: the draws are brought to it, so that both have one middle."""
        more: dict[str, object] = {}
        told = self._middle_of(row.policy, row.sla_tps)[0]
        if row.delivered is not None:
            more |= {"delivers": _known(mine * _to(row.delivered.mean, told)), "best_in": float(((mine >= most) & (mine > 0)).mean())}
        if row.gain is not None and mine is not baseline:
            relative = np.divide(mine, baseline, out=np.full(len(mine), np.nan), where=baseline > 0)
            middle = told / max(self._middle_of(self.scenario.base, row.sla_tps)[0], LEAST_NUMBER)
            more |= {"prediction": _known(relative * _to(1 + row.gain.mean, middle) - 1), "better_in": _share(mine, baseline)}
        return row.model_copy(update={key: value for key, value in more.items() if value is not None})

    def _middle_of(self, policy: str, promise: float) -> Floats:
        return delivers(self.middle, self.usable, policy, self.scenario.sla.speed, promise)

    @cached_property
    def middle(self) -> World:
        """What every cell is where nothing is off, [1]."""
        return self.at(np.zeros((1, self.states.count)))

    @cached_property
    def usable(self) -> dict[str, list[float]]:
        """Loads of every policy that are evidence in all replications, and whose numbers are known."""
        of = {policy.name: [row for row in self.rows if row.policy == policy.name] for policy in self.scenario.policies}
        kept = {id(row) for rows in of.values() for row in evidence(rows)}
        bad = {(row.policy, row.load) for row in self.rows if id(row) not in kept}
        found: dict[str, list[float]] = {policy.name: [] for policy in self.scenario.policies}
        for (policy, load), numbers in self.world.items():
            if (policy, load) not in bad and not np.isnan(numbers[self.scenario.sla.speed] + numbers["throughput_tok_s_gpu"]).any():
                found[policy].append(load)
        return found

    @cached_property
    def choosable(self) -> set[str]:
        """Policies that an engine can run, losslessly."""
        rules = {policy.name: policy.verification for policy in self.scenario.policies}
        return {name for name, rule in rules.items() if not rule.clairvoyant and not rule.peeks}


def states_of(scenario: Scenario, policies: int) -> States:
    """What is not known where so many policies are compared on the scenario's profile."""
    lowest = [_lowest(scenario, unsure) for unsure in uncertainty_of(scenario.known).parameters]
    states = States(len(lowest), policies, np.array(lowest))
    return replace(states, lowest=np.array([*lowest, *[np.inf] * (states.count - len(lowest))]))


def delivers(world: World, usable: Mapping[str, Sequence[float]], policy: str, speed: str, promise: float) -> Floats:
    """Throughput of a policy at a promised speed in every draw [N]: 0 where it does not keep it; at least its highest where it always does."""
    curves = _curves(world, usable, policy, speed)
    return np.array([_read(v, x, promise) for v, x in curves])


def keeps(world: World, usable: Mapping[str, Sequence[float]], policy: str, speed: str, throughput: Floats) -> Floats:
    """Speed of a policy at a throughput in every draw [N]; NaN where it does not deliver it, or nothing is to be delivered."""
    curves = _curves(world, usable, policy, speed)
    return np.array([_speed(v, x, at) for (v, x), at in zip(curves, throughput, strict=True)])


def _curves(world: World, usable: Mapping[str, Sequence[float]], policy: str, speed: str) -> list[tuple[Floats, Floats]]:
    """Speeds, rising, and the most throughput at each or more; of every draw."""
    loads = usable[policy]
    if not loads:
        return [(np.empty(0), np.empty(0))] * len(next(iter(next(iter(world.values())).values())))
    speeds, throughputs = (np.array([world[policy, load][name] for load in loads]).T for name in (speed, "throughput_tok_s_gpu"))
    order = np.argsort(speeds, axis=1, kind="stable")
    speeds, throughputs = np.take_along_axis(speeds, order, 1), np.take_along_axis(throughputs, order, 1)
    most = np.maximum.accumulate(throughputs[:, ::-1], axis=1)[:, ::-1]
    return list(zip(speeds, most, strict=True))


def _read(speeds: Floats, throughputs: Floats, promise: float) -> float:
    if not len(speeds) or promise > speeds[-1]:
        return 0.0
    return float(np.exp(np.interp(promise, speeds, np.log(throughputs))))


def _speed(speeds: Floats, throughputs: Floats, throughput: float) -> float:
    if not len(speeds) or not 0 < throughput <= throughputs[0]:
        return float("nan")
    return float(np.interp(np.log(throughput), np.log(throughputs[::-1]), speeds[::-1]))


def _share(mine: Floats, other: Floats) -> float:
    """Of draws in which the one is more than the other; what is not known is not more."""
    return float((np.nan_to_num(mine) > np.nan_to_num(other)).mean())


def _stretched(name: str) -> float:
    """What a number becomes where all takes longer, in proportion: less, the same or more."""
    return -1.0 if name.startswith(SLOWER) or name.endswith(SLOWER_ENDS) else float(name.endswith(LONGER))


def _known(values: Floats) -> Range | None:
    """The interval of what is known, where most of it is."""
    known = values[~np.isnan(values)]
    return _range(known) if len(known) >= LEAST_KNOWN * len(values) else None


def _to(mean: float, read: float) -> float:
    """The factor that brings what was read to the mean; none where nothing was read."""
    return mean / read if read > 0 else 1.0


def _range(values: Floats) -> Range:
    low, high = interval(values)
    return Range(low=low, high=high)


def _as_predicted(row: PointRow, name: str) -> float | None:
    """A number of a row; of goodput the requests per second of which it is a share, None where it is none of them."""
    value, share = row[name], row["goodput_share"]
    if name not in GOOD or value is None:
        return value
    return value / share if share else None


def _number(value: float | None) -> float:
    return np.nan if value is None or value < 0 else float(value)


def _lowest(scenario: Scenario, unsure: Unsure) -> float:
    """How many standard deviations a parameter can fall: drafting and scheduling cost nothing at least, but for what every step takes beside."""
    if unsure.parameter not in ("draft", "scheduling") or unsure.sd == 0:
        return np.inf
    profile = scenario.known
    step_s = float(profile.costs.verify.seconds(1, 1))
    if unsure.parameter == "scheduling":
        known = profile.costs.scheduling
        return known.seconds / step_s / unsure.sd if known else 0.0
    drafters = [drafter for name, drafter in profile.drafters.items() if unsure.drafter in (None, name)]
    if any(drafter.draft.every_step_s for drafter in drafters):
        return np.inf
    return max((drafter.draft.seconds(1, 0.0, drafter.gamma) / step_s for drafter in drafters), default=0.0) / unsure.sd
