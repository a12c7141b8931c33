"""dsim from Python and notebooks: results as dataframes and figures, shown well where a notebook shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import DsimError
from simulator.report.blocks import Picture
from simulator.report.figure import Shown
from simulator.report.wording import short
from simulator.study.planning.question import Plan, load_plan, make_plan
from simulator.study.planning.result import PlanResult
from simulator.study.run.document import apply_overrides
from simulator.study.run.result import PointRow, RunResult
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.wording import load

if TYPE_CHECKING:
    import pandas as pd

    from simulator.measurements.profile import Profile
    from simulator.report.page import Page
    from simulator.report.profile.numbers import DrafterNumbers


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """A scenario's answer, and the rows of its points."""

    run: RunResult
    rows: list[PointRow]

    @cached_property
    def points(self) -> pd.DataFrame:
        """policy × load × replication, one row each."""
        from simulator.study.run.tables import points_table

        return points_table(self.rows)

    @cached_property
    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        return self.run.to_json()

    @property
    def answer(self) -> list[str]:
        """The answer in sentences."""
        return list(self.run.answer)

    @cached_property
    def page(self) -> Page:
        """The page of a run."""
        from simulator.report.run.page import run_page

        return run_page(self.run)

    @property
    def names(self) -> list[str]:
        """Of the policies."""
        return [policy.name for policy in self.run.policies]

    def __repr__(self) -> str:
        loads = self.run.loads()
        span = f"{load(loads[0])}…{load(loads[-1])}" if len(loads) > 1 else "".join(map(load, loads))
        return _lines(f"dsim run {self.run.scenario.name}: {_listed(self.names)}; load {span} {self.run.load_unit}", self.answer)

    def save(self, folder: Path | str, force: bool = False) -> Path:
        """Write the report and the tables; the path of report.html. `force` replaces what another scenario, or no dsim, has written there."""
        from simulator.report.run.page import write_report
        from simulator.study.deploy.scripts import write_launch
        from simulator.study.run.output import write_output
        from simulator.study.run.place import LAUNCH, Place

        Place(Path(folder), "scenario", self.run.scenario.name, Path(self.run.scenario.file), force).mark()
        write_output(self.run, self.rows, Path(folder))
        write_launch(self.run.launch, Path(folder) / LAUNCH, replace=True)
        return write_report(self.run, Path(folder))


@dataclass(frozen=True, repr=False)
class Planned(Shown):
    """A plan's answer."""

    plan: PlanResult

    @cached_property
    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        return self.plan.to_json()

    @cached_property
    def choices(self) -> pd.DataFrame:
        """One row a profile, policy and setting: replicas, GPUs, cost, headroom."""
        import pandas as pd

        names = ["label", "profile", "policy", "setting", "outcome", "replicas_needed", "replicas", "gpus", "cost_per_mtok", "cost_per_hour"]
        return pd.DataFrame([choice.model_dump() for choice in self.plan.cells], columns=[*names, "headroom"])

    @cached_property
    def fleets(self) -> pd.DataFrame:
        """One row a simulated fleet at the planned load."""
        import pandas as pd

        from simulator.study.planning.output import fleet_rows

        return pd.DataFrame(fleet_rows(self.plan))

    @cached_property
    def what_if(self) -> pd.DataFrame:
        """One row a moved assumption; means."""
        import pandas as pd

        means = ("speed", "speed_change", "ttft")
        return pd.DataFrame([change.to_json() | {name: change.to_json()[name]["mean"] for name in means} for change in self.plan.what_if])

    @property
    def answer(self) -> list[str]:
        """The answer in sentences."""
        return list(self.plan.answer)

    @cached_property
    def page(self) -> Page:
        """The page of a plan."""
        from simulator.report.plan.page import plan_page

        return plan_page(self.plan)

    @property
    def names(self) -> list[str]:
        """Of the choices."""
        return [choice.label for choice in self.plan.cells]

    def __repr__(self) -> str:
        peak = load(self.plan.load.peak_rps)
        return _lines(f"dsim plan {self.plan.plan.name}: {_listed(self.names)}; {peak} requests per second at the peak", self.answer)

    def save(self, folder: Path | str, force: bool = False) -> Path:
        """Write the page and the tables; the path of report.html. `force` replaces what another plan, or no dsim, has written there."""
        from simulator.report.plan.page import write_plan_report
        from simulator.study.deploy.scripts import write_launch
        from simulator.study.planning.output import write_plan
        from simulator.study.run.place import LAUNCH, Place

        Place(Path(folder), "plan", self.plan.plan.name, Path(self.plan.plan.file), force).mark()
        write_plan(self.plan, Path(folder))
        write_launch(self.plan.launch, Path(folder) / LAUNCH, replace=True)
        return write_plan_report(self.plan, Path(folder))


@dataclass(frozen=True, repr=False)
class Profiled(Shown):
    """A profile, and what its drafters' recorded blocks say."""

    profile: Profile

    @property
    def name(self) -> str:
        """Of the profile."""
        return self.profile.name

    @cached_property
    def drafters(self) -> list[DrafterNumbers]:
        """What the recorded blocks of each drafter say."""
        from simulator.report.profile.numbers import drafter_numbers

        return drafter_numbers(self.profile)

    @cached_property
    def page(self) -> Page:
        """The page of a profile."""
        from simulator.report.profile.page import profile_page

        return profile_page(self.profile, self.drafters)

    @property
    def pictures(self) -> list[Picture]:
        """The overview first, then those of the page."""
        from simulator.report.profile.plots.overview import overview

        seen = "Step cost, drafting, accepted length and conditional acceptance at a glance."
        return [Picture("overview", seen, partial(overview, self.profile, self.drafters)), *self.page.pictures()]

    @property
    def names(self) -> list[str]:
        """Of the drafters."""
        return list(self.profile.drafters)

    def save(self, folder: Path | str, force: bool = False) -> Path:
        """Write the page and the overview; the path of profile.html. `force` replaces files of these names that dsim has not made."""
        from simulator.report.profile.page import write_profile_page

        return write_profile_page(self.profile, self.drafters, Path(folder), force)[0]

    def __repr__(self) -> str:
        return _lines(f"dsim profile {self.profile.name}: {self.profile.target} on {self.profile.hardware}", [f"drafters: {_listed(self.names)}"])


def _lines(first: str, answer: Sequence[str]) -> str:
    return "\n".join((first, *answer[:1]))


def _listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = [short(name, 28) for name in names[:4]]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"


def evaluate(
    scenario: Scenario | Path | str, *, overrides: Sequence[str] = (), workers: int = 1, keep: Path | None = None, prediction: bool = True
) -> Evaluation:
    """Simulate a scenario, as `dsim run` does, with prediction intervals unless they are not wanted.

    With more workers a script needs the guard `if __name__ == "__main__":`."""
    from simulator.study.deploy.launch import with_launch
    from simulator.study.run.build import build_result
    from simulator.study.run.sweep import swept
    from simulator.study.validation.compare import compared

    if isinstance(scenario, Scenario):
        _check_none(overrides, "load_scenario")
    else:
        scenario = load_scenario(Path(scenario), overrides)
    rows, moved = swept(scenario, keep, workers=workers, moved=prediction)
    return Evaluation(with_launch(build_result(scenario, rows, *compared(scenario, rows), moved, prediction), scenario), rows)


def plan(question: Plan | Mapping[str, Any] | Path | str, *, overrides: Sequence[str] = (), workers: int = 1, keep: Path | None = None) -> Planned:
    """Answer a plan, as `dsim plan` does: from a file, or from a dictionary, which stays as it is; its paths are relative to the working folder."""
    from simulator.study.deploy.asked import plan_with_launch
    from simulator.study.planning.make import answer

    if isinstance(question, Plan):
        _check_none(overrides, "load_plan")
    elif isinstance(question, Mapping):
        content = deepcopy(dict(question))
        apply_overrides(content, overrides)
        question = make_plan(content, Path("plan.yaml"))
    else:
        question = load_plan(Path(question), overrides)
    return Planned(plan_with_launch(answer(question, keep, workers), question))


def _check_none(overrides: Sequence[str], loader: str) -> None:
    """Raises DsimError where there are any: what has been loaded has been checked."""
    if overrides:
        raise DsimError(f"expected none for what is loaded already, got {overrides[0]!r}", key="overrides", remedy=f"give them to {loader}")


def profile(folder: Path | str) -> Profiled:
    """Load a profile, as `dsim profile show` does; `profile` of the result is what it holds."""
    from simulator.measurements.profile import load_profile

    return Profiled(load_profile(Path(folder)))
