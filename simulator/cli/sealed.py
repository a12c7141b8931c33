"""`dsim predict` and `dsim score`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.options import Format, MaxHours, Override, Ray, Workers, show


def predict(
    scenarios: Annotated[list[str], typer.Argument(metavar="[NAME=]SCENARIO.yaml...", help="Scenarios of a benchmark client, a condition each.")],
    seal: Annotated[Path, typer.Option("--seal", metavar="FILE", help="File to write. One that exists is never overwritten.")],
    override: Override = None,
    workers: Workers = None,
    ray: Ray = None,
    max_hours: MaxHours = None,
    format: Format = "text",
) -> None:
    """Seal a prediction of a benchmark.

    Publish the digest before you measure. Run the same command again to resume after an interruption."""
    from simulator.progress import Progress, resumable
    from simulator.report.board.seal import seal_page
    from simulator.study.sealed.make import check_absent, load_conditions, sealed, write_seal

    check_absent(seal)
    conditions = load_conditions(scenarios, override or [])
    keep, progress = seal.with_suffix(".points"), Progress(quiet=format == "json")

    def at(name: str) -> Callable[[int, int], None]:
        progress.doing(f"predicting {name}")
        return progress.at

    with resumable(lambda: f"{progress.done:.0f} of {progress.total:.0f} points are kept in {keep}"), progress.stage("predicting"):
        made = sealed(conditions, keep, at, workers, ray)
        write_seal(made, seal)
    written = f"digest {made.digest}\nsealed {made.sealed_at} in {seal}: publish the digest before you measure"
    show(format, {"seal": str(seal), "digest": made.digest, "sealed_at": made.sealed_at, "cells": sum(len(c.cells) for c in made.conditions)},
         seal_page(made), written)  # fmt: skip


def score(
    seal: Annotated[Path, typer.Argument(metavar="SEAL", help="File that dsim predict wrote.")],
    measured: Annotated[
        list[str],
        typer.Argument(metavar="[CONDITION/]POLICY=FILE...", help="Result files of the client, patterns, or a folder of CONDITION/POLICY/*.json(l)."),
    ],
    out: Annotated[Path | None, typer.Option(help="File to write, for the board: docs/board/NAME.score.json.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the line on the board.", show_default="that of --out, or of the seal")] = None,
    engine: Annotated[str, typer.Option(help="Engine and version that was measured.", show_default="the profile's")] = "",
    hardware: Annotated[str, typer.Option(help="Hardware that was measured.", show_default="the profile's")] = "",
    model: Annotated[str, typer.Option(help="Model that was measured.", show_default="the profile's")] = "",
    others: Annotated[
        Path | None, typer.Option(help="Predictions of other tools: CSV or JSON with tool, how, condition, policy, load, metric, value.")
    ] = None,
    probes: Annotated[
        list[str] | None, typer.Option(help="Results that the profile was made from, with pace_s, the machine's pace. Patterns, repeatable.")
    ] = None,
    format: Format = "text",
) -> None:
    """Compare a seal with measurements.

    Exits with 0 also where a limit of the board is exceeded: it is said."""
    from simulator.names import check_word
    from simulator.report.board.score import score_page
    from simulator.study.sealed.make_score import check_score, score_of, write_score
    from simulator.study.sealed.seal import read_seal

    named = check_word(name or _stem(out or seal), "--name", file=True)
    if out is not None:
        check_score(out)
    made = score_of(read_seal(seal), named, measured, engine, hardware, model, others, probes or [])
    if out is not None:
        write_score(made, out)
    show(format, made.to_json(), score_page(made), *([f"written to {out}"] if out else []))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".json").removesuffix(".score").removesuffix(".seal")
