"""Rows of a sweep to the result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from simulator.measurements.profile import Profile
from simulator.study.run.answer import Answer
from simulator.study.run.classes import together as of_classes
from simulator.study.run.conditions import conditions, paths
from simulator.study.run.facts import PolicyFacts, PredictionFacts, ProfileFacts, ScenarioFacts, sources
from simulator.study.run.memory import MemoryPoint
from simulator.study.run.metrics import METRICS, Verdict
from simulator.study.run.pareto import estimate, gains
from simulator.study.run.point import Point
from simulator.study.run.prediction import Prediction
from simulator.study.run.result import GroupResult, GroupRow, PointResult, PointRow, PublishedCurve, RunResult  # fmt: skip
from simulator.study.run.reuse import together
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy
from simulator.study.run.sweep import bundle
from simulator.study.run.unsure import facts, saturated
from simulator.study.run.validated import Validation
from simulator.study.run.warnings import warnings

UNITS = {
    "concurrency": "concurrent requests per replica",
    "rate_rps": "requests per second, whole fleet",
    "rate_scale": "times the speed of the trace",
}
UNITS_OF_SESSIONS = {
    "concurrency": "sessions at a time per replica",
    "rate_rps": "sessions per second, whole fleet",
    "rate_scale": "times the recorded rate of sessions",
}


def build_result(
    scenario: Scenario,
    rows: Sequence[PointRow],
    published: Sequence[PublishedCurve] = (),
    validation: Validation | None = None,
    moved: Mapping[Point, PointRow] | None = None,
    intervals: bool = True,
) -> RunResult:
    """Everything a reader needs: frontier with intervals, gains, provenance, warnings; with the `published` curves and the comparison; a map over
    memory; with prediction `intervals` where rows were `moved` for them, or none had to be."""
    from importlib.metadata import version

    profile, plan = scenario.known, scenario.run
    names = [p.name for p in scenario.policies]
    points = tuple(_point(scenario, rows, policy, load) for policy in scenario.policies for load in scenario.loads(policy))
    gained = gains(rows, names, scenario.base, scenario.sla.speed, scenario.sla.tps_per_user)
    told: dict[str, PredictionFacts] = {}
    memory = {point: row for point, row in (moved or {}).items() if point.kv_share != 1}
    moved = None if moved is None or not intervals else {point: row for point, row in moved.items() if point not in memory}
    if moved is not None:
        prediction = Prediction(scenario, rows, moved)
        points, gained = tuple(map(prediction.of_point, points)), prediction.of_gains(gained)
        told = {"prediction": facts(prediction, gained)}
    result = RunResult(
        dsim_version=version("dsim"),
        scenario=ScenarioFacts.of(scenario, file=shown_file(scenario.file, "scenarios"), seed=plan.seed, replications=plan.replications),
        profile=_profiles(profile, scenario.others),
        conditions=(*conditions(scenario), paths(rows)),
        policies=tuple(_policy(p) for p in scenario.policies),
        load_kind=scenario.workload.load_kind,
        load_unit=(UNITS if scenario.workload.sessions is None else UNITS_OF_SESSIONS)[scenario.workload.load_kind],
        trace=trace.words(scenario.folder) if (trace := scenario.workload.trace) else "",
        files=bundle(scenario).digests,
        speed_metric=scenario.sla.speed,
        frontier=points,
        gains=gained,
        memory=_memory(scenario, rows, memory),
        published=tuple(published),
        validation=validation,
        warnings=(*warnings(scenario, rows, points), *(saturated(scenario, rows, moved) if moved else ())),
        **told,
    )
    return result.model_copy(update={"answer": tuple(Answer(scenario, result).lines())})


def shown_file(file: Path, folder: str) -> str:
    """Its name, with the folder of shipped ones where it lies in one."""
    return file.name if file.parent.name != Path(folder).name else f"{folder}/{file.name}"


def _profiles(profile: Profile, others: Mapping[str, Profile]) -> ProfileFacts:
    """Of the scenario's profile, and what is assumed and where it comes from of the others, too."""
    if not others:
        return ProfileFacts.of(profile, provenance=sources(profile))
    several = {profile.name: profile} | {other.name: other for other in others.values()}
    tables = [row.model_copy(update={"table": f"{name}: {row.table}"}) for name, one in several.items() for row in sources(one)]
    assumed = dict.fromkeys(f"{name}: {text}" for name, one in several.items() for text in one.assumed)
    hardware = " and ".join(dict.fromkeys(one.hardware for one in several.values()))
    return ProfileFacts.of(profile, hardware=hardware, assumed=tuple(assumed), provenance=tuple(tables))


def _policy(policy: Policy) -> PolicyFacts:
    rules = [policy.verification, *(rule.verification for rule in policy.groups.values())]
    bound, peeks = any(rule.clairvoyant for rule in rules), any(rule.peeks and not rule.clairvoyant for rule in rules)
    groups = {name: rule.verification.model_dump(mode="json") for name, rule in policy.groups.items()}
    told = {"groups": groups} if groups else {}
    return PolicyFacts(
        name=policy.name, drafter=policy.drafter, verification=rules[0].model_dump(mode="json"), bound=bound, peeks=peeks, **told
    )  # fmt: skip


def _point(scenario: Scenario, rows: Sequence[PointRow], policy: Policy, load: float) -> PointResult:
    """One policy at one load: every metric with its interval over replications, and the worst verdict."""
    mine = [r for r in rows if r.policy == policy.name and r.load == load]
    return PointResult(
        policy=policy.name,
        drafter=policy.drafter or "",
        load=load,
        n=len(mine),
        requests=sum(r.requests for r in mine),
        verdict=worst([r.verdict for r in mine]),
        metrics={metric.name: estimate([r[metric.name] for r in mine]) for metric in METRICS},
        **({"client": {name: estimate([r.client[name] for r in mine]) for name in mine[0].client}} if mine[0].client else {}),
        **({"reuse": together(row for r in mine for row in r.reuse)} if any(r.reuse for r in mine) else {}),
        **({"groups": tuple(_group([r.groups[place] for r in mine]) for place in range(len(mine[0].groups)))} if mine[0].groups else {}),
        **({"classes": of_classes([r.classes for r in mine])} if all(r.classes for r in mine) else {}),
        curves={name: tuple(map(fmean, zip(*(r.curves[name] for r in mine), strict=True))) for name in _known(mine)},
    )


def _group(rows: Sequence[GroupRow]) -> GroupResult:
    """A group over its replications."""
    metrics = {name: estimate([row.numbers[name] for row in rows]) for name in rows[0].numbers}
    return GroupResult(name=rows[0].name, requests=sum(row.requests for row in rows), metrics=metrics)


def _memory(scenario: Scenario, rows: Sequence[PointRow], other: Mapping[Point, PointRow]) -> tuple[MemoryPoint, ...]:
    """The map over load and memory: the first replication of every policy, at the memory there is where that is one of those asked for."""
    every = [(share, row) for share, row in ((point.kv_share, row) for point, row in other.items())]
    every += [(1.0, row) for row in rows if row.replication == 0 and 1 in scenario.memory]
    kv = {(policy.name, share): scenario.with_memory(share).kv_tokens(policy) for policy in scenario.policies for share, _ in every}
    return tuple(
        MemoryPoint(
            kv_share=share,
            kv_tokens=kv[row.policy, share] or 0,
            **{name: getattr(row, name) for name in ("policy", "load", "verdict")},
            numbers={name: row[name] for name in (scenario.sla.speed, "goodput_rps_gpu", "prefix_hit_share", "ttft_p90_s")},
        )
        for share, row in sorted(every, key=lambda pair: (pair[0], pair[1].policy, pair[1].load))
    )


def _known(rows: Sequence[PointRow]) -> list[str]:
    """The distributions that every replication has."""
    return [name for name in ("ttft", "tpot") if rows and all(name in row.curves for row in rows)]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The gravest of some verdicts."""
    order: tuple[Verdict, ...] = ("overloaded", "backlogged")
    return next((verdict for verdict in order if verdict in verdicts), "stable")
