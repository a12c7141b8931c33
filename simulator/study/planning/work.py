"""Many searches on one executor: trials are run once, kept when done, and an interrupted plan can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from simulator.study.planning.question import Plan, make_plan
from simulator.study.planning.trial import Trial, TrialRow, run_trial
from simulator.study.run.sweep import bundle, fits
from simulator.study.work.bundle import Bundle, Files, moved_workload, profile_files, published_files
from simulator.study.work.cluster import cluster
from simulator.study.work.kept import Kept, Task, digest
from simulator.study.work.local import local, worker_count

Key = TypeVar("Key")
Answer = TypeVar("Answer")
Search = Generator[list[Trial], Any, Answer]
Progress = Callable[[int, int], None]  # trials done, trials asked for so far


class TrialRunner:
    """Runs the trials that searches ask for, on `workers` processes or the Ray cluster at `ray`, and keeps each in `keep`."""

    def __init__(self, plan: Plan, keep: Path | None, workers: int | None, progress: Progress, ray: str | None) -> None:
        self.kept, self.progress = Kept(keep, TrialRow, _fits), progress
        promise = [plan.question.sla.model_dump(), plan.question.fleet.start_up_s]
        self.marks = [digest([bundle(cell.scenario).mark, promise]) for cell in plan.choices]
        self.rows: dict[Trial, TrialRow] = {}
        self.asked: set[Trial] = set()
        self._todo: deque[Task] = deque()
        read = partial(make_plan, plan.question._content, plan.file)
        number = worker_count(workers)
        self._results = cluster(self._todo, ray, plan_bundle(plan), keep) if ray else local(self._todo, number, plan, read, keep)

    def close(self) -> None:
        """End the processes."""
        self._results.close()

    def run(self, searches: Mapping[Key, Search[Answer]]) -> dict[Key, Answer]:
        """Drive all searches to their ends, side by side; what each returns."""
        waiting: dict[Key, list[Trial] | None] = dict.fromkeys(searches)  # for which trials; None: not started
        answers: dict[Key, Answer] = {}
        self._advance(searches, waiting, answers)
        while waiting:
            task, row = next(self._results)
            self.kept.write(task, row)
            self.rows[task.key] = row
            self.progress(len(self.rows), len(self.asked))
            self._advance(searches, waiting, answers)
        return answers

    def _advance(self, searches: Mapping[Key, Search[Answer]], waiting: dict[Key, list[Trial] | None], answers: dict[Key, Answer]) -> None:
        """Let every search go on for as long as the rows that it waits for are here."""
        for key, trials in list(waiting.items()):
            try:
                while all(trial in self.rows for trial in trials or ()):
                    trials = searches[key].send(None if trials is None else [self.rows[trial] for trial in trials])
                    self._ask(trials)
                waiting[key] = trials
            except StopIteration as end:
                del waiting[key]
                answers[key] = end.value

    def _ask(self, trials: list[Trial]) -> None:
        """Each trial is looked up or run once, whoever asks for it."""
        for trial in trials:
            if trial not in self.asked:
                self.asked.add(trial)
                task = _task(trial, self.marks[trial.cell])
                row = self.kept.read(task)
                if row is None:
                    self._todo.append(task)
                else:
                    self.rows[trial] = row
        self.progress(len(self.rows), len(self.asked))


def _fits(trial: Trial, row: TrialRow) -> bool:
    return fits(trial, row) and row.replicas == trial.replicas and row.numbers.keys() >= {"speed", "speed_kept", "ttft", "ttft_kept"}


def _task(trial: Trial, mark: str) -> Task:
    """Named by what its numbers depend on, so that it is found under another order of the policies too."""
    return Task(trial, f"{mark[:12]}-{trial.name.partition('-')[2]}", mark, partial(_run, trial))


def _run(trial: Trial, plan: Plan, _folder: Path | None) -> TrialRow:
    return run_trial(plan, trial)


def _placed(setting: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """A setting whose profiles lie in the bundle."""
    believed = {"scheduler_profile": places[name]} if (name := setting.get("scheduler_profile")) else {}
    prefill = setting.get("prefill") or {}
    return setting | believed | ({"prefill": prefill | {"profile": places[name]}} if (name := prefill.get("profile")) else {})


def plan_bundle(plan: Plan) -> Bundle[Plan]:
    """All that the trials of a plan read."""
    content, profiles = plan.question._content, {}
    for cell in plan.choices:
        profiles[cell.scenario.profile] = cell.scenario.known
        if (name := cell.scenario.engine.scheduler_profile) is not None:
            profiles[name] = cell.scenario.believed
        if (name := getattr(cell.scenario.engine.prefill, "profile", None)) is not None:
            profiles[name] = cell.scenario.prefilling
    places = {name: f"profile-{number}" for number, name in enumerate(profiles)}
    workload, files = moved_workload(content["workload"], plan.question.workload, plan.folder)
    tables: Files = {}
    for name, profile in profiles.items():
        files |= profile_files(places[name], profile)
        tables |= published_files(places[name], profile)
    offers = [offer.model_dump(exclude_none=True) | {"profile": places[offer.profile]} for offer in plan.question.profiles]
    moved: dict[str, Any] = {"workload": workload, "profiles": offers}
    if "settings" in content:
        moved["settings"] = [_placed(raw, places) for raw in content["settings"]]
    return Bundle(make_plan, plan.file.name, content | moved, files, tables=tables)
