"""Prompts as token ids: from a file of `turns`, from the few that come along, or, where there is no tokenizer, from the target itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real_runner.records import Request
from real_runner.target import Target
from simulator.errors import DsimError, TraceError

OWN = (
    "A farmer has 17 sheep and buys twice as many. Wolves take 5. How many are left? Reason step by step.",
    "Write a Python function that returns the n-th Fibonacci number without recursion.",
    "Explain to a ten-year-old why the sky is blue.",
    "A train leaves at 9:40 and arrives at 13:05 after two stops of 7 minutes. How long did it move?",
    "Write a SQL query that lists the three customers with the highest total of orders.",
    "Give me three arguments for and three against working from home.",
    "What is the sum of the first 40 odd numbers? Show how you get there.",
    "Write a function that checks whether brackets in a string are balanced, with a short test.",
)


def tokenizer_of(target: Target) -> Any | None:
    """The target's tokenizer, None where its folder has none."""
    from transformers import AutoTokenizer

    folder = Path(target.name)
    if folder.is_dir() and not any(file.name.startswith(("tokenizer", "vocab", "spiece")) for file in folder.iterdir()):
        return None  # transformers would make up an empty one
    try:
        return AutoTokenizer.from_pretrained(target.name)
    except (OSError, ValueError, KeyError, TypeError, ImportError):
        return None


def encode(text: str, tokenizer: Any) -> list[int]:
    """One user turn through the chat template where there is one (format §6)."""
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, enable_thinking=False, return_dict=True)["input_ids"]
    else:
        ids = tokenizer(text)["input_ids"]
    return [int(token) for token in ids]


def read_turns(file: Path) -> list[str]:
    """The first turn of each line of a JSON-lines file."""
    turns: list[str] = []
    try:
        with file.open(encoding="utf-8") as lines:  # not splitlines: texts hold other line separators
            for number, line in enumerate(lines, 1):
                if line.strip():
                    turns.append(_first_turn(line, file, number))
    except OSError as error:
        raise DsimError("cannot be read", where=file, remedy="give a JSON-lines file with `turns`") from error
    if not turns:
        raise DsimError("no prompt in it", where=file)
    return turns


def _first_turn(line: str, file: Path, number: int) -> str:
    try:
        return str(json.loads(line)["turns"][0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DsimError("expected an object with a list `turns`", where=f"{file}:{number}", key="turns") from error


def prompts_for(target: Target, count: int, file: Path | None = None, seed: int = 0) -> list[list[int]]:
    """`count` prompts, repeated from the start where there are fewer."""
    tokenizer = tokenizer_of(target)
    if tokenizer is None:
        if file is not None:
            raise DsimError("the target has no tokenizer", where=target.name, remedy="leave the prompts away: the target then makes its own")
        return own_words(target, count, seed)
    texts = OWN if file is None else read_turns(file)
    return [encode(texts[i % len(texts)], tokenizer) for i in range(count)]


def own_words(target: Target, count: int, seed: int, length: int = 24) -> list[list[int]]:
    """What the target says at temperature 1 after a random token: prompts in its own distribution, without a tokenizer."""
    luck = np.random.default_rng(seed)
    return continued(target, [[int(luck.integers(target.vocabulary))] for _ in range(count)], length, seed)


def continued(target: Target, prompts: list[list[int]], tokens: int, seed: int = 0) -> list[list[int]]:
    """Prompts with `tokens` more that the target says at temperature 1."""
    from real_runner.engine import Engine
    from simulator.policies.verification import NoSpeculation

    room = max(map(len, prompts)) + tokens + 2
    engine = Engine(target, None, NoSpeculation(), slots=min(len(prompts), 16), length=room, temperature=1.0, seed=seed, stop_at_eos=False)
    done = engine.run([Request(i, prompt, tokens) for i, prompt in enumerate(prompts)])
    return [r.prompt + r.output for r in sorted(done, key=lambda r: r.request)]


def random_prompts(target: Target, lengths: list[int], seed: int) -> list[list[int]]:
    """Random ids: right where only the number of tokens matters."""
    ids = torch.randint(target.vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = np.cumsum(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def read_trace(file: Path) -> list[tuple[float, int, int, str]]:
    """Arrivals of a plain CSV: arrival_s, prompt_tokens, output_tokens and, if there is one, domain."""
    rows = []
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 2):
                try:
                    rows.append((float(row["arrival_s"]), int(row["prompt_tokens"]), int(row["output_tokens"]), row.get("domain") or "none"))
                except (KeyError, TypeError, ValueError) as error:
                    raise TraceError(
                        "expected arrival_s, prompt_tokens, output_tokens", where=f"{file}:{number}", remedy="give a CSV with these columns"
                    ) from error
    except OSError as error:
        raise TraceError("cannot be read", where=file) from error
    if not rows:
        raise TraceError("no request in it", where=file)
    return rows
