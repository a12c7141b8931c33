"""`dsim import`: profiles from files of engines and load generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from simulator.cli.options import Engine, Force, Format, Hardware, Name, NewProfile, Target, group, show_profile
from simulator.echo import echo

if TYPE_CHECKING:
    from simulator.study.profiles.import_points import PointFiles

import_app = group("Make a profile from files of engines and load generators.")


class _TakesSeveral(typer.core.TyperCommand):
    """A repeatable option takes all values that follow it, as a shell writes them for a pattern: --bench c1.json c4.json --out p."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        takes: str | None = None
        spread: list[str] = []
        for at, word in enumerate(args):
            if word.startswith("-"):
                name = word.partition("=")[0]
                takes = name if name in several else None
            elif takes is not None and args[at - 1] != takes:
                spread.append(takes)
            spread.append(word)
        return super().parse_args(ctx, spread)


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
FILES = "[DRAFTER[:DOMAIN]=]FILE..."
Results = Annotated[list[str], typer.Argument(metavar=FILES, help="Result files, with at least two loads in all; none=FILE without speculation.")]
Bench = Annotated[
    list[str] | None,
    typer.Option(metavar=FILES, help="Results of the engine's benchmark; none=FILE without speculation. Several, patterns, repeatable."),
]
Check = Annotated[
    list[str] | None,
    typer.Option(metavar=FILES, help="Results to predict: kept out of the fit, then compared with the simulation. Several, patterns, repeatable."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(metavar=FILES, help="Scrapes of /metrics, for acceptance by position. Several, patterns, repeatable."),
]
Before = Annotated[
    list[str] | None,
    typer.Option(metavar=FILES, help="Earlier scrapes to subtract, as many as --metrics and in its order."),
]
Model = Annotated[str | None, typer.Option(help="The model to take from scrapes with several.")]
Slots = Annotated[
    int | None, typer.Option(min=1, max=127, help="Longest draft of the profile's drafter, in tokens.", show_default="the longest in the files")
]

TokenBudget = Annotated[
    int,
    typer.Option(
        min=1, max=10_000_000, help="Most tokens of a step, prompts in chunks: vLLM's --max-num-batched-tokens, SGLang's --chunked-prefill-size."
    ),
]

MaxBatch = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, help="Most requests that the server decodes at once: vLLM's --max-num-seqs.", show_default="as many as users"),
]


@import_app.command("sglang", cls=_TakesSeveral)
def import_sglang(
    out: NewProfile,
    sps: Annotated[Path | None, typer.Option(help="SPS table, sampled or additive.")] = None,
    sts: Annotated[Path | None, typer.Option(help="Confidence calibration. Needs --records taken without it.")] = None,
    records: Annotated[Path | None, typer.Option(help="Dump of decode steps (dspark_info_record of /server_info).")] = None,
    bench: Bench = None,
    check: Check = None,
    metrics: Metrics = None,
    metrics_before: Before = None,
    model: Model = None,
    slots: Slots = None,
    accepted_length: Length = None,
    budget: Budget = None,
    token_budget: TokenBudget = 2048,
    max_batch: MaxBatch = None,
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
    from simulator.study.profiles.about import About
    from simulator.study.profiles.importing import import_sglang as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    files = _files(bench, check, metrics, metrics_before, model, slots, accepted_length, budget, token_budget, max_batch, read_bench)
    show_profile(format, imported(about, sps, sts, records, files, _say(format)))


@import_app.command("vllm", cls=_TakesSeveral)
def import_vllm(
    out: NewProfile,
    curves: Annotated[Path | None, typer.Option(help="Cost curves of adaptive verification, as JSON.")] = None,
    bench: Bench = None,
    check: Check = None,
    metrics: Metrics = None,
    metrics_before: Before = None,
    model: Model = None,
    slots: Slots = None,
    accepted_length: Length = None,
    budget: Budget = None,
    token_budget: TokenBudget = 2048,
    max_batch: MaxBatch = None,
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
    from simulator.study.profiles.about import About
    from simulator.study.profiles.importing import import_vllm as imported

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    files = _files(bench, check, metrics, metrics_before, model, slots, accepted_length, budget, token_budget, max_batch, read_bench)
    show_profile(format, imported(about, curves, files, _say(format)))


@import_app.command("llamacpp", cls=_TakesSeveral)
def import_llamacpp(
    bench: Annotated[list[str], typer.Option(metavar=FILES, help="Results of vllm bench serve; none=FILE without speculation. Repeatable.")],
    out: NewProfile,
    check: Check = None,
    metrics: Metrics = None,
    metrics_before: Before = None,
    slots: Slots = None,
    accepted_length: Length = None,
    budget: Budget = None,
    token_budget: TokenBudget = 2048,
    max_batch: MaxBatch = None,
    cache: Annotated[Literal["unified", "split"], typer.Option(help="The server's cache: --kv-unified, or a part for each slot.")] = "unified",
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    target: Target = "not stated",
    gpus_per_replica: Gpus = 1.0,
    drafter: DrafterName = "drafter",
    force: Force = False,
    format: Format = "text",
) -> None:
    """Import llama.cpp's counters and benchmarks of llama-server.

    Scrapes of /metrics that lie beside a result (c4.json: c4-before.txt, c4-after.txt) are read by themselves."""
    from simulator.measurements.formats.bench import read_llama_cpp
    from simulator.study.profiles.about import About
    from simulator.study.profiles.import_points import import_points

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    files = _files(bench, check, metrics, metrics_before, None, slots, accepted_length, budget, token_budget, max_batch, read_llama_cpp)
    show_profile(format, import_points(about, "llama.cpp", files, _say(format), cache))


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
        check: Check = None,
        metrics: Metrics = None,
        metrics_before: Before = None,
        model: Model = None,
        slots: Slots = None,
        accepted_length: Length = None,
        budget: Budget = None,
        token_budget: TokenBudget = 2048,
        max_batch: MaxBatch = None,
        name: Name = None,
        hardware: Hardware = "not stated",
        engine: Engine = "not stated",
        target: Target = "not stated",
        gpus_per_replica: Gpus = 1.0,
        drafter: DrafterName = "drafter",
        force: Force = False,
        format: Format = "text",
    ) -> None:
        from simulator.measurements.formats.aiperf import read_aiperf
        from simulator.measurements.formats.guidellm import read_guidellm
        from simulator.study.profiles.about import About
        from simulator.study.profiles.import_points import import_points

        about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
        read = read_aiperf if tool == "AIPerf" else read_guidellm
        given = _files(files, check, metrics, metrics_before, model, slots, accepted_length, budget, token_budget, max_batch, read)
        show_profile(format, import_points(about, tool, given, _say(format)))

    return command


import_app.command("aiperf", help="Import AIPerf's profile_export_aiperf.json files.", cls=_TakesSeveral)(_import_loads("AIPerf"))
import_app.command("guidellm", help="Import GuideLLM's benchmarks.json files.", cls=_TakesSeveral)(_import_loads("GuideLLM"))


def _files(
    bench: list[str] | None, check: list[str] | None, metrics: list[str] | None, before: list[str] | None, model: str | None, slots: int | None,
    accepted_length: float | None, budget: float | None, token_budget: int, max_batch: int | None, read: Any,
) -> PointFiles:  # fmt: skip
    from simulator.study.profiles.import_points import PointFiles

    return PointFiles(bench or [], check or [], metrics or [], before or [], read, model, accepted_length, budget, slots, token_budget, max_batch)


def _say(format: str) -> Callable[[str], None]:
    """Where progress goes: nowhere for programs."""
    from simulator.progress import Progress

    return Progress(quiet=format == "json").say
