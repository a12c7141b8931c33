"""Prompts as token ids: from a file of `turns`, from the few that come along, or, where there is no tokenizer, from the target itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real_runner.records import ServedRequest
from real_runner.target import Target, first_line
from simulator.errors import CheckpointError, DsimError
from simulator.reading.json_files import json_lines

OWN = ("math", "code", "chat")  # the sets that come along


@dataclass(frozen=True, slots=True)
class PromptSet:
    """User turns of one domain, the first of each line of `file`."""

    domain: str
    file: Path
    turns: tuple[str, ...]


def tokenizer_of(target: Target) -> Any | None:
    """The target's tokenizer, None where its folder has none."""
    from transformers import AutoTokenizer

    folder = Path(target.name)
    if folder.is_dir() and not any(file.name.startswith(("tokenizer", "vocab", "spiece")) for file in folder.iterdir()):
        return None  # transformers would make up an empty one
    try:
        return AutoTokenizer.from_pretrained(target.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError):
        return None
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"its tokenizer cannot be read: {first_line(error)}", where=target.name, remedy="copy its files again") from error


def encode(text: str, tokenizer: Any) -> list[int]:
    """One user turn through the chat template where there is one (format §6)."""
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": text}]
        try:
            ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, enable_thinking=False, return_dict=True)["input_ids"]
        except Exception as error:  # whatever a template of the target's does
            raise CheckpointError(f"its chat template fails: {first_line(error)}", where=tokenizer.name_or_path) from error
    else:
        ids = tokenizer(text)["input_ids"]
    return [int(token) for token in ids]


def own_prompt_sets() -> dict[str, Path]:
    """Domain -> file of the few prompts that come along."""
    return {domain: Path(__file__).parent / "prompt_sets" / f"{domain}.jsonl" for domain in OWN}


def read_prompt_set(file: Path, domain: str | None = None) -> PromptSet:
    """Prompts of `domain`, by default the file's name without its ending. Raises DsimError for what is not a JSON-lines file with `turns`."""
    return PromptSet(domain or file.stem, file, tuple(read_turns(file)))


def read_turns(file: Path) -> list[str]:
    """The first turn of each line of a JSON-lines file."""
    turns = [_first_turn(entry, where) for where, entry in json_lines(file, remedy="use a JSON-lines file with `turns`")]
    if not turns:
        raise DsimError("expected at least one prompt", where=file)
    return turns


def _first_turn(entry: dict[str, Any], where: str) -> str:
    turns = entry.get("turns")
    if not isinstance(turns, list) or not turns:
        raise DsimError("expected an object with a list `turns`", where=where, key="turns")
    if not isinstance(turns[0], str) or not turns[0].strip():
        raise DsimError("expected text in the first turn", where=where, key="turns")
    return turns[0]


def encoded(target: Target, sets: Sequence[PromptSet], limit: int | None = None) -> list[tuple[str, int, list[int]]]:
    """Domain, index in its set and ids of every prompt, the first `limit` of each set at most. Raises DsimError without a tokenizer."""
    if (tokenizer := tokenizer_of(target)) is None:
        raise DsimError("the target has no tokenizer", where=target.name, remedy="prompts are text: add the tokenizer's files")
    return [(one.domain, i, encode(turn, tokenizer)) for one in sets for i, turn in enumerate(one.turns[:limit])]


def prompts_for(target: Target, count: int, file: Path | None = None, seed: int = 0) -> list[list[int]]:
    """`count` prompts, repeated from the start where there are fewer; without a file those that come along, domain after domain in turn."""
    tokenizer = tokenizer_of(target)
    if tokenizer is None:
        if file is not None:
            raise DsimError("the target has no tokenizer", where=target.name, remedy="drop --prompts: the target then generates its own")
        return own_words(target, count, seed)
    sets = own_prompt_sets().values() if file is None else [file]
    turns = [turn for row in zip(*map(read_turns, sets), strict=False) for turn in row]
    return [encode(turns[i % len(turns)], tokenizer) for i in range(count)]


def own_words(target: Target, count: int, seed: int, length: int = 24) -> list[list[int]]:
    """What the target says at temperature 1 after a random token: prompts in its own distribution, without a tokenizer."""
    rng = np.random.default_rng(seed)
    return continued(target, [[int(rng.integers(target.vocabulary))] for _ in range(count)], length, seed)


def continued(target: Target, prompts: list[list[int]], tokens: int, seed: int = 0) -> list[list[int]]:
    """Prompts with `tokens` more that the target says at temperature 1."""
    from real_runner.engine import Engine
    from simulator.policies.verification import NoSpeculation

    room = max(map(len, prompts)) + tokens + 2
    engine = Engine(target, None, NoSpeculation(), slots=min(len(prompts), 16), length=room, temperature=1.0, seed=seed, stop_at_eos=False)
    done = engine.run([ServedRequest(i, prompt, tokens) for i, prompt in enumerate(prompts)])
    return [r.prompt + r.output for r in sorted(done, key=lambda r: r.request)]


def random_prompts(target: Target, lengths: list[int], seed: int) -> list[list[int]]:
    """Random ids: right where only the number of tokens matters."""
    ids = torch.randint(target.vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = np.cumsum(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def read_trace(file: Path) -> list[tuple[float, int, int, str]]:
    """Arrival in seconds from the first, prompt and output tokens and domain ("none" without one) of the requests of a trace, in order."""
    from simulator.traffic.traces import TraceSource

    return [(r.arrival_s, r.prompt_tokens, r.output_tokens, r.domain or "none") for r in TraceSource(path=file).load(Path())]
