"""The command line's functions of this package, for typer; torch is imported when one runs."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from simulator.errors import DsimError
from simulator.files import why_not_writable
from simulator.measurements.profile import Profile
from simulator.policies.verification import Verification, VerificationPolicy

TargetOption = Annotated[str, typer.Option("--target", help="The target model: a local folder or a hub name.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")]
PromptsOption = Annotated[Path | None, typer.Option("--prompts", help="JSON lines with `turns`; a few of our own without.")]


def draft_check(
    target: TargetOption,
    draft: Annotated[str, typer.Option("--draft", help="The drafter: a checkpoint folder or a hub name.")],
    expect: Annotated[
        Path | None, typer.Option("--expect", help="Folder of expected outputs to compare with (forward tensors, greedy decode).")
    ] = None,
    prompts: PromptsOption = None,
    at_least: Annotated[float, typer.Option("--at-least", help="Least accepted length that counts as trained and aligned.")] = 1.2,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="For people or for machines.")] = "text",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Recognise a drafter, say what it is, and check that it sits right on its target. Exit 0 only if everything holds."""
    from real_runner.check import check
    from real_runner.target import load_target

    _quiet(device)
    report = check(load_target(target, device, dtype), draft, expect=expect, prompts=prompts, at_least=at_least)
    typer.echo(report.as_json() if output == "json" else report.as_text())
    if not report.holds:
        raise typer.Exit(1)


def serve_bench(
    target: TargetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make for requests.csv, steps.csv and run.json.")],
    draft: Annotated[str | None, typer.Option("--draft", help="The drafter; none for ordinary decoding.")] = None,
    policy: Annotated[str, typer.Option("--policy", help="A verification rule as in a scenario, e.g. '{kind: fixed, length: 3}'.")] = "{kind: none}",
    name: Annotated[str | None, typer.Option("--name", help="What the tables call the policy; its kind without.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests in the engine at a time (closed loop).")] = 8,
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many requests in all (closed loop).")] = 32,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=1, help="Tokens to make for each (closed loop).")] = 128,
    trace: Annotated[Path | None, typer.Option("--trace", help="CSV of arrival_s, prompt_tokens, output_tokens instead of a closed loop.")] = None,
    prompts: PromptsOption = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0)] = 0.0,
    measure: Annotated[bool, typer.Option("--measure-costs", help="Measure the times of rounds first, for policies that weigh them.")] = False,
    profile: Annotated[Path | None, typer.Option("--profile", help="Take costs, survivals and calibration of this profile instead.")] = None,
    called: Annotated[str | None, typer.Option("--drafter", help="The drafter's name in the profile; its folder's without.")] = None,
    tiers: Annotated[bool, typer.Option("--tiers/--no-tiers", help="Pad to token-count tiers; on CUDA from captured graphs.")] = True,
    eos: Annotated[bool, typer.Option("--eos/--ignore-eos", help="Stop at the end of the text, or make all tokens.")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="For people or for machines.")] = "text",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Serve a load with the real engine and write the request and step tables of a simulated run."""
    from real_runner.layout import Tiers
    from real_runner.serve import write
    from real_runner.target import load_target

    _quiet(device)
    if out.exists():
        raise DsimError("exists already", where=out, remedy="give a folder that does not exist yet")
    rule = read_policy(policy)
    known = None if profile is None else _known(profile, draft, called)
    loaded = load_target(target, device, dtype)
    load = _load(loaded, trace, prompts, requests, output_tokens, seed)
    options = {"temperature": temperature, "seed": seed, "tiers": Tiers() if tiers and device != "cpu" else None, "stop_at_eos": eos}
    if known is not None:
        options |= {"costs": known, "survival": known.survival, "temperatures": known.temperatures}
    engine, report = _serve(loaded, draft, rule, load, None if trace else concurrency, measure, options)
    write(out, engine, name or rule.kind, report)
    if output == "json":
        typer.echo(json.dumps(report | {"tables": str(out)}, indent=2))
        return
    for key in ("requests", "accepted_length", "verified_per_round", "committed_tokens_per_s"):
        value = report[key]
        typer.echo(f"{key:<24}{value:.3f}" if isinstance(value, float) else f"{key:<24}{value}")
    typer.echo(f"{'tables':<24}{out}")


def profile_measure(
    target: TargetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make for the profile; an unfinished one is gone on with.")],
    draft: Annotated[list[str] | None, typer.Option("--draft", help="A drafter, FOLDER or NAME=FOLDER; may be repeated.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on the GPU, in bfloat16 and under captured graphs; the CPU without.")] = False,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompts", help="JSON lines of `turns`, FILE or DOMAIN=FILE; may be repeated [default: our own sets].")
    ] = None,
    prompts_per_domain: Annotated[int, typer.Option("--prompts-per-domain", min=1, help="At most so many of each file.")] = 40,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=2, help="Most tokens of a text that acceptance is measured along.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of the texts and of drafting.")] = 1.0,
    budget: Annotated[str, typer.Option("--budget", help="Time for the cost tables, e.g. 90s, 10m, 1h: it picks the grid.")] = "10m",
    max_requests: Annotated[int | None, typer.Option("--max-requests", min=1, help="Largest batch [default: 256 on a GPU, 32 on a CPU].")] = None,
    max_context: Annotated[int | None, typer.Option("--max-context", min=16, help="Longest context [default: 4096 on a GPU, 1024 on a CPU].")] = None,
    tiers: Annotated[bool | None, typer.Option("--tiers/--no-tiers", help="Pad to captured sizes [default: on a GPU].")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch on a CPU.")] = None,
    target_name: Annotated[str | None, typer.Option("--target-name", help="What reports call the target [default: its folder's name].")] = None,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep texts and raw cells in OUT/work.")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="For people or for machines.")] = "text",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N; --gpu means cuda.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32 or bfloat16 [default: bfloat16 on a GPU, float32 on a CPU].")] = None,
) -> None:
    """Measure step costs and acceptance of a target and its drafters on this machine; interrupt and run again to go on."""
    from real_runner.layout import Tiers
    from real_runner.profile import Acceptance, CostPlan, may_write, measure_profile, named_drafts
    from real_runner.progress import Progress
    from real_runner.target import load_target

    place = device or ("cuda" if gpu else "cpu")
    on_gpu = place.startswith("cuda")
    plan = CostPlan(seconds_of(budget), max_requests or (256 if on_gpu else 32), max_context or (4096 if on_gpu else 1024))
    drafts, sets = named_drafts(draft or []), _prompt_sets(prompts)
    may_write(out)
    _quiet(place)
    _use_threads(threads)
    loaded = load_target(target, place, dtype or ("bfloat16" if on_gpu else "float32"))
    use = Tiers() if (on_gpu if tiers is None else tiers) else None
    acceptance = Acceptance(temperature, prompts_per_domain, max_tokens)
    with _resumable(f"what is measured is kept in {out / 'work'}"):
        made = measure_profile(
            loaded, drafts, sets, out, acceptance=acceptance, costs=plan, tiers=use, seed=seed, command=_command("profile"), keep_work=keep_work,
            target_name=target_name, progress=Progress(quiet=output == "json"),
        )  # fmt: skip
    if output == "json":
        typer.echo(made.model_dump_json(indent=2))
        return
    typer.echo(f"{out}: {len(made.drafters)} drafters, {len(made.suspicious)} suspicious cells; look at it with `dsim profile show {out}`")


def train_draft(
    target: TargetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the drafters, one folder each, and training.json; gone on with where it exists.")],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompts", help="JSON lines of `turns`, FILE or DOMAIN=FILE; may be repeated [default: our own sets].")
    ] = None,
    texts: Annotated[Path | None, typer.Option("--texts", help="Texts said by the target already, instead of prompts.")] = None,
    family: Annotated[list[str] | None, typer.Option("--family", help="dspark, dflash, eagle3 or mtp; may be repeated [default: dspark].")] = None,
    gamma: Annotated[int, typer.Option("--gamma", min=1, help="Tokens drafted in a round; MTP drafts one.")] = 5,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Layers of DSpark and DFlash.")] = 2,
    markov_rank: Annotated[int, typer.Option("--markov-rank", min=1, help="Rank of DSpark's sequential head.")] = 64,
    draft_vocabulary: Annotated[int | None, typer.Option("--draft-vocabulary", min=2, help="Most frequent tokens only; cheaper.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 2000,
    batch_texts: Annotated[int, typer.Option("--batch-texts", min=1, help="Texts in a step.")] = 4,
    batch_anchors: Annotated[int, typer.Option("--batch-anchors", min=1, help="Anchors of each text in a step.")] = 128,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="Highest learning rate.")] = 1e-3,
    text_temperature: Annotated[float, typer.Option("--text-temperature", min=0.0, help="The target's texts are said at this temperature.")] = 0.7,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=2, help="Most tokens of a text.")] = 256,
    held_out: Annotated[int, typer.Option("--held-out", min=2, help="Prompts kept apart, to judge on.")] = 24,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch on a CPU.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="For people or for machines.")] = "text",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Train small drafters for a target: its texts, training, evaluation on held-out prompts. Interrupt and run again to go on."""
    families = _families(family or ["dspark"])
    sets = [] if texts is not None else _prompt_sets(prompts)
    if texts is not None and prompts:
        raise DsimError("both texts and prompts are given", key="texts", remedy="give one of them")
    if (reason := why_not_writable(out)) is not None:
        raise DsimError(f"cannot be written to ({reason})", where=out, key="out", remedy="give a folder you can write to")
    _quiet(device)
    _use_threads(threads)
    from real_runner.progress import Progress
    from real_runner.target import load_target
    from real_runner.train import DraftPlan, TextPlan, make_texts
    from real_runner.train import train_draft as train
    from real_runner.training.loop import Schedule

    progress = Progress(quiet=output == "json")
    plan = DraftPlan(families, gamma, layers, markov_rank, None, draft_vocabulary)
    schedule = Schedule(steps=steps, texts=batch_texts, anchors=batch_anchors, rate=rate, held_out=held_out, seed=seed)
    with _resumable(f"what is done is kept in {out / 'work'}"):
        loaded = load_target(target, device, dtype)
        said = make_texts(loaded, sets, texts, TextPlan(text_temperature, max_tokens, held_out=held_out), seed, out / "work", progress)
        report = train(loaded, out, said, plan, schedule, seed=seed, progress=progress)
    if output == "json":
        typer.echo(json.dumps(report, indent=2))
        return
    for name, one in report["drafters"].items():
        for temperature, seen in one["held_out"].items():
            typer.echo(f"{name:<8} temperature {temperature:<4} accepted length {seen['accepted_length']:.2f} ± {seen['standard_error']:.2f}")
    typer.echo(f"drafters in {out}; measure them: dsim profile --target {target} --draft {out / families[0]} --out profiles/NAME")


def serve_runs(
    models: Path, profile: Profile, runs: list[tuple[str, str | None, VerificationPolicy, int]], serving: list[str], out: Path, quiet: bool
) -> list[Path]:
    """Serves every (policy, drafter, rule, concurrency), and with `rate` or `arrivals` each policy under arrivals in time at its largest
    concurrency; the runs' folders.

    `serving` are KEY=VALUE words: turns, max_tokens, least, temperature, seed, rate (requests/s), arrivals (CSV), open_requests, device, dtype,
    threads, prompts.
    Raises DsimError for what is unknown or does not fit, before anything is served.
    """
    files = [word.removeprefix("prompts=") for word in serving if word.startswith("prompts=")]
    given = _words([word for word in serving if not word.startswith("prompts=")])
    device = given.pop("device", "cpu")
    sets = _prompt_sets(files or None)
    dtype, threads = given.pop("dtype", "bfloat16" if device != "cpu" else "float32"), given.pop("threads", None)
    arrivals = _arrivals(given.pop("arrivals", None), given.pop("rate", 0.0), given.pop("open_requests", 48), given.get("seed", 0))
    temperatures = {profile.blocks(d).temperature for _, d, _, _ in runs if d is not None} - {None}
    given.setdefault("temperature", temperatures.pop() if len(temperatures) == 1 else 1.0)
    if (reason := why_not_writable(out)) is not None:
        raise DsimError(f"cannot be written to ({reason})", where=out, key="out", remedy="give a folder you can write to")
    _quiet(device)
    _use_threads(threads)
    from real_runner.layout import Tiers
    from real_runner.progress import Progress
    from real_runner.runs import Load, Served, serve_all
    from real_runner.target import load_target

    load = Load(**given)
    asked = [Served(*run) for run in runs]
    if arrivals:
        most = {run.policy: run for run in sorted(asked, key=lambda r: r.concurrency)}
        asked += [Served(r.policy, r.drafter, r.rule, r.concurrency, arrivals) for r in most.values()]
    target = load_target(str(models / "target"), device, dtype)
    with _resumable(f"finished runs are kept in {out}"):
        serve_all(target, models, profile, asked, sets, load, out, Tiers() if device != "cpu" else None, Progress(quiet))
    return [out / run.folder for run in asked]


def _arrivals(file: str | None, rate: float, count: int, seed: int) -> tuple[float, ...]:
    """Arrival times from 0 on: the first `count` of a trace, played at `rate` where one is given, else Poisson at `rate`; none without either."""
    from real_runner.prompts import read_trace

    if count < 2:
        raise DsimError(f"{count} requests are no traffic", key="serving.open_requests", remedy="give two or more")
    if file is None:
        return tuple(np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count)).tolist()) if rate > 0 else ()
    times = np.sort([row[0] for row in read_trace(Path(file))])[:count]
    if len(times) < 2 or times[-1] <= times[0]:
        raise DsimError("a segment needs requests at two times at least", where=file, key="serving.arrivals", remedy="give a longer one")
    times = times - times[0]
    if rate > 0:
        times = times * ((len(times) - 1) / rate / times[-1])
    return tuple(times.tolist())


_SERVING: dict[str, type] = {  # words of --serving, and what their values are
    "turns": int, "max_tokens": int, "least": int, "temperature": float, "seed": int, "rate": float, "arrivals": str, "open_requests": int,
    "device": str, "dtype": str, "threads": int,
}  # fmt: skip
_NUMBERS = {int: ("whole number", r"\d+"), float: ("number", r"\d+(\.\d+)?")}


def _words(given: list[str]) -> dict[str, Any]:
    found = {}
    for word in given:
        key, equals, value = word.partition("=")
        if key not in _SERVING or not equals:
            raise DsimError(f"{word!r} is not understood", key="serving", remedy=f"KEY=VALUE with one of prompts, {', '.join(_SERVING)}")
        kind = _SERVING[key]
        name, form = _NUMBERS.get(kind, ("", ".*"))
        if not re.fullmatch(form, value):
            raise DsimError(f"{value!r} is no {name}", key=f"serving.{key}", remedy=f"write a {name}")
        found[key] = kind(value)
    return found


def seconds_of(text: str) -> float:
    """A duration as people write it: 90, 90s, 10m, 1.5h."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if found is None or float(found.group(1)) <= 0:
        raise DsimError(f"{text!r} is no duration", key="budget", remedy="write 90s, 10m or 1h")
    return float(found.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[found.group(2)]


def _prompt_sets(given: list[str] | None) -> list[Any]:
    """Prompt files, read and checked: before the model is loaded."""
    from real_runner.prompts import own_prompt_sets, read_prompt_set

    if not given:
        return [read_prompt_set(file, domain) for domain, file in own_prompt_sets().items()]
    sets = []
    for one in given:
        domain, _, file = one.rpartition("=")
        sets.append(read_prompt_set(Path(file), domain or None))
    return sets


def _families(given: list[str]) -> tuple[Any, ...]:
    known = ("dspark", "dflash", "eagle3", "mtp")
    for one in given:
        if one not in known:
            raise DsimError(f"unknown family {one!r}", key="family", remedy=f"choose of {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def _resumable(said: str) -> Iterator[None]:
    """An interruption ends with a line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {said}; run the same command to go on", err=True)
        raise typer.Exit(130) from None


def _command(name: str) -> str:
    """How this was called, for the record; folders by their last part, so that no machine's paths are kept."""
    words = [word.rpartition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    short = [Path(word).name if word.startswith(("/", "~", "..")) else word for word in words]
    return shlex.join(["dsim", *(short or [name])])


def read_policy(text: str) -> VerificationPolicy:
    """A verification rule from YAML, or just its kind."""
    try:
        given = yaml.safe_load(text)
        rule: VerificationPolicy = TypeAdapter(Verification).validate_python({"kind": given} if isinstance(given, str) else given)
    except yaml.YAMLError as error:
        raise DsimError(f"not YAML: {text!r}", key="policy", remedy="write '{kind: fixed, length: 3}'") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DsimError(f"{first['msg']} in {text!r}", key="policy", remedy="write '{kind: fixed, length: 3}'") from error
    return rule


def _known(folder: Path, draft: str | None, called: str | None) -> Any:
    """Costs, survivals and calibration of a profile's drafter."""
    from real_runner.costs import ProfileCosts
    from simulator.measurements.profile import load_profile

    return ProfileCosts(load_profile(folder), called or (None if draft is None else Path(draft).name))


def _load(target: Any, trace: Path | None, prompts: Path | None, requests: int, output_tokens: int, seed: int) -> list[Any]:
    """The requests: texts in a closed loop, random ids of the right lengths under a trace."""
    from real_runner.prompts import prompts_for, random_prompts, read_trace
    from real_runner.records import Request

    if trace is None:
        return [Request(i, ids, output_tokens) for i, ids in enumerate(prompts_for(target, requests, prompts, seed))]
    rows = read_trace(trace)
    ids = random_prompts(target, [row[1] for row in rows], seed)
    return [Request(i, ids[i], row[2], row[0], row[3]) for i, row in enumerate(rows)]


def _serve(
    target: Any, draft: str | None, rule: VerificationPolicy, load: list[Any], concurrency: int | None, measure: bool, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    from real_runner.costs import measure_costs
    from real_runner.drafters.loading import load_drafter
    from real_runner.engine import Engine
    from real_runner.serve import closed_loop, summary

    drafter = None if draft is None else load_drafter(draft, target)
    slots = concurrency or min(64, len(load))
    blocks = 0 if drafter is None else 2 * (drafter.gamma + drafter.spec.block)
    length = max(len(request.prompt) + request.max_tokens for request in load) + blocks + 2
    if measure and drafter is not None:
        options = {**options, "costs": measure_costs(target, drafter, slots=slots, length=length + 128, tiers=options["tiers"])}
    engine = Engine(target, drafter, rule, slots=slots, length=length, **options)
    begun = time.perf_counter()
    if concurrency is None:
        engine.run(load)
    else:
        closed_loop(engine, load, concurrency)
    report = summary(engine, target, rule.kind, warm_steps=min(3, len(engine.steps) // 2))
    report["temperature"], report["wall_s"] = options["temperature"], time.perf_counter() - begun
    return engine, report


def _quiet(device: str) -> None:
    """Checks the device; no progress bars of transformers in our output."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if device not in ("cpu", "cuda") and not device.startswith("cuda:"):
        raise DsimError(f"unknown device {device!r}", key="device", remedy="cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DsimError("no CUDA device is visible", key="device", remedy="use --device cpu")
    if ":" in device:  # graphs, streams and events are made on the current device
        number = device.partition(":")[2]
        if not number.isdigit() or int(number) >= torch.cuda.device_count():
            raise DsimError(f"no device {device!r}", key="device", remedy=f"there are {torch.cuda.device_count()}, counted from 0")
        torch.cuda.set_device(int(number))
