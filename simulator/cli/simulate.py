"""`dsim run`, `validate`, `plan`, `compare` and `schema`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from simulator.cli.options import Format, MaxHours, Override, Prediction, Ray, Replace, Report, Workers, show
from simulator.echo import echo
from simulator.errors import DsimError

if TYPE_CHECKING:
    from simulator.report.page import Page
    from simulator.study.planning.result import PlanResult
    from simulator.study.run.place import Place
    from simulator.study.run.result import RunResult
    from simulator.study.run.scenario import Scenario


def run(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report and tables.", show_default="reports/NAME")] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="PROFILE", help="Profile in place of the scenario's. Repeatable: one report each, in a folder of its name."),
    ] = None,
    override: Override = None,
    workers: Workers = None,
    ray: Ray = None,
    max_hours: MaxHours = None,
    steps: Annotated[bool, typer.Option("--steps", help="Also write every engine step (points/*.steps.parquet).")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="Also write every request (points/*.requests.parquet).")] = False,
    prediction: Prediction = True,
    report: Report = None,
    force: Replace = False,
    format: Format = "text",
) -> None:
    """Simulate a scenario and write its frontier and report.

    Run the same command again to resume after an interruption."""
    from simulator.study.deploy.scripts import scripts_line
    from simulator.study.run.scenario import load_scenario

    named = [f"profile={name}" for name in dict.fromkeys(profile or ())]
    scenarios = [load_scenario(file, [*one, *(override or [])]) for one in ([[name] for name in named] or [[]])]
    names = [scenario.known.name for scenario in scenarios]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DsimError(f"two profiles are called '{twice}'", where="dsim run", key="--profile", remedy="give one of them another name")
    details = [name for name, wanted in (("steps", steps), ("requests", requests)) if wanted]
    pages = format == "text" if report is None else report
    found = []
    for scenario in scenarios:
        parent = out or Path("reports") / scenario.name
        place = parent / scenario.known.name if len(scenarios) > 1 else out
        found.append(_simulate(scenario, place, workers, format, pages, force, details, ray, prediction))
        result, written = found[-1][0], found[-1][1]
        said = f"report: {written.folder / 'report.html'}" if pages else f"written to {written.folder}"
        if format == "text":
            show(format, None, *_shown(format, result), said + written.replaced + scripts_line(result.launch, written.folder))
    if format == "json":
        documents = [result.to_json() for result, _ in found]
        show(format, documents[0] if len(documents) == 1 else documents)


def validate(
    file: Annotated[Path | None, typer.Argument(metavar="SCENARIO.yaml")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="reports/NAME; docs/validation with --published; reports/silicon")
    ] = None,
    override: Override = None,
    workers: Workers = None,
    max_hours: MaxHours = None,
    engine: Annotated[
        Path | None,
        typer.Option(help="Folder with target/ and the drafters: serve them with the real engine and compare. Needs torch."),
    ] = None,
    serving: Annotated[
        list[str] | None,
        typer.Option(
            "--serving",
            metavar="KEY=VALUE",
            help="How --engine serves: turns, least, max_tokens, temperature, seed, rate, arrivals, open_requests, device, dtype, threads or "
            "prompts. Repeatable.",
        ),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Run every comparison with published measurements.")] = False,
    silicon: Annotated[bool, typer.Option("--silicon", help="Predict real runs of others from kernel times. Needs the extra `estimate`.")] = False,
    tenth: Annotated[bool, typer.Option("--tenth", help="With --silicon, only a fixed tenth of the judged runs, of every group.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --published, run only this comparison; with --silicon, groups whose names hold this. Repeatable."),
    ] = None,
    measured: Annotated[Path | None, typer.Option(help="With --published, folder of recorded runs.", show_default=False)] = None,
    force: Replace = False,
    format: Format = "text",
) -> None:
    """Compare a scenario with published tables or a real engine.

    Exits with 1 if a limit is exceeded."""
    from simulator.errors import ScenarioError
    from simulator.report.validation.page import compared_page
    from simulator.study.run.scenario import load_scenario

    if published + silicon + (file is not None) != 1:
        problem = "expected either a scenario, --published or --silicon"
        raise DsimError(problem, where="dsim validate", remedy="for example dsim validate scenarios/v4-flash-pareto.yaml")
    for option, given, of, what in (
        ("--only", only, published or silicon, "--published or --silicon"),
        ("--tenth", tenth, silicon, "--silicon"),
        ("--measured", measured, published, "--published"),
        ("--engine", engine, file, "a scenario"),
        ("--serving", serving, engine, "--engine"),
        ("--set", override, file, "a scenario"),
    ):
        if given and not of:
            raise DsimError(f"expected {what} with it, got none", where="dsim validate", key=option, remedy="leave it out")
    if silicon:
        _validate_silicon(out or Path("reports/silicon"), only or [], tenth, workers, force, format)
        return
    if file is None:
        _validate_published(out or Path("docs/validation"), measured or Path("../shared/measured"), only or [], workers, format)
        return
    scenario = load_scenario(file, override or [])
    if engine is not None:
        if not (engine / "target").is_dir():
            raise DsimError("no folder target/ in it", where=engine, key="--engine", remedy="name the folder that holds target/ and the drafters")
        _compare_with_engine(scenario, engine, serving or [], out or Path("reports") / f"{scenario.name}-engine", format, force)
        return
    if not scenario.validation:
        raise ScenarioError("has no checks", where=file, key="validation", remedy="add some, see docs/scenarios.md")
    result, place = _simulate(scenario, out, workers, format, format == "text", force)
    assert result.validation is not None
    page, written = compared_page(scenario.name, result.validation.rows), f"written to {place.folder / 'validation.json'}{place.replaced}"
    show(format, result.validation.to_json(), page, written, ok=result.validation.ok)


def _validate_published(out: Path, measured: Path, only: list[str], workers: int | None, format: str) -> None:
    """Runs the comparisons with published measurements; writes one result file each."""
    from simulator import shipped
    from simulator.report.validation.page import compared_page
    from simulator.study.validation.published import validate_published

    results = validate_published(shipped.scenario("scenarios"), measured, out, only, workers, lambda line: echo(line, err=True))
    pages = [compared_page(f"{result.name}: {result.title}", result.rows) for result in results]
    written = f"written to {out}; make validation puts them into docs/validation.md"
    show(format, [result.to_json() for result in results], *pages, written, ok=all(result.ok is not False for result in results))


def _validate_silicon(out: Path, only: list[str], tenth: bool, workers: int | None, force: bool, format: str) -> None:
    """Predicts the runs of the sample, and writes what was found with a picture."""
    from simulator.made import check_made, mark
    from simulator.report.validation.silicon import silicon_page, write_picture
    from simulator.study.run.output import write_json
    from simulator.study.validation.silicon.command import validate_silicon

    files = ("silicon.json", "silicon.png")
    check_made(out, files, force)
    command = shlex.join(["dsim", *sys.argv[1:]])
    found, pairs = validate_silicon(only, tenth, out / "replicas", workers, command, lambda line: echo(line, err=True))
    mark(out, files)
    write_json(found.to_json(), out / "silicon.json")
    write_picture(pairs, out / "silicon.png")
    show(format, found.to_json(), silicon_page(found), f"written to {out}: silicon.json, silicon.png", ok=found.ok)


def _compare_with_engine(scenario: Scenario, models: Path, serving: list[str], out: Path, format: str, force: bool) -> None:
    """Serves the scenario's policies and loads with the real engine, simulates the same requests and compares."""
    from real_runner.serving import serve_runs
    from simulator.made import check_made, mark
    from simulator.report.validation.engine import engine_page, write_picture
    from simulator.study.run.output import write_json
    from simulator.study.validation.engine_check import compare, judged
    from simulator.study.validation.engine_runs import planned, read_facts, read_run

    files = ("engine_check.json", "engine_check.png")
    check_made(out, files, force)
    folders = serve_runs(models, scenario.known, planned(scenario), serving, out / "runs", quiet=format == "json")
    check = compare(scenario, [read_run(folder, scenario.policies) for folder in folders])
    comparison = judged(scenario, check, shlex.join(["dsim", *sys.argv[1:]]), read_facts(folders[0]))
    mark(out, files)
    write_json(comparison.to_json(), out / "engine_check.json")
    title = f"{scenario.known.name}: simulator against engine"
    write_picture(comparison, out / "engine_check.png", title)
    written = f"written to {out}: engine_check.json, engine_check.png, runs/"
    show(format, comparison.to_json(), engine_page(comparison, title), written, ok=comparison.ok)


def plan(
    file: Annotated[Path, typer.Argument(metavar="PLAN.yaml")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page and tables.", show_default="reports/NAME")] = None,
    override: Override = None,
    workers: Workers = None,
    ray: Ray = None,
    max_hours: MaxHours = None,
    report: Report = None,
    force: Replace = False,
    prediction: Prediction = True,
    format: Format = "text",
) -> None:
    """Find the policy and fleet that meet an SLA at least cost.

    Run the same command again to resume after an interruption."""
    from simulator.progress import Progress, resumable
    from simulator.report.render.files import remove
    from simulator.study.deploy.asked import plan_with_launch
    from simulator.study.deploy.scripts import scripts_line, write_launch
    from simulator.study.planning.make import answer
    from simulator.study.planning.output import write_plan
    from simulator.study.planning.question import load_plan
    from simulator.study.run.place import LAUNCH, Place

    question = load_plan(file, override or [])
    folder = out or Path("reports") / question.question.name
    pages = format == "text" if report is None else report
    place = Place(folder, "plan", question.question.name, question.file, force)
    keep, progress = place.keep, Progress(quiet=format == "json")
    with resumable(lambda: f"{progress.done:.0f} trials are kept in {keep}"), progress.stage("planning"):
        result = plan_with_launch(answer(question, keep, workers, progress.at, progress.doing, ray, prediction), question)
        progress.doing("writing the page")
        place.mark()
        write_plan(result, folder)
        write_launch(result.launch, folder / LAUNCH, replace=True)
        if pages:
            from simulator.report.plan.page import write_plan_report

            write_plan_report(result, folder)
        else:
            remove(folder)
    written = f"written to {folder / 'report.html' if pages else folder}{place.replaced}" + scripts_line(result.launch, folder)
    show(format, result.to_json(), *_shown(format, result), written)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result folder or its result.json.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The result to compare with A.")],
    format: Format = "text",
) -> None:
    """Compare two results side by side.

    Shows which differences of B from A exceed the noise, and which scenario keys differ."""
    from simulator.report.run.compare import compare_page
    from simulator.report.run.differences import compare as compared
    from simulator.study.run.output import read_result

    results = read_result(first), read_result(second)
    if first.resolve() == second.resolve():
        raise DsimError(f"got {first} twice", where="dsim compare", remedy="name two results")
    comparison = compared(*results)
    show(format, comparison.to_json(), compare_page(comparison))


def schema(
    what: Annotated[Literal["scenario", "plan"], typer.Argument(help="Kind of file.")] = "scenario",
    format: Annotated[Literal["json", "markdown"], typer.Option(help="Print JSON Schema or a Markdown table.")] = "json",
) -> None:
    """Print every key of a scenario or plan file."""
    from simulator.study.reference import json_schema, reference

    show(format, json_schema(what), reference(what) if format == "markdown" else "")


def _simulate(
    scenario: Scenario,
    out: Path | None,
    workers: int | None,
    format: str,
    pages: bool,
    force: bool,
    details: Sequence[str] = (),
    ray: str | None = None,
    prediction: bool = True,
) -> tuple[RunResult, Place]:
    """Runs all points with progress and writes the output folder, its pages where they are wanted; the result and the place."""
    from simulator.progress import Progress, resumable
    from simulator.report.render.files import remove
    from simulator.study.deploy.launch import with_launch
    from simulator.study.deploy.scripts import write_launch
    from simulator.study.run.build import build_result
    from simulator.study.run.limits import check_limits
    from simulator.study.run.output import write_output
    from simulator.study.run.place import LAUNCH, Place
    from simulator.study.run.sweep import swept
    from simulator.study.validation.compare import check_checks, compared

    check_checks(scenario)
    folder = out or Path("reports") / scenario.name
    place = Place(folder, "scenario", scenario.name, scenario.file, force)
    _warn(check_limits(scenario))
    keep, progress = place.keep, Progress(quiet=format == "json")
    with resumable(lambda: f"{progress.done:.0f} of {progress.total:.0f} points are kept in {keep}"), progress.stage("simulating"):
        rows, moved = swept(scenario, keep, progress.at, workers, details, ray, moved=prediction)
        progress.doing("writing the report")
        result = with_launch(build_result(scenario, rows, *compared(scenario, rows), moved, prediction), scenario)
        place.mark()
        write_output(result, rows, folder)
        write_launch(result.launch, folder / LAUNCH, replace=True)
        if pages:
            from simulator.report.run.page import write_report

            write_report(result, folder)
        else:
            remove(folder)
    return result, place


def _warn(hours: float) -> None:
    """A note where a run takes long."""
    from simulator.study.run.effort import LONG_HOURS, spoken_hours

    if hours >= LONG_HOURS:
        echo(f"note: about {spoken_hours(hours)} of computing on one core, or more; an interrupted run can be resumed", err=True)


def _shown(format: str, result: RunResult | PlanResult) -> Sequence[Page]:
    """The answer's page for a terminal; none for programs, which need not wait for what draws it."""
    from simulator.study.run.result import RunResult

    if format == "json":
        return ()
    if isinstance(result, RunResult):
        from simulator.report.run.page import run_page

        return (run_page(result),)
    from simulator.report.plan.page import plan_page

    return (plan_page(result),)
