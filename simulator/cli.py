"""The command. Heavy imports happen inside the commands, so that `dsim --help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from simulator.errors import DsimError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which speculative-decoding policy, how fast for each user, how much per GPU: simulated from measured costs and recorded acceptance.",
)
traces_app = typer.Typer(no_args_is_help=True, help="Public request traces: list, download, or take in a file that you have.")
draft_app = typer.Typer(no_args_is_help=True, help="Draft checkpoints on their target (needs the `profile` extra).")
profile_app = typer.Typer(no_args_is_help=True, help="Profiles: what is known of a (hardware, model, drafters).")
app.add_typer(traces_app, name="traces")
app.add_typer(profile_app, name="profile")
app.add_typer(draft_app, name="draft")
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
    from simulator.study.scenario import load_scenario

    asked = load_scenario(scenario, override or [])
    details = [name for name, wanted in (("steps", steps), ("requests", requests)) if wanted]
    result, folder = _simulate(asked, out, workers, details, format, ray)
    if format == "json":
        _print_json(result)
        return
    from simulator.report.text import summary

    typer.echo(summary(result, folder))


@app.command()
def validate(
    scenario: ScenarioFile,
    out: Annotated[Path | None, typer.Option(help="Folder for the report, tables and validation.json [default: reports/NAME].")] = None,
    override: Set = None,
    workers: Workers = None,
    format: Format = "text",
) -> None:
    """Hold a scenario's result against the published tables that it names. Exit code 1 where a limit is not kept."""
    from simulator.errors import ScenarioError
    from simulator.report.text import validation_table
    from simulator.study.scenario import load_scenario

    asked = load_scenario(scenario, override or [])
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


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result folder, or its result.json.")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    format: Format = "text",
) -> None:
    """Two results side by side, second against first: which differences are more than luck, and what differs in the scenarios."""
    from simulator.report.text import compare as compared
    from simulator.study.output import read_result

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
    from simulator.study.telemetry import Assumptions, profile_from_telemetry

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


@profile_app.command("check")
def profile_check(folder: Path, format: Format = "text") -> None:
    """Load a profile and everything it names; say what is in it and where each table came from."""
    from simulator.measurements.profile import load_profile
    from simulator.report.profile_text import profile_text

    profile = load_profile(folder)
    data, text = profile_text(profile)
    _print_json(data) if format == "json" else typer.echo(text)


@traces_app.command("list")
def traces_list(format: Format = "text") -> None:
    """The public traces that dsim knows: source, licence, citation, checksum, and which are here already."""
    from simulator.traffic.public import cached_path, catalogue

    known = [
        {f: getattr(t, f) for f in ("name", "title", "url", "licence", "citation", "sha256", "size_bytes", "format")}
        | {"here": str(cached_path(t.name)) if cached_path(t.name).is_file() else None}
        for t in catalogue()
    ]
    if format == "json":
        _print_json(known)
        return
    for trace in known:
        typer.echo(f"{trace['name']}: {trace['title']} ({trace['size_bytes'] / 1e6:.1f} MB, {trace['format']})")
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
    """Take a copy of a public trace that you have into the cache, checksum verified."""
    from simulator.traffic.public import adopt

    path = adopt(name, file)
    _print_json({"name": name, "path": str(path)}) if format == "json" else typer.echo(str(path))


@draft_app.command("check", context_settings=PASS_ON)
def draft_check(context: typer.Context) -> None:
    """Recognise a drafter, say what it is, and check that it sits right on its target (--target, --draft, --expect; see --help)."""
    _real_runner("draft check", "draft_check", context.args)


@app.command("serve-bench", context_settings=PASS_ON)
def serve_bench(context: typer.Context) -> None:
    """Serve a load with the real engine; writes the request and step tables of a simulated run (needs the `profile` extra; see --help)."""
    _real_runner("serve-bench", "serve_bench", context.args)


def _real_runner(name: str, function: str, arguments: list[str]) -> None:
    """Hand a command over to the measuring half, which alone imports torch."""
    from importlib.util import find_spec

    missing = [package for package in ("torch", "transformers", "safetensors") if find_spec(package) is None]
    if missing:
        raise DsimError(f"measuring needs {missing[0]}, which is not installed", where=f"dsim {name}", remedy="pip install 'dsim[profile]'")
    from real_runner import commands

    handed = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    handed.command()(getattr(commands, function))
    handed(arguments, prog_name=f"dsim {name}")


def _simulate(
    asked: Any, out: Path | None, workers: int | None, details: list[str], format: str, ray: str | None = None
) -> tuple[dict[str, Any], Path]:
    """Run all points with progress and write the output folder."""
    from simulator.report.page import write_report
    from simulator.study.cluster import check_ray
    from simulator.study.output import write_output
    from simulator.study.result import build_result
    from simulator.study.sweep import check_workers, sweep
    from simulator.study.validation import check_checks

    check_checks(asked)
    folder = out or Path("reports") / asked.name
    keep = folder / "points"
    with _Progress(quiet=format == "json") as progress:
        try:
            rows = sweep(asked, keep, progress, check_workers(workers), details, check_ray(ray))
            progress.say("writing the report")
            result = build_result(asked, rows)
            write_output(result, rows, folder)
            write_report(result, folder)
        except KeyboardInterrupt:
            progress.close()
            typer.echo(f"interrupted: {progress.done} of {progress.all} points are kept in {keep}; run the same command to go on", err=True)
            raise typer.Exit(130) from None
    return result, folder


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
