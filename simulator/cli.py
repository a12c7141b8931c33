"""The command. Heavy imports happen inside the commands, so that `dsim --help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from simulator.cli_exchange import export_app, import_app, probe
from simulator.errors import DsimError


class _MeasuresByDefault(typer.core.TyperGroup):
    """`dsim profile --target …` measures: the same as `dsim profile measure --target …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = ["measure", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which speculative-decoding policy, how fast for each user, how much per GPU: simulated from measured costs and recorded acceptance.",
)
traces_app = typer.Typer(no_args_is_help=True, help="Public request traces: list, download, or take in a file that you have.")
draft_app = typer.Typer(no_args_is_help=True, help="Draft checkpoints on their target (needs the `profile` extra).")
profile_app = typer.Typer(
    cls=_MeasuresByDefault,
    no_args_is_help=True,
    help="Profiles: what is known of a (hardware, model, drafters). `dsim profile --target … --draft … --out …` measures one.",
)
app.add_typer(traces_app, name="traces")
app.add_typer(profile_app, name="profile")
app.add_typer(draft_app, name="draft")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")
PASS_ON: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text for people, json for machines.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Override any key of the scenario; may be repeated.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes to simulate with (all cores by default).")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="[ADDRESS]", help="Run on a Ray cluster: host:port, auto (that of this machine), local (a new one)."),
]
ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO.yaml")]


@app.command()
def run(
    scenario: ScenarioFile,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and tables [default: reports/NAME].")] = None,
    override: Set = None,
    workers: Workers = None,
    ray: Ray = None,
    steps: Annotated[bool, typer.Option("--steps", help="Also write every step of every point (points/*.steps.parquet).")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="Also write every request of every point (points/*.requests.parquet).")] = False,
    format: Format = "text",
) -> None:
    """Simulate a scenario: policies × load × replications, to a frontier and a report. Interrupt and run again to go on."""
    from simulator.study.run.scenario import load_scenario

    asked = load_scenario(scenario, override or [])
    details = [name for name, wanted in (("steps", steps), ("requests", requests)) if wanted]
    result, folder = _simulate(asked, out, workers, details, format, ray)
    if format == "json":
        _print_json(result)
        return
    from simulator.report.run.text import summary

    typer.echo(summary(result, folder))


@app.command()
def validate(
    scenario: Annotated[Path | None, typer.Argument(metavar="[SCENARIO.yaml]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results [default: reports/NAME; docs/validation with --published].")] = None,
    override: Set = None,
    workers: Workers = None,
    engine: Annotated[
        Path | None, typer.Option("--engine", help="Folder with target/ and the profile's drafters: serve them really, and compare (see docs).")
    ] = None,
    serving: Annotated[
        list[str] | None,
        typer.Option(
            "--serving",
            metavar="KEY=VALUE",
            help="turns, least, max_tokens, temperature, seed, rate, arrivals, open_requests, device, dtype, threads or prompts.",
        ),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Run every comparison with what others measured.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="With --published: this comparison alone; may be repeated.")] = None,
    measured: Annotated[Path, typer.Option(help="With --published: where recorded runs lie.")] = Path("../shared/measured"),
    format: Format = "text",
) -> None:
    """Hold a scenario's result against the published tables that it names, or against a real engine. Exit code 1 where a limit is not kept."""
    from simulator.errors import ScenarioError
    from simulator.report.run.text import validation_table
    from simulator.study.run.scenario import load_scenario

    if published == (scenario is not None):
        raise DsimError("give a scenario or --published", where="dsim validate", remedy="for example dsim validate scenarios/v4-flash-pareto.yaml")
    if published:
        _validate_published(out or Path("docs/validation"), measured, only or [], workers, format)
        return
    assert scenario is not None
    asked = load_scenario(scenario, override or [])
    if engine is not None:
        _against_engine(asked, engine, serving or [], out or Path("reports") / f"{asked.name}-engine", format)
        return
    if not asked.validation:
        raise ScenarioError("names nothing to validate against", where=scenario, key="validation", remedy="add checks, see docs/scenarios.md")
    result, folder = _simulate(asked, out, workers, [], format)
    found = result["validation"]
    if format == "json":
        _print_json(found)
    else:
        typer.echo(validation_table(result))
        typer.echo(f"written to {folder / 'validation.json'}")
    if found["ok"] is False:
        raise typer.Exit(1)


def _validate_published(out: Path, measured: Path, only: list[str], workers: int | None, format: str) -> None:
    """All comparisons with what others measured, a result file each."""
    from simulator.report.run.text import validation_table
    from simulator.study.run.sweep import check_workers
    from simulator.study.validation.published import validate_published

    results = validate_published(Path("scenarios"), measured, out, only, check_workers(workers), lambda line: typer.echo(line, err=True))
    if format == "json":
        _print_json(results)
    else:
        for result in results:
            typer.echo(f"{result['name']}: {result['title']}\n{validation_table({'validation': result})}\n")
        typer.echo(f"written to {out}; make validation puts them into docs/validation.md")
    if any(result["ok"] is False for result in results):
        raise typer.Exit(1)


@app.command()
def plan(
    question: Annotated[Path, typer.Argument(metavar="PLAN.yaml")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page and tables [default: reports/NAME].")] = None,
    override: Set = None,
    workers: Workers = None,
    format: Format = "text",
) -> None:
    """Which policy, how many replicas and GPUs keep a promise, and what that costs. Interrupt and run again to go on."""
    from simulator.study.planning.question import load_plan
    from simulator.study.run.sweep import check_workers

    asked, processes = load_plan(question, override or []), check_workers(workers)
    folder = out or Path("reports") / asked.asked.name
    result = _planned(asked, folder, processes, format)
    if format == "json":
        _print_json(result)
        return
    from simulator.report.plan.page import plan_page
    from simulator.report.render.terminal import terminal

    typer.echo(f"{terminal(plan_page(result))}\n\nwritten to {folder / 'report.html'}")


@app.command()
def schema(
    what: Annotated[Literal["scenario", "plan"], typer.Argument(help="Which kind of file.")] = "scenario",
    format: Annotated[Literal["json", "markdown"], typer.Option("--format", help="json for editors, markdown for people.")] = "json",
) -> None:
    """Every key of a scenario or a plan: JSON Schema for editors, or the reference as Markdown."""
    from simulator.study.reference import json_schema, reference

    _print_json(json_schema(what)) if format == "json" else typer.echo(reference(what))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result folder, or its result.json.")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    format: Format = "text",
) -> None:
    """Two results side by side, second against first: which differences are more than luck, and what differs in the scenarios."""
    from simulator.report.run.text import compare as compared
    from simulator.study.run.output import read_result

    data, text = compared(read_result(first), read_result(second))
    _print_json(data) if format == "json" else typer.echo(text)


@app.command()
def fit(
    telemetry: Annotated[Path, typer.Argument(metavar="TELEMETRY.csv", help="Two of concurrency, tps_per_user, throughput_tok_s_gpu a row.")],
    out: Annotated[Path, typer.Option(help="Folder of the new profile.")],
    accepted_length: Annotated[float, typer.Option(help="Assumed tokens committed per round, bonus included (MTP-1: 1.8 to 1.9; none: 1).")],
    budget: Annotated[float, typer.Option(help="Tokens per request sent through the target in a step (MTP-1: 2; none: 1).")],
    name: Annotated[str | None, typer.Option(help="Name of the profile [default: the folder's].")] = None,
    hardware: Annotated[str, typer.Option(help="What it ran on.")] = "not stated",
    engine: Annotated[str, typer.Option(help="What served.")] = "not stated",
    target: Annotated[str, typer.Option(help="Which model.")] = "not stated",
    gpus_per_replica: Annotated[float, typer.Option(help="GPUs that the concurrency column is counted on.")] = 1.0,
    drafter: Annotated[str, typer.Option(help="Name of the drafter that runs today.")] = "mtp",
    draft_s_per_request: Annotated[float, typer.Option(help="Assumed drafting seconds per request and round, taken off the step time.")] = 0.0,
    cliff: Annotated[list[int] | None, typer.Option(help="Tokens per step above which a jump is looked for; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
    format: Format = "text",
) -> None:
    """Telemetry of the policy that runs today to a profile, provenance «fitted», with what was assumed written in it."""
    from simulator.study.profiles.telemetry import Assumptions, profile_from_telemetry

    assumed = Assumptions(
        accepted_length=accepted_length,
        budget=budget,
        drafter=drafter,
        draft_s_per_request=draft_s_per_request,
        cliffs=cliff or [],
        name=name or out.resolve().name,
        hardware=hardware,
        engine=engine,
        target=target,
        gpus_per_replica=gpus_per_replica,
    )
    told = profile_from_telemetry(telemetry, out, assumed, force)
    _print_json(told) if format == "json" else typer.echo(told["text"])


@profile_app.command("measure", context_settings=PASS_ON)
def profile_measure(context: typer.Context) -> None:
    """Measure a target and its drafters on this machine's CPU or GPU (--gpu, --target, --draft, --out; see --help)."""
    _real_runner("profile", "profile_measure", context.args)


@profile_app.command("check")
def profile_check(folder: Path, format: Format = "text") -> None:
    """Load a profile and everything it names; say what is in it and where each table came from."""
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.numbers import profile_data
    from simulator.report.profile.page import profile_page
    from simulator.report.render.terminal import terminal

    profile = load_profile(folder)
    _print_json(profile_data(profile)) if format == "json" else typer.echo(terminal(profile_page(profile)))


@profile_app.command("show")
def profile_show(
    folder: Path,
    out: Annotated[Path | None, typer.Option(help="Folder for profile.html and overview.png [default: reports/profile-NAME].")] = None,
    format: Format = "text",
) -> None:
    """What a profile holds as a page and a picture: step costs, acceptance, calibration, what is suspicious."""
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.numbers import drafter_data, drafter_numbers, profile_data
    from simulator.report.profile.page import default_folder, profile_page, write_profile_page
    from simulator.report.render.terminal import terminal

    profile = load_profile(folder)
    drafters = drafter_numbers(profile)
    page, picture = write_profile_page(profile, drafters, out or default_folder(profile))
    if format == "json":
        _print_json(profile_data(profile) | {"acceptance": {d.name: drafter_data(d) for d in drafters}, "page": str(page), "picture": str(picture)})
        return
    typer.echo(f"{terminal(profile_page(profile, drafters))}\n\nwritten to {page} and {picture}")


@profile_app.command("diff")
def profile_diff(
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    format: Format = "text",
) -> None:
    """Do two profiles agree, B against A: what they were measured on, cost cells, accepted lengths, temperatures."""
    from simulator.measurements.agreement import compare_profiles
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.diff import diff_page
    from simulator.report.render.terminal import terminal

    data = compare_profiles(load_profile(first), load_profile(second))
    _print_json(data) if format == "json" else typer.echo(terminal(diff_page(data)))


@traces_app.command("list")
def traces_list(format: Format = "text") -> None:
    """The public traces that dsim knows: source, licence, citation, checksum, and which are here already."""
    from simulator.traffic.public import cached_path, catalogue, is_here

    known = [
        {f: getattr(t, f) for f in ("name", "title", "url", "licence", "citation", "sha256", "size_bytes", "format")}
        | {"files": len(t.files), "here": str(cached_path(t.name)) if is_here(t.name) else None}
        for t in catalogue()
    ]
    if format == "json":
        _print_json(known)
        return
    for trace in known:
        many = f" in {trace['files']} files" if trace["files"] > 1 else ""
        typer.echo(f"{trace['name']}: {trace['title']} ({trace['size_bytes'] / 1e6:.1f} MB{many}, {trace['format']})")
        for key in ("url", "licence", "citation", "sha256"):
            typer.echo(f"    {key:9} {trace[key]}")
        typer.echo(f"    here      {trace['here'] or 'no: dsim traces get ' + trace['name']}")


@traces_app.command("get")
def traces_get(name: str, format: Format = "text") -> None:
    """Download a public trace into the cache, checksum verified."""
    from simulator.traffic.public import fetch

    path = fetch(name)
    _print_json({"name": name, "path": str(path)}) if format == "json" else typer.echo(str(path))


@traces_app.command("add")
def traces_add(name: str, file: Path, format: Format = "text") -> None:
    """Take a copy of a public trace that you have (a file, or a folder of many) into the cache, checksums verified."""
    from simulator.traffic.public import adopt

    path = adopt(name, file)
    _print_json({"name": name, "path": str(path)}) if format == "json" else typer.echo(str(path))


@draft_app.command("check", context_settings=PASS_ON)
def draft_check(context: typer.Context) -> None:
    """Recognise a drafter, say what it is, and check that it sits right on its target (--target, --draft, --expect; see --help)."""
    _real_runner("draft check", "draft_check", context.args)


@app.command("train-draft", context_settings=PASS_ON)
def train_draft(context: typer.Context) -> None:
    """Train small drafters for a target: prompts, its texts, training, evaluation (--target, --prompts, --out, --family; see --help)."""
    _real_runner("train-draft", "train_draft", context.args)


@app.command("serve-bench", context_settings=PASS_ON)
def serve_bench(context: typer.Context) -> None:
    """Serve a load with the real engine; writes the request and step tables of a simulated run (needs the `profile` extra; see --help)."""
    _real_runner("serve-bench", "serve_bench", context.args)


app.command()(probe)


def _against_engine(asked: Any, models: Path, serving: list[str], out: Path, format: str) -> None:
    """Serve the scenario's policies and loads with the real engine, simulate the same requests, compare."""
    from simulator.files import write_whole
    from simulator.report.engine_check import engine_picture, engine_table
    from simulator.study.validation.engine_check import compare, judged, planned, read_run

    runs = planned(asked)
    _needs_torch("validate --engine")
    from real_runner import commands

    folders = commands.serve_runs(models, asked.known, runs, serving, out / "runs", quiet=format == "json")
    import json
    import shlex

    found = compare(asked, [read_run(folder, asked.policies) for folder in folders])
    found = judged(asked, found, shlex.join(["dsim", *sys.argv[1:]]), json.loads((folders[0] / "run.json").read_text()))
    write_whole(out / "engine_check.json", json.dumps(found, indent=1) + "\n")
    engine_picture(found, out / "engine_check.png", f"{asked.known.name}: simulator against engine")
    if format == "json":
        _print_json(found)
    else:
        typer.echo(engine_table(found))
        typer.echo(f"written to {out}: engine_check.json, engine_check.png, runs/")
    if not found["ok"]:
        raise typer.Exit(1)


def _needs_torch(name: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in ("torch", "transformers", "safetensors") if find_spec(package) is None]
    if missing:
        raise DsimError(f"measuring needs {missing[0]}, which is not installed", where=f"dsim {name}", remedy="pip install 'dsim[profile]'")


def _real_runner(name: str, function: str, arguments: list[str]) -> None:
    """Hand a command over to the measuring half, which alone imports torch."""
    _needs_torch(name)
    from real_runner import commands

    handed = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    handed.command()(getattr(commands, function))
    handed(arguments, prog_name=f"dsim {name}")


def _simulate(
    asked: Any, out: Path | None, workers: int | None, details: list[str], format: str, ray: str | None = None
) -> tuple[dict[str, Any], Path]:
    """Run all points with progress and write the output folder."""
    from simulator.report.run.page import write_report
    from simulator.study.run.cluster import check_ray
    from simulator.study.run.output import write_output
    from simulator.study.run.result import build_result
    from simulator.study.run.sweep import check_workers, sweep
    from simulator.study.validation.compare import check_checks, compared

    check_checks(asked)
    folder = out or Path("reports") / asked.name
    keep = folder / "points"
    with _Progress(quiet=format == "json") as progress:
        try:
            rows = sweep(asked, keep, progress, check_workers(workers), details, check_ray(ray))
            progress.say("writing the report")
            result = build_result(asked, rows, *compared(asked, rows))
            write_output(result, rows, folder)
            write_report(result, folder)
        except KeyboardInterrupt:
            progress.close()
            typer.echo(f"interrupted: {progress.done} of {progress.all} points are kept in {keep}; run the same command to go on", err=True)
            raise typer.Exit(130) from None
    return result, folder


def _planned(asked: Any, folder: Path, workers: int | None, format: str) -> dict[str, Any]:
    """Answer a plan with progress and write the output folder."""
    from simulator.report.plan.page import write_plan_report
    from simulator.study.planning.make import answer
    from simulator.study.run.output import write_plan

    keep = folder / "trials"
    with _Progress(quiet=format == "json") as progress:
        try:
            result = answer(asked, keep, workers, progress, progress.say)
            progress.say("writing the page")
            write_plan(result, folder)
            write_plan_report(result, folder)
        except KeyboardInterrupt:
            progress.close()
            typer.echo(f"interrupted: {progress.done} trials are kept in {keep}; run the same command to go on", err=True)
            raise typer.Exit(130) from None
    return result


class _Progress:
    """A bar on standard error, where that is a terminal; nothing elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.done = self.all = 0
        self._bar: Any = None
        self._quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        if not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("simulating", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, done: int, every: int) -> None:
        self.done, self.all = done, every
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=every)

    def say(self, what: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _print_json(data: Any) -> None:
    import json

    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, sort_keys=False))


def main() -> None:
    """The `dsim` command: user errors are one line and exit code 2."""
    try:
        app(_addressed(sys.argv[1:]))
    except DsimError as error:
        typer.echo(f"error: {error.line()}", err=True)
        raise SystemExit(2) from None


def _addressed(arguments: list[str]) -> list[str]:
    """The command line with the address that a bare --ray stands for."""
    at = arguments.index("--ray") + 1 if "--ray" in arguments else 0
    bare = at and (at == len(arguments) or arguments[at].startswith("-") or arguments[at].endswith((".yaml", ".yml")))
    return [*arguments[:at], "auto", *arguments[at:]] if bare else arguments
