"""`dsim import` and `dsim export`: profiles from files of engines and load generators, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from simulator.cli.options import Engine, Force, Format, Hardware, Name, NewProfile, Override, Target, group, show, show_profile
from simulator.echo import echo

import_app = group("Make a profile from files of engines and load generators.")
export_app = group("Write a profile's numbers in formats that engines load.")

Gpus = Annotated[float, typer.Option(help="GPUs per replica in the imported run.")]
DrafterName = Annotated[str, typer.Option("--drafter", help="Name for the drafter.")]
Length = Annotated[
    float | None,
    typer.Option(help="Tokens committed per round, bonus token included; 1 without speculation.", show_default="from the files"),
]
Budget = Annotated[
    float | None,
    typer.Option(help="Tokens verified per request and step, anchor included; 1 without speculation.", show_default="from the files"),
]
Results = Annotated[list[Path], typer.Argument(metavar="RESULT.json...", help="Result files, with at least two loads in all.")]
KnownProfile = Annotated[Path, typer.Argument(metavar="PROFILE", help="Folder of the profile.")]
KnownDrafter = Annotated[str, typer.Option("--drafter", help="Drafter in the profile.")]
File = Annotated[Path, typer.Option("--out", help="File to write.")]
MaxBatch = Annotated[int, typer.Option(min=1, max=16_384, help="Largest batch, in requests.")]
Context = Annotated[float, typer.Option(min=0, help="Context tokens per request, for costs that depend on it.")]


@import_app.command("sglang")
def import_sglang(
    out: NewProfile,
    sps: Annotated[Path | None, typer.Option(help="SPS table, sampled or additive.")] = None,
    sts: Annotated[Path | None, typer.Option(help="Confidence calibration. Needs --records taken without it.")] = None,
    records: Annotated[Path | None, typer.Option(help="Dump of decode steps (dspark_info_record of /server_info).")] = None,
    bench: Annotated[list[Path] | None, typer.Option(metavar="RESULT.jsonl", help="Results of bench_serving. Repeatable.")] = None,
    accepted_length: Length = None,
    budget: Budget = None,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    target: Target = "not stated",
    gpus_per_replica: Gpus = 1.0,
    drafter: DrafterName = "dspark",
    force: Force = False,
    format: Format = "text",
) -> None:
    """Import SGLang's SPS table, calibration, records and benchmarks."""
    from simulator.measurements.formats.bench import read_bench
    from simulator.measurements.formats.loadgen import read_loads
    from simulator.study.profiles.about import About
    from simulator.study.profiles.importing import import_sglang as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    show_profile(format, imported(about, sps, sts, records, read_loads(bench or [], read_bench), accepted_length, budget))


@import_app.command("vllm")
def import_vllm(
    out: NewProfile,
    curves: Annotated[Path | None, typer.Option(help="Cost curves of adaptive verification, as JSON.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="A scrape of /metrics, for acceptance by position.")] = None,
    metrics_before: Annotated[Path | None, typer.Option(help="An earlier scrape to subtract.")] = None,
    bench: Annotated[list[Path] | None, typer.Option(metavar="RESULT.json", help="Results of vllm bench serve. Repeatable.")] = None,
    accepted_length: Length = None,
    budget: Budget = None,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    target: Target = "not stated",
    gpus_per_replica: Gpus = 1.0,
    drafter: DrafterName = "drafter",
    force: Force = False,
    format: Format = "text",
) -> None:
    """Import vLLM's cost curves, counters and benchmark results."""
    from simulator.measurements.formats.bench import read_bench
    from simulator.measurements.formats.loadgen import read_loads
    from simulator.study.profiles.about import About
    from simulator.study.profiles.importing import import_vllm as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    show_profile(format, imported(about, curves, metrics, metrics_before, read_loads(bench or [], read_bench), accepted_length, budget))


@import_app.command("vllm-run")
def import_vllm_run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with meta.json, requests.jsonl and timeseries.csv.")],
    out: NewProfile,
    name: Name = None,
    hardware: Hardware = "not stated",
    force: Force = False,
    format: Format = "text",
) -> None:
    """Import a vLLM run recorded by LLMServingSim's bench.

    Fits step costs to its per-second series, and to half of it to see how well that foresees the rest; takes minutes."""
    from simulator.study.profiles.about import About
    from simulator.study.profiles.import_run import import_recorded_run

    show_profile(format, import_recorded_run(About(out, name, hardware, force=force), folder, lambda line: echo(line, err=True)))


def _import_loads(tool: Literal["AIPerf", "GuideLLM"]) -> Callable[..., None]:
    """The command that imports results of a load generator."""

    def command(
        files: Results,
        out: NewProfile,
        accepted_length: Length = None,
        budget: Budget = None,
        name: Name = None,
        hardware: Hardware = "not stated",
        engine: Engine = "not stated",
        target: Target = "not stated",
        gpus_per_replica: Gpus = 1.0,
        force: Force = False,
        format: Format = "text",
    ) -> None:
        from simulator.measurements.formats.aiperf import read_aiperf
        from simulator.measurements.formats.guidellm import read_guidellm
        from simulator.measurements.formats.loadgen import read_loads
        from simulator.study.profiles.about import About
        from simulator.study.profiles.importing import import_load

        about = About(out, name, hardware, engine, target, gpus_per_replica, force=force)
        loads = read_loads(files, read_aiperf if tool == "AIPerf" else read_guidellm)
        show_profile(format, import_load(about, tool, loads, accepted_length, budget))

    return command


import_app.command("aiperf", help="Import AIPerf's profile_export_aiperf.json files.")(_import_loads("AIPerf"))
import_app.command("guidellm", help="Import GuideLLM's benchmarks.json files.")(_import_loads("GuideLLM"))


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
    override: Override = None,
    format: Format = "text",
) -> None:
    """Write the commands of vLLM and SGLang that realise a policy.

    With the tables that they need, what is to be filled in, and what the engine does otherwise than was simulated."""
    from importlib.metadata import version

    from simulator.report.deploy import launch_page
    from simulator.study.deploy.asked import launch_of
    from simulator.study.deploy.scripts import write_launch
    from simulator.study.run.place import LAUNCH

    result = launch_of(what, policy, override or [])
    folder = out or (what / LAUNCH if what.is_dir() else Path(LAUNCH))
    written = write_launch(result, folder)
    show(format, result.to_json() | {"files": [str(path) for path in written]}, launch_page(result, folder, version("dsim")))
