"""All points of a scenario: policies × loads × replications on all cores, each kept when done, so that an interrupted run can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from simulator.errors import ScenarioError
from simulator.measurements.acceptance_library import load_acceptance
from simulator.misspelt import models_in
from simulator.quantities import LARGEST
from simulator.reading.opening import read_bytes
from simulator.study.run.limits import check_limits
from simulator.study.run.metrics import names
from simulator.study.run.moved import repeated
from simulator.study.run.point import Part, Point, check_traffic, parts, row_of, run_part, run_point
from simulator.study.run.result import PointRow, Row
from simulator.study.run.scenario import Scenario, validate_scenario
from simulator.study.run.settings import POOL, Policy
from simulator.study.run.tables import RequestsFile, StepsFile
from simulator.study.work.bundle import Bundle, moved_workload, profile_files, published_files
from simulator.study.work.cluster import cluster
from simulator.study.work.kept import Kept, Task
from simulator.study.work.local import local, worker_count
from simulator.study.work.signals import unfinished

ALONE_S = 3.0  # of CPU time: a worker takes as long to start, and a small run is done by then


def points(scenario: Scenario) -> list[Point]:
    """Every point, in the order of the result tables."""
    replications = range(scenario.run.replications)
    return [Point(number, load, k) for number, policy in enumerate(scenario.policies) for load in scenario.loads(policy) for k in replications]


def bundle(scenario: Scenario) -> Bundle[Scenario]:
    """All that a run of `scenario` reads."""
    workload, files = moved_workload(scenario.content["workload"], scenario.workload, scenario.folder)
    content = scenario.content | {"profile": "profile", "workload": workload, "sla": {"goodput": (scenario.content.get("sla") or {}).get("goodput")}}
    files |= profile_files("profile", scenario.known)
    tables = published_files("profile", scenario.known)
    for name, other in scenario.drafters.items():
        acceptance, place = load_acceptance(other.blocks, beside=scenario.folder), f"drafters/{name}"
        content["drafters"] = content["drafters"] | {name: {"blocks": place}}
        files |= {f"{place}/{file.relative_to(acceptance.folder).as_posix()}": read_bytes(file) for file in acceptance.files()}
    if scenario.engine.scheduler_profile is not None:
        content["engine"] = content["engine"] | {"scheduler_profile": "scheduler_profile"}
        files |= profile_files("scheduler_profile", scenario.believed)
        tables |= published_files("scheduler_profile", scenario.believed)
    if POOL in scenario.others:
        content["engine"] = content["engine"] | {"prefill": content["engine"]["prefill"] | {"profile": POOL}}
        files |= profile_files(POOL, scenario.prefilling)
        tables |= published_files(POOL, scenario.prefilling)
    for number, group in enumerate(scenario.fleet.groups):
        if group.profile is not None:
            place, groups = f"groups/{number}", content["fleet"]["groups"]
            moved = [raw | ({"profile": place} if at == number else {}) for at, raw in enumerate(groups)]
            content["fleet"] = content["fleet"] | {"groups": moved}
            files |= profile_files(place, scenario.groups[number][1].known)
            tables |= published_files(place, scenario.groups[number][1].known)
    return Bundle(
        validate_scenario, scenario.file.name, content, files, ignored=("question", "validation", "notes", "baseline", "memory"), tables=tables
    )


def repeats(scenario: Scenario) -> list[Point]:
    """The points that are run again with a number moved that the profile is unsure of."""
    return [Point(number, load, 0, cause, size) for number, load, cause, size in repeated(scenario)]


def with_memory(scenario: Scenario) -> list[Point]:
    """The points of a map over load and memory that are not those of the sweep."""
    policies = enumerate(scenario.policies)
    return [Point(n, load, 0, kv_share=share) for n, policy in policies for load in scenario.loads(policy) for share in scenario.memory if share != 1]


def sweep(
    scenario: Scenario,
    keep: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    workers: int | None = None,
    details: Sequence[str] = (),
    ray: str | None = None,
) -> list[PointRow]:
    """Rows of all points. Points found in `keep` are not run again; each new one is written there as soon as it is done.

    `details` names per-point tables (steps, requests) to be written beside the rows. Interrupting loses only the points under way. `ray` is
    the address of a cluster to run on instead of this machine's cores. Raises ScenarioError where no request finishes at any point.
    """
    return swept(scenario, keep, progress, workers, details, ray, moved=False)[0]


def swept(
    scenario: Scenario,
    keep: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    workers: int | None = None,
    details: Sequence[str] = (),
    ray: str | None = None,
    moved: bool = True,
) -> tuple[list[PointRow], dict[Point, PointRow]]:
    """As `sweep`, and the rows of other points: with more or less memory, and those that are `moved`, for a prediction interval."""
    check_limits(scenario)
    workers = _check_own_rules(scenario, keep, workers, ray)
    check_traffic(scenario)
    sent, kept, every = bundle(scenario), Kept(keep, PointRow, partial(_fits, scenario)), points(scenario)
    again = [*with_memory(scenario), *(repeats(scenario) if moved else [])]
    tasks = {point: _task(point, sent.mark, tuple(details) if keep and point.usual else ()) for point in (*every, *again)}
    rows = {point: row for point, task in tasks.items() if (row := kept.read(task)) is not None}
    todo = _split(scenario, [task for point, task in tasks.items() if point not in rows])
    progress(len(rows), len(tasks))
    read = partial(validate_scenario, scenario.content, scenario.file)
    number = min(worker_count(workers), len(todo))
    alone_s = ALONE_S if workers is None else 0.0
    with closing(cluster(todo, ray, sent, keep) if ray else local(todo, number, scenario, read, keep, alone_s)) as results:
        for point, row in _rows(scenario, islice(results, len(todo))):
            kept.write(tasks[point], row)
            rows[point] = row
            progress(len(rows), len(tasks))
    ordered = [rows[point] for point in every]
    if all(not row.requests for row in ordered):
        kept.withdraw(tasks.values())
        raise ScenarioError(
            "no request finished at any point",
            where=scenario.file,
            key="load",
            remedy="lower the load, shorten the requests, or give more KV memory or time (run.drain_s)",
        )
    kept.drop_other_tables(tasks.values())
    return ordered, {point: rows[point] for point in again}


def _check_own_rules(scenario: Scenario, keep: Path | None, workers: int | None, ray: str | None) -> int | None:
    """How many workers: where a rule is the caller's own, this process alone, for others read the scenario anew and do not have the rule. Raises
    ScenarioError where others are wanted, or points are to be kept, which would outlive a change of the rule."""
    known = models_in(Policy.model_fields["verification"].annotation)
    for number, policy in enumerate(scenario.policies):
        if type(policy.verification) in known:
            continue
        if keep:
            problem, remedy = "kept points do not show when it changes", "leave out keep"
        elif ray or (workers or 1) > 1:
            problem, remedy = "other processes do not have it", "use workers=1, without ray"
        else:
            return 1
        raise ScenarioError(f"'{policy.name}' has a rule of your own, and {problem}", where=scenario.file, key=f"policies.{number}", remedy=remedy)
    return workers


def fits(wanted: Any, row: Row) -> bool:
    """Is a row that was kept one of `wanted`, with every metric, and none beyond all measure?"""
    sound = row.numbers.keys() >= {*names()} and all(number is None or abs(number) <= LARGEST for number in row.numbers.values())
    return sound and (row.load, row.replication) == (wanted.load, wanted.replication)


def _fits(scenario: Scenario, point: Point, row: PointRow) -> bool:
    return fits(point, row) and row.policy == scenario.policies[point.policy].name


def _task(point: Point, mark: str, details: tuple[str, ...]) -> Task:
    name = f"{point.policy}-{str(float(point.load)).removesuffix('.0')}-{point.replication}"
    if point.cause >= 0:
        name += f"-moved-{point.cause}-{'up' if point.size > 0 else 'down'}{f'-{abs(point.size):g}' if abs(point.size) != 1 else ''}"
    if point.kv_share != 1:
        name += f"-memory-{point.kv_share:g}"
    return Task(point, name, mark, partial(_run_point, point, {detail: f"{name}.{detail}.parquet" for detail in details}), details)


def _run_point(point: Point, tables: dict[str, str], scenario: Scenario, folder: Path | None) -> PointRow:
    """The row; tables of steps and requests are in `folder` afterwards, whole, or nothing is."""
    if folder is None or not tables:
        return run_point(scenario, point)
    head = {"policy": scenario.policies[point.policy].name, "load": point.load, "replication": point.replication}
    prompts = scenario.engine.prefill.where != "nowhere"
    about = prompts, scenario.workload.leave
    files = [StepsFile(folder / name, head) if kind == "steps" else RequestsFile(folder / name, head, *about) for kind, name in tables.items()]
    with unfinished(files):
        return run_point(scenario, point, files)


def _run_part(point: Point, part: int, scenario: Scenario, _folder: Path | None) -> Part:
    return run_part(scenario, point, part)


def _split(scenario: Scenario, tasks: Sequence[Task]) -> deque[Task]:
    """Points, or their parts where they have some and write no tables. High loads take longest: first, so that no core waits for them at the end."""
    count = parts(scenario)
    ordered = sorted(tasks, key=lambda task: (task.key.cause, -task.key.size, -task.key.load))  # one moved profile after another
    if count == 1 or any(task.details for task in tasks):
        return deque(ordered)
    return deque(replace(task, do=partial(_run_part, task.key, part)) for task in ordered for part in range(count))


def _rows(scenario: Scenario, results: Iterable[tuple[Task, PointRow | Part]]) -> Iterator[tuple[Point, PointRow]]:
    """Rows as they are done; that of a point in parts with the last of them."""
    waiting: dict[Point, list[Part]] = {}
    for task, result in results:
        if not isinstance(result, Part):
            yield task.key, result
            continue
        here = waiting.setdefault(task.key, [])
        here.append(result)
        if len(here) == parts(scenario):
            del waiting[task.key]  # a meter holds all its values up to 65 536
            yield task.key, row_of(scenario, task.key, sorted(here, key=lambda part: part.number))
