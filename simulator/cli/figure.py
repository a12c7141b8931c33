"""`dsim figure`: one picture of a result, for a paper or a deck."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.options import Format, show
from simulator.errors import DsimError
from simulator.report.figure import Style

if TYPE_CHECKING:
    from simulator.report.figure import Shown


def figure(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A result folder or its result.json, or the folder of a profile.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which figure. Without a name, list them.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size in inches, for example 3.3x2.4.")] = None,
    style: Annotated[Style | None, typer.Option(help="Type for a page, a paper or a slide.", show_default="by the size")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=LABEL", help="Rename a policy. Repeatable.")] = None,
    colour: Annotated[list[str] | None, typer.Option("--colour", metavar="NAME=COLOUR", help="Colour of a policy. Repeatable.")] = None,
    title: Annotated[bool, typer.Option("--title", help="Write a title above the figure.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write: .pdf, .svg or .png.", show_default="NAME.pdf")] = None,
    format: Format = "text",
) -> None:
    """Draw one figure of a result, for a paper or slides.

    Without a name, lists the figures that the result has. The default size is one column of a paper, 3.3 × 2.4 inches."""
    from simulator.report.figure import check_path, named, save

    opened = _open(result)
    if name is None:
        options = {"--size": size, "--style": style, "--label": label, "--colour": colour, "--title": title, "--out": out}
        if drawn_with := next((option for option, value in options.items() if value), None):
            remedy = f"add one of {', '.join(picture.stem for picture in opened.pictures)}"
            raise DsimError(f"{drawn_with} needs the name of a figure", where="dsim figure", key="NAME", remedy=remedy)
        listed = [{"name": picture.stem, "shows": picture.alt} for picture in opened.pictures]
        lines = [f"{picture.stem}: {picture.alt}" for picture in opened.pictures]
        show(format, {"figures": listed, "names": opened.names}, "\n".join(lines))
        return
    path = out or Path(f"{named(opened.pictures, name).stem}.pdf")
    check_path(path)
    inches = _size(size) if size or style else (3.3, 2.4)
    drawn = opened.figure(name, size=inches, style=style, colours=_pairs(colour, "--colour"), title=title, labels=_pairs(label, "--label"))
    save(drawn, path)
    width, height = (float(side) for side in drawn.get_size_inches())
    show(format, {"figure": name, "file": str(path), "inches": [width, height]}, f"written to {path}")


def _open(path: Path) -> Shown:
    """A run's or a plan's result, or a profile. Raises DsimError where there is none."""
    from simulator.report.notebook import Evaluation, Planned, profile
    from simulator.study.planning.output import read_either
    from simulator.study.run.result import RunResult

    if (path / "profile.yaml").is_file():
        return profile(path)
    result = read_either(path, "name the --out folder of a dsim run or plan, or a profile")
    return Evaluation(result, []) if isinstance(result, RunResult) else Planned(result)


def _size(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        width, height = (float(side) for side in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise DsimError(f"expected WIDTHxHEIGHT in inches, got {text!r}", key="--size", remedy="for example 3.3x2.4") from None
    return width, height


def _pairs(options: list[str] | None, key: str) -> dict[str, str]:
    pairs = {}
    for option in options or []:
        name, _, value = option.rpartition("=")
        if not name or not value:
            kind, example = ("LABEL", "baseline") if key == "--label" else ("COLOUR", "black")
            raise DsimError(f"expected NAME={kind}, got {option!r}", key=key, remedy=f"for example {key} MTP-1={example}")
        pairs[name] = value
    return pairs
