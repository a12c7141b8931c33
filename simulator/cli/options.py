"""Options that several commands share, and how their results are printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from simulator.echo import echo_drawn, echo_json
from simulator.errors import DsimError, visible

if TYPE_CHECKING:
    from simulator.report.page import Page


def allow(hours: float | None) -> None:
    """Lets this process, and those that it starts, begin so much work. Raises DsimError where it is no number of hours."""
    from simulator.study.run.effort import MAX_HOURS

    if hours is not None:
        if not hours > 0:
            raise DsimError(f"expected a number of hours above 0, got {hours:g}", key="--max-hours", remedy="for example 100")
        os.environ[MAX_HOURS] = str(hours)


Format = Annotated[Literal["text", "json"], typer.Option("--format", help="Print text for people or JSON for programs.")]
Report = Annotated[
    bool | None, typer.Option("--report/--no-report", help="Write the report's pages and pictures.", show_default="with --format text")
]
Override = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the file. Repeatable.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes.", show_default="all cores")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="[ADDRESS]", help="Use a Ray cluster: host:port, auto (the one on this machine) or local (start one)."),
]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", callback=allow, help="Most hours of computing that a run may take, by estimate.", show_default="1000"),
]
Prediction = Annotated[
    bool,
    typer.Option(
        "--prediction-interval/--no-prediction-interval",
        envvar="DSIM_PREDICTION_INTERVAL",
        help="Repeat some runs with each number moved that the profile is not sure of, for an interval of all that is predicted.",
    ),
]
NewProfile = Annotated[Path, typer.Option("--out", help="Folder for the new profile.")]
Name = Annotated[str | None, typer.Option(help="Profile name.", show_default="name of the folder")]
Hardware = Annotated[str, typer.Option(help="Hardware of the server.")]
Engine = Annotated[str, typer.Option(help="Serving engine.")]
Target = Annotated[str, typer.Option(help="Target model.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing profile.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace files in --out that this scenario or plan has not written.")]


def group(help: str, **more: Any) -> typer.Typer:
    """A group of commands. Help is plain text: rich would read `[…]` in it as markup and cut long option names at 80 columns."""
    settings = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None} | more
    return typer.Typer(help=help, **settings)


def show(format: str, data: Any, *parts: Page | str, ok: bool | None = True) -> None:
    """Prints a result on standard output: `data` as JSON, or for people `parts` with empty lines between. Exits with 1 if it is not ok."""
    from simulator.report.render.terminal import terminal

    if format == "json":
        echo_json(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        echo_drawn("\n\n".join(visible(part) if isinstance(part, str) else terminal(part) for part in parts))
    if ok is False:
        raise typer.Exit(1)


def show_profile(format: str, result: dict[str, Any]) -> None:
    """Prints what made a profile: an import, a probe."""
    show(format, {key: value for key, value in result.items() if key not in ("text", "costs")}, result["text"])
