"""Which runs are repeated with a number moved that the profile is unsure of: one replication, the same random draws, at a few loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import hypot, log

import numpy as np

from simulator.measurements.assumed import uncertainty_of
from simulator.measurements.model_error import model_error
from simulator.measurements.perturbed import perturbed
from simulator.measurements.profile import Profile
from simulator.measurements.uncertainty import OF_ACCEPTANCE, Unsure
from simulator.study.run.fleet import fleet_of
from simulator.study.run.fluid import operating
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy
from simulator.study.run.span import Same, shape_at_one
from simulator.traffic.arrivals import ClosedLoop

PACE_SIZES = (1.0, -1.0, 2.0, -2.0)  # of a run in which every time is longer: as far as draws go, since their effects are read between these
PER_LOGIT = 0.25  # the most that the logarithm of an accepted length changes with the logit of acceptance
MOST_LOADS = 4  # that each is run at; between them the response is interpolated
NEGLIGIBLE = 5e-4  # of the speed: not run at all
MOST_BENT = 4.0  # times as much one way as the other


def causes(scenario: Scenario) -> tuple[Unsure, ...]:
    """What the scenario's profile is unsure of, and last the pace of everything."""
    return _causes(Same(scenario))


@lru_cache(maxsize=4)
def _causes(of: Same) -> tuple[Unsure, ...]:
    """The pace varies about as much as all that is not known makes it vary."""
    unsure = uncertainty_of(of.scenario.known)
    error = model_error(unsure.kind, unsure.points)["speed"]
    parts = [error.common, error.policy, error.cell, *(it.sd for it in unsure.parameters if it.parameter in ("step", "prefill"))]
    parts.append(PER_LOGIT * max((it.sd for it in unsure.parameters if it.parameter == "level"), default=0.0))
    return (*unsure.parameters, Unsure(parameter="pace", sd=hypot(*parts)))


def moved(scenario: Scenario, cause: int, size: float) -> Scenario:
    """The scenario, with one number of its profile moved by `size` standard deviations. Schedulers know the moved prices, since engines measure
    their own, unless the scenario gives them a profile of theirs."""
    return scenario if size == 0 else _moved(Same(scenario), cause, size)


@lru_cache(maxsize=4)
def _moved(of: Same, cause: int, size: float) -> Scenario:
    other = of.scenario.model_copy()
    unsure = causes(of.scenario)[cause]
    other._profile = perturbed(of.scenario.known, unsure, size)
    other._others = {name: _alike(profile, unsure, size) for name, profile in of.scenario._others.items()}
    return other


def _alike(profile: Profile, unsure: Unsure, size: float) -> Profile:
    """A profile of a group of replicas: what is not known of it as of the scenario's moves with that, by its own standard deviation."""
    known = (unsure,) if unsure.parameter == "pace" else uncertainty_of(profile).parameters
    same = [one for one in known if (one.parameter, one.drafter) == (unsure.parameter, unsure.drafter)]
    return perturbed(profile, same[0], size) if same else profile


def repeated(scenario: Scenario) -> Iterator[tuple[int, float, int, float]]:
    """Policy, load, cause and size of every run that is repeated."""
    for cause in range(len(causes(scenario))):
        for number, policy in enumerate(scenario.policies):
            sizes = _sizes(scenario, number, cause)
            for load in spread_out(scenario.loads(policy)):
                yield from ((number, load, cause, size) for size in sizes)


def spread_out(loads: Sequence[float]) -> list[float]:
    """The lowest, the highest and some between."""
    places = np.unique(np.linspace(0, len(loads) - 1, min(len(loads), MOST_LOADS)).round().astype(int))
    return [loads[place] for place in places]


def scales_exactly(scenario: Scenario) -> bool:
    """Does a pace stretch all that happens? It does where users, or a client, send the next request as soon as they have an answer."""
    users, client = scenario.workload.arrivals, scenario.workload.client
    return client.at_once if client is not None else isinstance(users, ClosedLoop) and users.think_s is None


def bent(scenario: Scenario, number: int, cause: int, load: float) -> float:
    """What one standard deviation down does, for each that one up does the other way: 1 where the response is straight, 0 where there is no way
    down. From a replica in the mean, so that one side alone has to be run."""
    up, down = (_answers(Same(scenario), number, cause, size) for size in (1.0, -1.0))
    ends = [-d / u if abs(u) > NEGLIGIBLE else 1.0 for u, d in zip(up, down, strict=True)]
    at = np.interp(log(load), np.log(_loads(scenario, number)), ends) if scenario.workload.load_kind == "concurrency" else ends[-1]
    return float(np.clip(at, 0.0, MOST_BENT))


def _sizes(scenario: Scenario, number: int, cause: int) -> tuple[float, ...]:
    """The sizes that are run: both where a queue may form, or a cache fall, on one side alone, and none where the policy does not feel it."""
    unsure, both = causes(scenario)[cause], not scales_exactly(scenario) or bool(scenario.fleet.groups)
    if unsure.sd == 0 or not _felt(scenario, scenario.policies[number], unsure):
        return ()
    if unsure.parameter == "pace":
        return PACE_SIZES
    if unsure.parameter not in ("prefill", *OF_ACCEPTANCE) and not scenario.fleet.groups:
        up, down = (_answers(Same(scenario), number, cause, size) for size in (1.0, -1.0))
        if max(map(abs, (*up, *down))) < NEGLIGIBLE:
            return ()
        both = both and any(down)  # or it is at its end
    return (1.0, -1.0) if both else (1.0,)


def _felt(scenario: Scenario, policy: Policy, unsure: Unsure) -> bool:
    if policy.groups:
        return any(_felt(scenario, policy.on(group.name), unsure) for group in scenario.fleet.groups)
    if unsure.drafter is not None and unsure.drafter != policy.drafter:
        return False
    match unsure.parameter:
        case "verified" | "draft" | "level" | "tilt" | "scheduling":
            return policy.drafter is not None
        case "prefill":
            return scenario.engine.prefill.where != "nowhere"
        case "pace":
            return not scales_exactly(scenario)
        case _:
            return True


def _answers(of: Same, number: int, cause: int, size: float) -> tuple[float, ...]:
    """Logarithm of what the speed of a small and of a large batch becomes in the mean, relative to what it is."""
    usual = cause if causes(of.scenario)[cause].parameter in OF_ACCEPTANCE else -1
    return tuple(log(there / here) for here, there in zip(_speeds(of, number, usual, 0.0), _speeds(of, number, cause, size), strict=True))


def _loads(scenario: Scenario, number: int) -> tuple[float, float]:
    """The lowest and the highest number of users on a replica, or of requests in its batch."""
    if scenario.workload.load_kind != "concurrency":
        return 1.0, float(scenario.engine.max_batch)
    loads = scenario.loads(scenario.policies[number])
    return loads[0], loads[-1] if len(loads) > 1 else loads[0] + 1


@lru_cache(maxsize=256)
def _speeds(of: Same, number: int, cause: int, size: float) -> tuple[float, ...]:
    """Of both batches; where acceptance moves, the accepted length of whole blocks, for few drawn rows would tell little of it."""
    scenario, policy = of.scenario, of.scenario.policies[number]
    if causes(scenario)[cause].parameter in OF_ACCEPTANCE and policy.drafter is not None:
        mean = 1 + float(moved(scenario, cause, size).known.blocks(policy.drafter).accepted.mean())
        return mean, mean
    fleet, shape = fleet_of(moved(scenario, cause, size), policy, 0), shape_at_one(scenario)
    batches = [min(int(load), scenario.engine.max_batch) for load in _loads(scenario, number)]
    context = shape.mean_prompt + shape.mean_output / 2
    return tuple(operating(fleet, batch, context, scenario.workload.domains).tps for batch in batches)
