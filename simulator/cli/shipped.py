"""`dsim profile list`, `dsim scenario list` and `dsim init`: what comes with dsim, and a file to begin with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.cli.options import Format, group, show
from simulator.echo import echo

app = group("List the scenarios and plans that come with dsim.")
app.callback()(lambda: None)  # a group of one command is a group all the same
TEMPLATES = Path(__file__).parent / "templates"


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        echo(f"dsim {version('dsim')}")
        raise typer.Exit


def root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
    max_file_mb: Annotated[
        float | None, typer.Option("--max-file-mb", metavar="MB", help="Read files up to this size.", show_default="by format, or DSIM_MAX_FILE_MB")
    ] = None,
) -> None:
    """Options of `dsim` itself."""
    from simulator.reading import limits

    if max_file_mb is not None:
        os.environ[limits.VARIABLE] = f"{max_file_mb!r}"  # where worker processes find it too
        limits.size_mb(max_file_mb)


def list_profiles(format: Format = "text") -> None:
    """List the profiles that come with dsim.

    A scenario names one as profile: NAME."""
    from simulator.measurements.profile import load_profile
    from simulator.shipped import profiles

    rows = []
    for name, folder in profiles().items():
        profile = load_profile(folder)
        drafters = ", ".join(profile.drafters)
        facts = {"hardware": profile.hardware, "engine": profile.engine, "target": profile.target, "drafters": list(profile.drafters)}
        origin = profile.costs.verify.provenance
        said = f"{profile.target} with {drafters or 'no drafter'} on {profile.hardware}" + (" (estimated)" if origin == "estimated" else "")
        rows.append({"name": name, "description": said, **facts, "provenance": origin, "path": str(folder)})
    show(format, rows, _lines(rows))


@app.command("list")
def list_scenarios(format: Format = "text") -> None:
    """List the scenarios and plans that come with dsim.

    `dsim run NAME` runs a scenario, `dsim plan NAME` a plan."""
    from simulator.reading.yaml_files import read_yaml
    from simulator.shipped import scenarios

    rows = []
    for name, file in scenarios().items():
        content = read_yaml(file)
        kind = "plan" if "profiles" in content else "scenario"
        description = content["question"] if kind == "scenario" else f"(plan) {content['question']}"
        rows.append({"name": name, "description": description, "kind": kind, "path": str(file)})
    show(format, rows, _lines(rows))


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder for the file; it is created.", show_default="this one")] = Path(),
    plan: Annotated[bool, typer.Option("--plan", help="Write a plan, which finds the cheapest fleet, instead of a scenario.")] = False,
    format: Format = "text",
) -> None:
    """Write a commented scenario to begin with.

    It runs as it is, on a profile that comes with dsim. In FOLDER its name is FOLDER-scenario or FOLDER-plan. Refuses to overwrite a file."""
    from simulator.errors import DsimError
    from simulator.files import write_whole
    from simulator.names import check_file_name
    from simulator.reading.opening import read_text

    kind, command = ("plan", "plan") if plan else ("scenario", "run")
    file = folder / f"{kind}.yaml"
    if os.path.lexists(file):
        raise DsimError("already exists", where=file, remedy="name another folder, or move the file away")
    text = read_text(TEMPLATES / file.name)
    with suppress(ValueError):  # two folders whose results would replace each other
        text = text.replace(f"my-{kind}", check_file_name(f"{folder.name}-{kind}"))
    write_whole(file, text)
    show(format, {"path": str(file)}, f"written: {file}\nNow edit it, or run it as it is:\n\n    dsim {command} {file}")


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    width = max(len(row["name"]) for row in rows)
    return "\n".join(f"{row['name']:{width}}  {row['description']}" for row in rows)
