"""The command line's functions of this package, for typer; torch is imported when one runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from simulator.errors import DsimError
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
    loaded = load_target(target, device, dtype)
    load = _load(loaded, trace, prompts, requests, output_tokens, seed)
    options = {"temperature": temperature, "seed": seed, "tiers": Tiers() if tiers and device != "cpu" else None, "stop_at_eos": eos}
    engine, report = _serve(loaded, draft, rule, load, None if trace else concurrency, measure, options)
    write(out, engine, name or rule.kind, report)
    if output == "json":
        typer.echo(json.dumps(report | {"tables": str(out)}, indent=2))
        return
    for key in ("requests", "accepted_length", "verified_per_round", "committed_tokens_per_s"):
        value = report[key]
        typer.echo(f"{key:<24}{value:.3f}" if isinstance(value, float) else f"{key:<24}{value}")
    typer.echo(f"{'tables':<24}{out}")


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
    costs = measure_costs(target, drafter, slots=slots, length=length + 128, tiers=options["tiers"]) if measure and drafter is not None else None
    engine = Engine(target, drafter, rule, slots=slots, length=length, costs=costs, **options)
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
