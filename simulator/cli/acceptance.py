"""`dsim acceptance`: how many drafted tokens targets accept, as others published it."""

from __future__ import annotations

from typing import Annotated

import typer

from simulator.cli.options import Format, group, show

app = group("List or show published acceptance that comes with dsim.")


@app.command("list")
def list_(
    target: Annotated[str, typer.Option(help="A model: the likeliest acceptances for it come first.")] = "",
    format: Format = "text",
) -> None:
    """List the acceptances that come with dsim.

    A scenario names one as drafters.DRAFTER.blocks: NAME."""
    from simulator.measurements.acceptance_library import acceptances, load_acceptance, neighbours
    from simulator.report.acceptance import list_page

    known = [load_acceptance(name) for name in (neighbours(target) if target else acceptances())]
    rows = [
        {key: getattr(it, key) for key in ("name", "target", "family", "gamma", "provenance", "source")}
        | {"domains": list(it.domains), "path": str(it.folder)}
        | ({"fits": it.fits(target)} if target else {})
        for it in known
    ]
    show(format, rows, list_page(known, target))


@app.command("show")
def show_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the acceptance, or its folder.")],
    target: Annotated[str, typer.Option(help="A model to use it for.", show_default="its own")] = "",
    format: Format = "text",
) -> None:
    """Show an acceptance, and what is not known of it.

    With --target also what a profile of that model is then unsure of."""
    from simulator.measurements.acceptance_library import load_acceptance
    from simulator.report.acceptance import acceptance_data, acceptance_page

    acceptance = load_acceptance(name, where="dsim acceptance show")
    data = acceptance_data(acceptance, target or acceptance.target)
    show(format, data, acceptance_page(acceptance, data))
