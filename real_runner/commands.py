"""The command line's functions of this package. They are mounted by `simulator.cli`, so heavy modules are imported when one runs.

Long because five commands declare their options here.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from real_runner.setup import can_be_made, needs_torch, quiet_on, read_prompt_sets, writable
from simulator.echo import echo, echo_json
from simulator.errors import DsimError

if TYPE_CHECKING:
    from simulator.policies.verification import VerificationPolicy

TargetModel = Annotated[str, typer.Option("--target", help="Target model: a local folder or a hub name.")]
Device = Annotated[str, typer.Option("--device", help="Device: cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Data type: float32 or bfloat16.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", help="JSON lines with a key 'turns'.", show_default="built-in prompts")]
PromptSets = Annotated[
    list[str] | None,
    typer.Option("--prompts", metavar="[DOMAIN=]FILE", help="JSON lines with a key 'turns'. Repeatable.", show_default="built-in prompts"),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of torch.", show_default="torch's choice")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random draws.")]
FAMILIES = ("dspark", "dflash", "eagle3", "mtp")
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="Print text for people or JSON for programs.")]


def draft_check(
    target: TargetModel,
    draft: Annotated[str | None, typer.Option(help="Drafter: a checkpoint folder or a hub name.", show_default="the one in the target")] = None,
    expect: Annotated[Path | None, typer.Option(help="Folder of expected tensors and greedy tokens to compare with.")] = None,
    prompts: Prompts = None,
    at_least: Annotated[float, typer.Option(help="Accepted length below which the drafter fails the check.")] = 1.2,
    format: Format = "text",
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Check that a drafter loads and fits its target.

    Recognises the drafter's family and describes it. Exits with 1 if a check fails.

    Without --draft: describes a DeepSeek-V4 whose checkpoint holds its drafter, from config and headers."""
    if draft is None:
        from real_runner.check_fused import check_fused

        if expect is not None or prompts is not None:
            raise DsimError("needs --draft", where="dsim draft check", key="--expect" if expect is not None else "--prompts")
        fused = check_fused(Path(target))
        echo_json(fused.as_json()) if format == "json" else echo(fused.as_text())
        return
    needs_torch("draft check")
    from real_runner.check import check
    from real_runner.target import load_target

    quiet_on(device)
    report = check(load_target(target, device, dtype), draft, expect=expect, prompts=prompts, at_least=at_least)
    echo_json(report.as_json()) if format == "json" else echo(report.as_text())
    if not report.holds:
        raise typer.Exit(1)


def serve_bench(
    target: TargetModel,
    out: Annotated[Path, typer.Option(help="New folder for requests.csv, steps.csv and run.json.")],
    draft: Annotated[str | None, typer.Option(help="Drafter.", show_default="none, ordinary decoding")] = None,
    policy: Annotated[str, typer.Option(help="Verification rule as in a scenario, e.g. '{kind: fixed, length: 3}'.")] = "{kind: none}",
    name: Annotated[str | None, typer.Option(help="Name of the policy in the tables.", show_default="its kind")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent requests of the closed loop.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests of the closed loop, in all.")] = 32,
    output_tokens: Annotated[int, typer.Option(min=1, help="Output tokens per request of the closed loop.")] = 128,
    trace: Annotated[Path | None, typer.Option(help="Trace (CSV or JSON lines) to serve instead of a closed loop.")] = None,
    prompts: Prompts = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.0,
    measure: Annotated[bool, typer.Option("--measure-costs", help="First measure round times, for policies that need costs.")] = False,
    profile: Annotated[Path | None, typer.Option(help="Take costs, survival and calibration from this profile instead.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Name of the drafter in the profile.", show_default="name of the drafter's folder")] = None,
    tiers: Annotated[bool, typer.Option("--tiers/--no-tiers", help="On a GPU, pad batches to sizes with captured graphs.")] = True,
    eos: Annotated[bool, typer.Option("--eos/--ignore-eos", help="Stop at the end of text, or generate all tokens.")] = False,
    seed: Seed = 0,
    format: Format = "text",
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Serve a load with the real engine and record its tables.

    The request and step tables have the columns of a simulated run."""
    needs_torch("serve-bench")
    from real_runner.costs import ProfileCosts
    from real_runner.layout import Tiers
    from real_runner.serve import write
    from real_runner.target import load_target
    from simulator.measurements.profile import load_profile

    can_be_made(out)
    rule = read_policy(policy)
    quiet_on(device)
    options = {"temperature": temperature, "seed": seed, "tiers": Tiers() if tiers and device != "cpu" else None, "stop_at_eos": eos}
    if profile is not None:
        costs = ProfileCosts(load_profile(profile), drafter or (draft and Path(draft).name))
        options |= {"costs": costs, "survival": costs.survival, "temperatures": costs.temperatures}
    loaded = load_target(target, device, dtype)
    load = _load(loaded, trace, prompts, requests, output_tokens, seed)
    engine, report = _serve(loaded, draft, rule, load, None if trace else concurrency, measure, options)
    write(out, engine, name or rule.kind, report)
    report |= {"tables": str(out)}
    shown = [(key, report[key]) for key in ("requests", "accepted_length", "verified_per_round", "committed_tokens_per_s", "tables")]
    _show(format, report, (f"{key:<24}{value:.3f}" if isinstance(value, float) else f"{key:<24}{value}" for key, value in shown))


def profile_measure(
    target: TargetModel,
    out: Annotated[Path, typer.Option(help="Folder for the profile. An unfinished one is resumed.")],
    draft: Annotated[list[str] | None, typer.Option(metavar="[NAME=]FOLDER", help="Drafter. Repeatable.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on the GPU, in bfloat16 and with captured graphs.")] = False,
    prompts: PromptSets = None,
    texts: Annotated[
        Path | None, typer.Option(help="The target's own answers (JSON lines: prompt, output) instead of prompts. DeepSeek-V4 needs them.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory for DeepSeek-V4, e.g. 24GB. More is faster.", show_default="the least; on a GPU what is free")
    ] = None,
    prompts_per_domain: Annotated[int, typer.Option(min=1, help="Maximum prompts per file.")] = 40,
    max_tokens: Annotated[int, typer.Option(min=2, help="Maximum tokens per text for measuring acceptance.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of texts and drafts.")] = 1.0,
    budget: Annotated[str, typer.Option(help="Time for the cost tables, e.g. 90s, 10m, 1h. It decides the grid.")] = "10m",
    max_requests: Annotated[int | None, typer.Option(min=1, help="Largest batch.", show_default="256 on a GPU, 32 on a CPU")] = None,
    max_context: Annotated[int | None, typer.Option(min=16, help="Longest context.", show_default="4096 on a GPU, 1024 on a CPU")] = None,
    tiers: Annotated[
        bool | None, typer.Option("--tiers/--no-tiers", help="Pad batches to sizes with captured graphs.", show_default="tiers on a GPU")
    ] = None,
    threads: Threads = None,
    target_name: Annotated[str | None, typer.Option(help="Name of the target in reports.", show_default="name of its folder")] = None,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep texts and raw cells in OUT/work.")] = False,
    seed: Seed = 0,
    format: Format = "text",
    device: Annotated[str | None, typer.Option(help="Device: cpu, cuda or cuda:N.", show_default="cpu, or cuda with --gpu")] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type.", show_default="bfloat16 on a GPU, float32 on a CPU")] = None,
) -> None:
    """Measure a target and its drafters on this machine.

    Measures step costs and acceptance; of DeepSeek-V4 the acceptance of the drafter in its checkpoint, one layer in memory at a time. Run the same
    command again to resume after an interruption."""
    if texts is not None and prompts:
        raise DsimError("expected --texts or --prompts, got both", where="dsim profile measure", remedy="drop one of them")
    needs_torch("profile measure")
    from real_runner.layout import Tiers
    from real_runner.profile import Acceptance, CostPlan, may_write, measure_profile, named_drafts
    from real_runner.target import DTYPES, load_target, v4_folder
    from real_runner.texts import read_texts
    from simulator.progress import Progress, resumable

    place = device or ("cuda" if gpu else "cpu")
    on_gpu = place.startswith("cuda")
    plan = CostPlan(seconds_of(budget), max_requests or (256 if on_gpu else 32), max_context or (4096 if on_gpu else 1024))
    kind = dtype or ("bfloat16" if on_gpu else "float32")
    if kind not in DTYPES:
        raise DsimError(f"unknown dtype {kind!r}", key="--dtype", remedy=f"choose one of {', '.join(DTYPES)}")
    if (folder := v4_folder(target)) is not None:
        quiet_on(place, threads)
        settings = {"device": place, "dtype": kind, "temperature": temperature, "seed": seed, "keep_work": keep_work}
        _profile_v4(folder, target_name or folder.resolve().name, draft, texts, memory, out, format, settings)
        return
    if memory is not None:
        raise DsimError("only DeepSeek-V4 is measured one layer at a time", key="--memory", remedy="leave it out")
    drafts, sets = named_drafts(draft or []), read_prompt_sets(prompts or []) if texts is None else []
    given = None if texts is None else read_texts(texts)
    may_write(out)
    quiet_on(place, threads)
    loaded = load_target(target, place, kind)
    use = Tiers() if (on_gpu if tiers is None else tiers) else None
    acceptance = Acceptance(temperature, prompts_per_domain, max_tokens)
    with resumable(lambda: f"measurements are kept in {out / 'work'}"):
        made = measure_profile(
            loaded, drafts, sets, out, given=given, acceptance=acceptance, costs=plan, tiers=use, seed=seed, command=_command(), keep_work=keep_work,
            target_name=target_name, progress=Progress(quiet=format == "json"),
        )  # fmt: skip
    text = f"{out}: {len(made.drafters)} drafters, {len(made.suspicious)} suspicious cells; look at it with `dsim profile show {out}`"
    echo_json(made.model_dump_json(indent=2)) if format == "json" else echo(text)


def _profile_v4(
    folder: Path, name: str, draft: list[str] | None, texts: Path | None, memory: str | None, out: Path, format: str, settings: dict[str, Any]
) -> None:
    """The acceptance of the drafter in a DeepSeek-V4 checkpoint."""
    from real_runner.deepseek_v4.acceptance import measure_acceptance, words_of
    from real_runner.texts import read_texts
    from simulator.measurements.drafters.deepseek_v4 import read_v4
    from simulator.progress import Progress, resumable

    if draft and [Path(one.rpartition("=")[2]).resolve() for one in draft] != [folder.resolve()]:
        raise DsimError("DeepSeek-V4 drafts with the drafter in its checkpoint", key="--draft", remedy="leave it out")
    if texts is None:
        remedy = "give --texts FILE: JSON lines with prompt and output, as a server of the model said them"
        raise DsimError("DeepSeek-V4 generates no texts here", key="--texts", remedy=remedy)
    most, eos = None if memory is None else bytes_of(memory), read_v4(folder).eos
    given = read_texts(texts, words_of(folder, eos[0] if eos else None))
    with resumable(lambda: f"finished layers are kept in {out / 'work'}"):
        made = measure_acceptance(
            folder, name, given, out, memory_bytes=most, command=_command(),
            progress=Progress(quiet=format == "json"), **settings,
        )  # fmt: skip
    lengths = (f"{domain:<16}accepted length {it.accepted_length:.2f}" for domain, it in made.domains.items())
    told = f"{out}: acceptance of {made.gamma} drafted tokens; a scenario takes it as drafters.DRAFTER.blocks, `dsim acceptance show {out}` shows it"
    _show(format, made.model_dump(mode="json") | {"path": str(out)}, [*lengths, told, *made.notes])


def train_draft(
    target: TargetModel,
    out: Annotated[Path, typer.Option(help="Folder for the drafters and training.json. An unfinished one is resumed.")],
    prompts: PromptSets = None,
    texts: Annotated[Path | None, typer.Option(help="Texts that the target generated before, instead of prompts.")] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Drafter family: dspark, dflash, eagle3 or mtp. Repeatable.", show_default="dspark"),
    ] = None,
    gamma: Annotated[int, typer.Option(min=1, help="Tokens drafted per round (always 1 for MTP).")] = 5,
    layers: Annotated[int, typer.Option(min=1, help="Layers of DSpark and DFlash.")] = 2,
    markov_rank: Annotated[int, typer.Option(min=1, help="Rank of DSpark's sequential head.")] = 64,
    draft_vocabulary: Annotated[int | None, typer.Option(min=2, help="Draft only this many most frequent tokens.", show_default="all tokens")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2000,
    batch_texts: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 4,
    batch_anchors: Annotated[int, typer.Option(min=1, help="Anchors per text and step.")] = 128,
    rate: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 1e-3,
    text_temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of the target's texts.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=2, help="Maximum tokens per text.")] = 256,
    held_out: Annotated[int, typer.Option(min=2, help="Prompts held out for evaluation.")] = 24,
    threads: Threads = None,
    seed: Seed = 0,
    format: Format = "text",
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Train small drafters for a target model.

    Lets the target generate texts, trains on them and evaluates on held-out prompts. Run the same command again to resume."""
    families: tuple[Any, ...] = tuple(dict.fromkeys(family or ["dspark"]))
    if unknown := [name for name in families if name not in FAMILIES]:
        raise DsimError(f"unknown family {unknown[0]!r}", key="--family", remedy=f"choose from {', '.join(FAMILIES)}")
    if texts is not None and prompts:
        raise DsimError("expected --texts or --prompts, got both", where="dsim train-draft", remedy="drop one of them")
    needs_torch("train-draft")
    sets = [] if texts is not None else read_prompt_sets(prompts or [])
    writable(out)
    quiet_on(device, threads)
    from real_runner.target import load_target
    from real_runner.train import DraftPlan, TextPlan, make_texts, must_be_teachable
    from real_runner.train import train_draft as train
    from real_runner.training.loop import Schedule
    from simulator.progress import Progress, resumable

    progress = Progress(quiet=format == "json")
    plan = DraftPlan(families, gamma, layers, markov_rank, None, draft_vocabulary)
    schedule = Schedule(steps=steps, texts=batch_texts, anchors=batch_anchors, rate=rate, held_out=held_out, seed=seed)
    with resumable(lambda: f"finished work is kept in {out / 'work'}"):
        loaded = load_target(target, device, dtype)
        must_be_teachable(loaded)
        training = make_texts(loaded, sets, texts, TextPlan(text_temperature, max_tokens, held_out=held_out), seed, out / "work", progress)
        report = train(loaded, out, training, plan, schedule, seed=seed, progress=progress)
    lines = [
        f"{name:<8} temperature {temperature:<4} accepted length {seen['accepted_length']:.2f} ± {seen['standard_error']:.2f}"
        for name, one in report["drafters"].items()
        for temperature, seen in one["held_out"].items()
    ]
    lines.append(f"drafters in {out}; measure them: dsim profile --target {target} --draft {out / families[0]} --out profiles/NAME")
    _show(format, report, lines)


def export_drafter(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Drafter: a checkpoint folder or a hub name.")],
    to: Annotated[Literal["vllm", "speculators", "gguf"], typer.Option(help="Form to write: of vLLM, of speculators, or of llama.cpp.")],
    out: Annotated[Path, typer.Option(help="New folder; a file for gguf.")],
    target: Annotated[str | None, typer.Option(help="Target. For gguf its GGUF file, whose tokenizer is copied; else its name.")] = None,
    weights: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_1"] | None, typer.Option(help="Data type of a GGUF's matrices.", show_default="as stored")
    ] = None,
    format: Format = "text",
) -> None:
    """Write a drafter as a checkpoint that an engine loads.

    Prints the engine's options for it."""
    needs_torch("export drafter")
    from real_runner.exporting.drafter import export_drafter as export

    made = export(folder, to, out, target, weights)
    size = made["draft_vocabulary"]
    over = "all tokens" if size == made["vocabulary"] else f"{size:,} of {made['vocabulary']:,} tokens"
    inputs = ", ".join(map(str, made["tapped_layers"]))
    what = f"{out}: {made['family']}, {made['drafted_tokens']} tokens per round over {over}, reads the inputs of the target's layers {inputs}"
    _show(format, made, [what, made["start"]])


def _show(format: str, data: Any, lines: Iterable[str]) -> None:
    echo_json(json.dumps(data, indent=2)) if format == "json" else echo("\n".join(lines))


def seconds_of(text: str) -> float:
    """A duration as people write it: 90, 90s, 10m, 1.5h. Raises DsimError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise DsimError(f"expected a duration such as 90s, 10m or 1h, got {text!r}", key="--budget")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def bytes_of(text: str) -> float:
    """An amount of memory as people write it: 24GB, 512MB, 1.5TB, or bytes. Raises DsimError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", text)
    if match is None or float(match[1]) <= 0:
        raise DsimError(f"expected an amount such as 24GB or 512MB, got {text!r}", key="--memory")
    return float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]


def _command() -> str:
    """How this was called, for the record; folders by their last part, so that no machine's paths are kept."""
    words = [word.rpartition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    short = [Path(word).name if word.startswith(("/", "~", "..")) else word for word in words]
    return shlex.join(["dsim", *short])


def read_policy(text: str) -> VerificationPolicy:
    """A verification rule from YAML, or just its kind. Raises DsimError."""
    from simulator.policies.verification import Verification
    from simulator.reading.yaml_files import parse_yaml
    from simulator.schema import Frozen, validate

    class Options(Frozen):
        policy: Verification

    rule = parse_yaml(text, "--policy", DsimError)
    return validate(Options, {"policy": {"kind": rule} if isinstance(rule, str) else rule}, "serve-bench", DsimError).policy


def _load(target: Any, trace: Path | None, prompts: Path | None, requests: int, output_tokens: int, seed: int) -> list[Any]:
    """The requests: texts in a closed loop, random ids of the right lengths under a trace."""
    from real_runner.prompts import prompts_for, random_prompts, read_trace
    from real_runner.records import ServedRequest

    if trace is None:
        return [ServedRequest(i, ids, output_tokens) for i, ids in enumerate(prompts_for(target, requests, prompts, seed))]
    rows = read_trace(trace)
    ids = random_prompts(target, [row[1] for row in rows], seed)
    return [ServedRequest(i, ids[i], row[2], row[0], row[3]) for i, row in enumerate(rows)]


def _serve(
    target: Any, draft: str | None, rule: VerificationPolicy, load: list[Any], concurrency: int | None, measure: bool, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    from real_runner.costs import ProfileCosts, measure_costs
    from real_runner.drafters.loading import load_drafter
    from real_runner.engine import Engine
    from real_runner.serve import serve, summary

    drafter = None if draft is None else load_drafter(draft, target)
    if drafter is not None and isinstance(options.get("costs"), ProfileCosts):
        options["costs"].fits(drafter)
    slots = concurrency or min(64, len(load))
    blocks = 0 if drafter is None else 2 * (drafter.gamma + drafter.spec.block)
    length = max(len(request.prompt) + request.max_tokens for request in load) + blocks + 2
    if measure and drafter is not None:
        costs = measure_costs(target, drafter, slots=slots, length=length + 128, tiers=options["tiers"], temperature=options["temperature"])
        options = {**options, "costs": costs}
    engine = serve(lambda device: Engine(target, drafter, rule, slots=slots, length=length, device=device, **options), load, concurrency)
    wall_s = engine.now()
    report = summary(engine, target, rule.kind, warm_steps=min(3, len(engine.steps) // 2))
    report["temperature"], report["wall_s"] = options["temperature"], wall_s
    return engine, report
