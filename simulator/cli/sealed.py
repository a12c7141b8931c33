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
    """Predict what a benchmark will measure, and seal it with a digest.

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
