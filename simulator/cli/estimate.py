"""`dsim estimate`: profiles from kernel times that others have measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from simulator.cli.options import Force, Format, Name, show
from simulator.errors import DsimError

if TYPE_CHECKING:
    from simulator.study.estimate.make import Asked

Engine = Literal["vllm", "sglang", "trtllm"]


def estimate(
    model: Annotated[
        str | None, typer.Option(metavar="NAME|FOLDER", help="The target: a name that --list shows, or a folder with config.json.")
    ] = None,
    system: Annotated[list[str] | None, typer.Option(help="GPUs that the profile is of, for example h200_sxm. Repeatable: one profile each.")] = None,
    engine: Annotated[Engine, typer.Option(help="Serving engine.")] = "vllm",
    tp: Annotated[int, typer.Option(min=1, max=1024, help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(min=1, max=1024, help="Pipeline parallelism.")] = 1,
    dp: Annotated[int, typer.Option(min=1, max=1024, help="Data parallelism of attention, within a replica.")] = 1,
    moe_tp: Annotated[int | None, typer.Option(min=1, max=1024, help="Tensor parallelism of experts.", show_default="TP × DP ÷ --moe-ep")] = None,
    moe_ep: Annotated[int | None, typer.Option(min=1, max=1024, help="Expert parallelism.", show_default="1")] = None,
    gemm: Annotated[str | None, typer.Option(help="Number format of weights, for example fp8.", show_default="the model's")] = None,
    moe: Annotated[str | None, typer.Option(help="Number format of experts.", show_default="the model's")] = None,
    kv: Annotated[str | None, typer.Option(help="Number format of the KV cache.", show_default="the model's")] = None,
    attention: Annotated[str | None, typer.Option(help="Number format of attention.", show_default="the model's")] = None,
    drafter: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER|FAMILY-N", help="A drafter's folder with config.json, or dspark-7, dflash-7, eagle3-7, mtp-1. Repeatable."),
    ] = None,
    acceptance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER", help="Acceptance of a drafter, see `dsim acceptance list`. Repeatable.", show_default="of the same model"
        ),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, max=65_536, help="Most requests in a step.", show_default="the engine's")] = None,
    step_tokens: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Most tokens in a step.", show_default="the engine's")] = None,
    memory_fraction: Annotated[
        float | None, typer.Option(help="Share of memory that is the engine's, above 0 and up to 1.", show_default="the engine's")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new profile; with several systems OUT-SYSTEM for each.")] = None,
    name: Name = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show models, systems and engines that there are kernel times of.")] = False,
    force: Force = False,
    format: Format = "text",
) -> None:
    """Make a profile of hardware that you do not own.

    Step costs come from kernel times that the package aiconfigurator-core holds (extra `estimate`), acceptance from a library."""
    if list_all:
        _list(format)
        return
    from simulator.study.estimate.make import estimated, write_estimate
    from simulator.study.estimate.tables import FILES
    from simulator.study.profiles.about import About

    for flag, given in (("--model", model), ("--system", system), ("--out", out)):
        if not given:
            raise DsimError("is needed", where="dsim estimate", key=flag, remedy="`dsim estimate --list` shows models and systems")
    assert model is not None
    assert system is not None
    assert out is not None
    parts = {"gemm": gemm, "moe": moe, "kv": kv, "attention": attention}
    split: dict[str, Any] = {"tp": tp, "pp": pp, "dp": dp, "moe_tp": moe_tp, "moe_ep": moe_ep}
    limits: dict[str, Any] = {"max_batch": max_batch, "step_tokens": step_tokens, "memory_fraction": memory_fraction}
    limits |= {"drafters": tuple(drafter or ()), "acceptances": tuple(acceptance or ())}
    asked = _asked(model, system, engine, split | parts, limits)
    called = out.resolve().name if name is None else name
    several = [About(out.with_name(f"{out.name}-{one.of.system}"), f"{called}-{one.of.system}", force=force) for one in asked]
    places = several if len(asked) > 1 else [About(out, called, force=force)]
    for about in places:
        about.check(FILES)
    made = [(estimated(one), about) for one, about in zip(asked, places, strict=True)]
    made_by = f"Made by {shlex.join(['dsim', *sys.argv[1:]])}"
    results = [write_estimate(one, about, made_by) for one, about in made]
    texts = [f"{result['text']}\nprofile written to {result['profile']}" for result in results]
    data = [{key: value for key, value in result.items() if key != "text"} for result in results]
    show(format, data[0] if len(data) == 1 else data, "\n\n".join(texts))


def _asked(model: str, systems: list[str], engine: str, of: dict[str, Any], more: dict[str, Any]) -> list[Asked]:
    """What was asked, once for each system. Raises DsimError for what there is not."""
    from simulator.misspelt import nearest
    from simulator.study.estimate.make import Asked, check_asked
    from simulator.study.estimate.models import find_model
    from simulator.study.estimate.package import Deployment, quantisations
    from simulator.study.estimate.package import systems as known

    found, there = find_model(model), known()
    width = of["tp"] * of["dp"]
    if of["moe_tp"] and not of["moe_ep"]:
        of = of | {"moe_ep": max(width // of["moe_tp"], 1)}
    if of["moe_ep"] and not of["moe_tp"]:
        of = of | {"moe_tp": max(width // of["moe_ep"], 1)}
    if (of["moe_tp"] or width) * (of["moe_ep"] or 1) != width:
        problem = f"expected two factors of TP × DP, {width}, got {of['moe_tp'] or width} and {of['moe_ep'] or 1}"
        raise DsimError(problem, where="dsim estimate", key="--moe-tp and --moe-ep", remedy="give one of them: the other follows")
    for part, formats in quantisations().items():
        if of[part] is not None and of[part] not in formats:
            raise DsimError(f"no number format '{of[part]}'", where=f"--{part}", remedy=nearest(of[part], formats, "formats"))
    asked = [Asked(found, Deployment(found.asked, system, engine, **of), **more) for system in systems]
    check_asked(asked, there)
    return asked


def _list(format: str) -> None:
    from simulator.study.estimate.models import model_names
    from simulator.study.estimate.package import PACKAGE, package_version
    from simulator.study.estimate.package import systems as known

    systems, names = known(), model_names()
    width = max(map(len, systems))
    lines = [f"{system:{width}}  {', '.join(f'{engine} {version}' for engine, version in engines.items())}" for system, engines in systems.items()]
    version = f"{PACKAGE} {package_version()}"
    text = "\n".join(
        [
            "systems, with the engines whose kernels were measured:",
            *lines,
            "",
            "models:",
            *names,
            "",
            f"from {version}; any other model as a folder with config.json",
        ]
    )
    show(format, {"package": version, "systems": systems, "models": names}, text)
