"""`dsim export`: a profile's numbers in the forms that engines load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from simulator.cli.options import Format, Override, group, show, show_profile
from simulator.echo import echo

export_app = group("Write a profile's numbers in formats that engines load.")

KnownProfile = Annotated[Path, typer.Argument(metavar="PROFILE", help="Folder of the profile.")]
KnownDrafter = Annotated[str, typer.Option("--drafter", help="Drafter in the profile.")]
File = Annotated[Path, typer.Option("--out", help="File to write.")]
MaxBatch = Annotated[int, typer.Option(min=1, max=16_384, help="Largest batch, in requests.")]
Context = Annotated[float, typer.Option(min=0, help="Context tokens per request, for costs that depend on it.")]


@export_app.command("sglang-sps")
def export_sglang_sps(
    profile: KnownProfile,
    out: File,
    drafter: KnownDrafter,
    form: Annotated[Literal["additive", "sampled"], typer.Option(help="Which of SGLang's two forms.")] = "additive",
    max_batch: MaxBatch = 256,
    context: Context = 0.0,
) -> None:
    """Write SGLang's SPS table.

    For --speculative-dspark-sps-table-path."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    echo(exporting.export_sglang_sps(load_profile(profile), drafter, out, form, max_batch, context))


@export_app.command("sglang-sts")
def export_sglang_sts(profile: KnownProfile, out: File, drafter: KnownDrafter) -> None:
    """Write SGLang's confidence calibration.

    For --speculative-dspark-confidence-sts-path."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    echo(exporting.export_sglang_sts(load_profile(profile), drafter, out))


@export_app.command("vllm-lengths")
def export_vllm_lengths(
    profile: KnownProfile,
    out: File,
    drafter: KnownDrafter,
    max_batch: MaxBatch = 256,
    context: Context = 0.0,
    tolerance: Annotated[float, typer.Option(help="Share of the tokens per second below which another length is not worth a range.")] = 0.02,
    format: Format = "text",
) -> None:
    """Write the draft length by batch size for vLLM.

    As num_speculative_tokens_per_batch_size of the speculative config. In as few ranges as lose nothing; lengths do not rise with the batch."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    show_profile(format, exporting.export_vllm_lengths(load_profile(profile), drafter, out, max_batch, context, tolerance))


@export_app.command("launch")
def export_launch(
    what: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml|RESULT", help="A scenario, a plan, or the result folder of either.")],
    policy: Annotated[str | None, typer.Option(help="Name of the policy.", show_default="the one that the result recommends")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the scripts and tables.", show_default="launch, in the result folder if there is one")
    ] = None,
    engine: Annotated[Literal["vllm", "sglang", "llamacpp"] | None, typer.Option(help="One engine alone.", show_default="vLLM and SGLang")] = None,
    override: Override = None,
    format: Format = "text",
) -> None:
    """Write commands of engines that realise a policy.

    For vLLM and SGLang, or for llama.cpp, with the tables that they need, what is to be filled in, and what the engine does
    otherwise than was simulated."""
    from importlib.metadata import version

    from simulator.report.deploy import launch_page
    from simulator.study.deploy.asked import launch_of
    from simulator.study.deploy.launch import USUAL
    from simulator.study.deploy.scripts import write_launch
    from simulator.study.run.place import LAUNCH

    result = launch_of(what, policy, override or [], (engine,) if engine else USUAL)
    folder = out or (what / LAUNCH if what.is_dir() else Path(LAUNCH))
    written = write_launch(result, folder)
    show(format, result.to_json() | {"files": [str(path) for path in written]}, launch_page(result, folder, version("dsim")))
