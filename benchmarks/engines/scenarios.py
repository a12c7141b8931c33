"""From probes to a profile, from the plan to scenarios, to a seal, and from what was measured to its score: all by commands of dsim."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.engines.cells import knee_rps, load_of, measured, seed_of, texts
from benchmarks.engines.models import dsim, paths
from benchmarks.engines.plan import CONTEXT, MODEL, PREFIXED, Condition, Engine
from benchmarks.measure import cpu_model
from simulator.files import whole


def make_profile(engine: Engine, out: Path) -> None:
    """The probes as a profile."""
    folders = sorted(folder for folder in (out / "identify").iterdir() if folder.name != "eos" and any(folder.glob("c*.json")))
    benches = [f"{folder.name.replace('-', ':')}={folder}/c*.json" for folder in folders]  # ngram-prefix: drafter and domain
    about = ["--engine", engine.label, "--hardware", f"{cpu_model()}, one core", "--target", MODEL, "--name", f"{engine.name}-{MODEL.lower()}"]
    bounds = ["--token-budget", engine.budget, "--max-batch", engine.batch]
    dsim("import", engine.importer, "--bench", *benches, *bounds, *about, "--out", out / "profile", "--force")


def seal(engine: Engine, home: Path, out: Path) -> None:
    """Profile, scenarios and the sealed prediction."""
    make_profile(engine, out)
    knee = knee_rps(out)
    files = []
    for condition in engine.conditions:
        lengths, kept = prompt_tokens(engine, condition, home, out, knee)
        answers = answer_tokens(out) if condition.eos else None
        files.append(write_scenario(engine, condition, out, knee, lengths, kept, answers))
    dsim("predict", *(f"{file.stem}={file}" for file in files), "--seal", out / "seal.json")


def score(engine: Engine, out: Path) -> None:
    """What was measured beside what was sealed."""
    about = ["--name", engine.name, "--engine", engine.label, "--hardware", f"{cpu_model()}, one core", "--model", MODEL]
    probes = ["--probes", out / "identify" / "*" / "c*.json"]
    dsim("score", out / "seal.json", out / "measured", *about, *probes, "--out", out / "score.json")


def prompt_tokens(engine: Engine, condition: Condition, home: Path, out: Path, knee: float) -> tuple[list[int], int]:
    """Tokens of each prompt that the client will send, and how many of their common beginning the server has kept."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(paths(home)["target"])
    cells = [cell for cell in measured(engine, out, knee) if cell.folder.parent.name == condition.name and cell.policy == condition.policies[0]]
    templated = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for cell in cells for text in texts(cell)
    ]  # fmt: skip
    tokens = [tokenizer(text).input_ids for text in templated]
    return [len(each) for each in tokens], common(tokens) // engine.block * engine.block if condition.prefix else 0


def common(tokens: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    first, last = min(tokens), max(tokens)
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def answer_tokens(out: Path) -> list[int]:
    """Of the answers of the probe in which they end by themselves."""
    return [length for file in sorted((out / "identify" / "eos").glob("c*.json")) for length in json.loads(file.read_text())["output_lens"]]


def write_scenario(
    engine: Engine, condition: Condition, out: Path, knee: float, prompts: Sequence[int], kept: int, answers: Sequence[int] | None
) -> Path:
    """A scenario for `dsim predict`: the client's flags, and the lengths of its prompts and answers."""
    folder = out / "scenarios"
    arrivals: dict[str, Any] = {"kind": "benchmark", "client": "vllm"}
    arrivals |= {"num_prompts": condition.requests}
    gaps = {"load_flag": "request_rate", "seed": seed_of(engine, condition, condition.loads[0], 1)}  # open loops have one load, measured once
    arrivals |= gaps if condition.knee else {"prompts_per_concurrency": condition.per_user}
    output = empirical(folder, f"{condition.name}-answers", answers) if answers is not None else {"kind": "fixed", "tokens": condition.answers}
    content = {
        "name": f"{engine.name}-{condition.name}",
        "question": f"What will the client print for {engine.label}, condition {condition.name}?",
        "profile": "../profile",
        "policies": [policy_of(engine, name) for name in condition.policies],
        "workload": {
            "arrivals": arrivals,
            "prompt_tokens": empirical(folder, f"{condition.name}-prompts", prompts),
            "output_tokens": output,
            "cached_prompt_tokens": kept,
            "domains": {PREFIXED if condition.prefix else "any": 1},
        },
        "load": [load_of(condition, load, knee) for load in condition.loads],
        "engine": {
            "max_batch": engine.batch,
            "prefill": {"kind": "chunked", "token_budget": engine.budget},
            "max_context_tokens": CONTEXT,
        },
        "run": {"replications": 5},
    }
    with whole(folder / f"{condition.name}.yaml") as draft:
        draft.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return folder / f"{condition.name}.yaml"


def policy_of(engine: Engine, name: str) -> dict[str, Any]:
    """A policy of the plan as scenarios have it."""
    policy = engine.policy(name)
    if not policy.drafter:
        return {"name": name, "verification": {"kind": "none"}}
    return {"name": name, "drafter": policy.drafter, "verification": {"kind": "fixed", "length": policy.length}}


def empirical(folder: Path, name: str, lengths: Sequence[int]) -> dict[str, Any]:
    """Lengths as a column of a file beside the scenario."""
    with whole(folder / f"{name}.csv") as draft:
        draft.write_text("".join(f"{length}\n" for length in ("tokens", *lengths)))
    return {"kind": "empirical", "path": f"{name}.csv", "column": "tokens"}
