"""Commands that exchange profiles with engines: import, export, probe. Heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import_app = typer.Typer(no_args_is_help=True, help="Profiles from what engines and load generators wrote (telemetry CSV: dsim fit).")
export_app = typer.Typer(no_args_is_help=True, help="What a profile knows, in the forms that engines load.")

Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text for people, json for machines.")]
NewProfile = Annotated[Path, typer.Option("--out", help="Folder of the new profile.")]
Name = Annotated[str | None, typer.Option(help="Name of the profile [default: the folder's].")]
Hardware = Annotated[str, typer.Option(help="What it ran on.")]
Engine = Annotated[str, typer.Option(help="What served.")]
Target = Annotated[str, typer.Option(help="Which model.")]
Gpus = Annotated[float, typer.Option(help="GPUs of the replica that the files tell of.")]
DrafterName = Annotated[str, typer.Option("--drafter", help="What to call the drafter.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")]
Length = Annotated[float | None, typer.Option(help="Tokens committed per round, bonus included, where the files do not tell (no speculation: 1).")]
Budget = Annotated[float | None, typer.Option(help="Tokens per request through the target in a step, where the files do not tell (none: 1).")]
Results = Annotated[list[Path], typer.Argument(metavar="RESULT.json...", help="One file a load, at least two loads in all.")]
KnownProfile = Annotated[Path, typer.Argument(metavar="PROFILE", help="A profile folder.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Most requests in a batch.")]
Context = Annotated[float, typer.Option(min=0, help="Tokens of context that a request holds, where the cost depends on it.")]


@import_app.command("sglang")
def import_sglang(
    out: NewProfile,
    sps: Annotated[Path | None, typer.Option(help="SPS table, sampled or additive.")] = None,
    sts: Annotated[Path | None, typer.Option(help="Confidence calibration; with records that were taken without it.")] = None,
    records: Annotated[Path | None, typer.Option(help="Dump of decode steps (dspark_info_record of /server_info).")] = None,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    target: Target = "not stated",
    gpus_per_replica: Gpus = 1.0,
    drafter: DrafterName = "dspark",
    force: Force = False,
    format: Format = "text",
) -> None:
    """SGLang's SPS table, confidence calibration and step records to a profile, provenance «imported»."""
    from simulator.study.profiles.importing import About
    from simulator.study.profiles.importing import import_sglang as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    _tell(imported(about, sps, sts, records), format)


@import_app.command("vllm")
def import_vllm(
    out: NewProfile,
    curves: Annotated[Path | None, typer.Option(help="Cost curves of adaptive verification, as JSON.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="A scrape of /metrics: acceptance by position.")] = None,
    metrics_before: Annotated[Path | None, typer.Option(help="An earlier scrape, which is taken off.")] = None,
    bench: Annotated[list[Path] | None, typer.Option(help="A result of vllm bench serve; may be repeated.")] = None,
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
    """vLLM's cost curves, counters and benchmark results to a profile, provenance «imported»."""
    from simulator.measurements.formats.loadgen import read_vllm_bench
    from simulator.study.profiles.importing import About
    from simulator.study.profiles.importing import import_vllm as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    points = [point for file in bench or [] for point in read_vllm_bench(file)]
    _tell(imported(about, curves, metrics, metrics_before, points, accepted_length, budget), format)


@import_app.command("vllm-run")
def import_vllm_run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="meta.json, requests.jsonl and timeseries.csv of a run.")],
    out: NewProfile,
    name: Name = None,
    hardware: Hardware = "not stated",
    force: Force = False,
    format: Format = "text",
) -> None:
    """A run that LLMServingSim's bench recorded with vLLM to a profile: costs fitted on its per-second series (minutes)."""
    from simulator.study.profiles.importing import About, import_recorded_run

    _tell(import_recorded_run(About(out, name, hardware, force=force), folder), format)


@import_app.command("aiperf")
def import_aiperf(
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
    """AIPerf's profile_export_aiperf.json files to a profile, provenance «imported»."""
    from simulator.measurements.formats.loadgen import read_aiperf
    from simulator.study.profiles.importing import About, import_load

    about = About(out, name, hardware, engine, target, gpus_per_replica, force=force)
    points = [point for file in files for point in read_aiperf(file)]
    _tell(import_load(about, "AIPerf", points, accepted_length, budget), format)


@import_app.command("guidellm")
def import_guidellm(
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
    """GuideLLM's benchmarks.json to a profile, provenance «imported»."""
    from simulator.measurements.formats.loadgen import read_guidellm
    from simulator.study.profiles.importing import About, import_load

    about = About(out, name, hardware, engine, target, gpus_per_replica, force=force)
    points = [point for file in files for point in read_guidellm(file)]
    _tell(import_load(about, "GuideLLM", points, accepted_length, budget), format)


@export_app.command("sglang-sps")
def export_sglang_sps(
    profile: KnownProfile,
    out: Annotated[Path, typer.Option(help="File to write.")],
    drafter: Annotated[str, typer.Option(help="Drafter of the profile.")],
    form: Annotated[Literal["additive", "sampled"], typer.Option(help="Both are SGLang's.")] = "additive",
    max_batch: MaxBatch = 256,
    context: Context = 0.0,
) -> None:
    """The SPS table for --speculative-dspark-sps-table-path."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    typer.echo(exporting.export_sglang_sps(load_profile(profile), drafter, out, form, max_batch, context))


@export_app.command("sglang-sts")
def export_sglang_sts(
    profile: KnownProfile,
    out: Annotated[Path, typer.Option(help="File to write.")],
    drafter: Annotated[str, typer.Option(help="Drafter of the profile.")],
) -> None:
    """The calibration for --speculative-dspark-confidence-sts-path."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    typer.echo(exporting.export_sglang_sts(load_profile(profile), drafter, out))


@export_app.command("vllm-lengths")
def export_vllm_lengths(
    profile: KnownProfile,
    out: Annotated[Path, typer.Option(help="File to write.")],
    drafter: Annotated[str, typer.Option(help="Drafter of the profile.")],
    max_batch: MaxBatch = 256,
    context: Context = 0.0,
) -> None:
    """The best length by batch size, num_speculative_tokens_per_batch_size of vLLM's speculative config."""
    from simulator.measurements.profile import load_profile
    from simulator.study.profiles import exporting

    typer.echo(exporting.export_vllm_lengths(load_profile(profile), drafter, out, max_batch, context))


def probe(
    base_url: Annotated[str, typer.Option(help="Where the server's API begins, for example http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="Name of the model, as the server calls it.")],
    out: NewProfile,
    prompts: Annotated[Path | None, typer.Option(help="Prompts: a text file with one a line, or JSON lines with 'prompt' [default: ours].")] = None,
    concurrency: Annotated[str, typer.Option(help="Users at once, comma-separated, at least two.")] = "1,2,4,8,16,32",
    check: Annotated[str, typer.Option(help="Users at once that are measured and kept out of the fit, comma-separated.")] = "",
    refine: Annotated[int, typer.Option(min=0, help="So many more, where the steps of neighbours differ by over a quarter.")] = 0,
    requests: Annotated[int, typer.Option(min=2, help="Measured requests of every user.")] = 3,
    output_tokens: Annotated[int, typer.Option(min=2, help="Tokens asked of every request.")] = 128,
    accepted_length: Length = None,
    budget: Budget = None,
    chat: Annotated[bool, typer.Option("--chat/--completions", help="Which of the two API calls.")] = True,
    extra: Annotated[str, typer.Option(help="More fields of every request, as JSON.")] = "{}",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds without a byte after which a request has failed.")] = 300.0,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    gpus_per_replica: Gpus = 1.0,
    force: Force = False,
    format: Format = "text",
) -> None:
    """Measure any OpenAI-compatible streaming server over a grid of concurrency, and fit a profile to it."""
    from simulator.study.profiles.importing import About
    from simulator.study.profiles.probe import ProbePlan, probe_server

    plan = ProbePlan.of(base_url, model, prompts, concurrency, check, requests, output_tokens, chat, extra, timeout, refine)
    about = About(out, name, hardware, engine, model, gpus_per_replica, force=force)
    _tell(probe_server(plan, about, accepted_length, budget, lambda line: typer.echo(line, err=True)), format)


def _tell(found: dict[str, Any], format: str) -> None:
    """What was found, for people or machines."""
    import json

    typer.echo(
        json.dumps({k: v for k, v in found.items() if k not in ("text", "costs")}, indent=2, ensure_ascii=False)
        if format == "json"
        else found["text"]
    )
