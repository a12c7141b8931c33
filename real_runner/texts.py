"""Texts that the target says to prompts, by ordinary decoding: what drafters are trained on and what their blocks are recorded along.

A file of texts is JSON lines `{"prompt": [ids], "output": [ids], "domain": "math", "of": 17}` behind one line that says how they were made.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from real_runner.engine import Engine
from real_runner.progress import Progress
from real_runner.records import Request
from real_runner.target import Target
from simulator.errors import DsimError
from simulator.policies.verification import NoSpeculation

Prompt = tuple[str, int, list[int]]  # domain, index in its set, ids
HEADER = "texts_of"


@dataclass(frozen=True, slots=True)
class Text:
    """Ids of a prompt and of what was said to it, an end of text included; `of` is the prompt's index in its set."""

    prompt: list[int]
    output: list[int]
    domain: str
    of: int


def generate_texts(
    target: Target, prompts: Sequence[Prompt], *, temperature: float, max_tokens: int, slots: int, seed: int, file: Path, progress: Progress
) -> list[Text]:
    """One text for each of `prompts`, in their order; `slots` at a time, each batch with luck of its own and on disk before the next.

    An interrupted run goes on from `file` and ends with the same texts. Raises DsimError where `file` holds texts made otherwise, or where a prompt
    leaves the target no position to answer in; the answer to a long prompt may be shorter than `max_tokens`.
    """
    limits = _limits(target, prompts, max_tokens, progress)
    made = {"target": Path(target.name).name, "dtype": str(target.dtype), "temperature": temperature, "max_tokens": max_tokens, "seed": seed,
            "slots": slots, "prompts": len(prompts), "checksum": zlib.crc32(json.dumps(list(prompts)).encode())}  # fmt: skip
    texts = _begun(file, made, slots)
    with progress.stage(f"texts at temperature {temperature:g}", len(prompts), len(texts)) as stage:
        while len(texts) < len(prompts):
            at = len(texts)
            batch = [Request(i, prompts[i][2], limits[i]) for i in range(at, min(at + slots, len(prompts)))]
            outputs = _decode(target, batch, temperature, _seed_of(seed, at // slots), stage)
            said = [Text(prompts[r.request][2], outputs[r.request], *prompts[r.request][:2]) for r in batch]
            _append(file, [json.dumps(asdict(text)) for text in said])
            texts += said
    return texts


def read_texts(file: Path) -> list[Text]:
    """Texts of `generate_texts`, or given ones without its first line. `domain` may be missing (none), and `of` (the line's place in the file)."""
    texts: list[Text] = []
    for number, line, last in _lines(file):
        given = _object(line, file, number, last)
        if given is None or HEADER in given:
            continue
        prompt, output = given.get("prompt"), given.get("output")
        if not (_ids(prompt) and _ids(output) and prompt):
            raise DsimError("expected lists of token ids `prompt` and `output`", where=f"{file}:{number}", remedy="give texts as token ids")
        texts.append(Text(prompt, output, str(given.get("domain", "none")), int(given.get("of", len(texts)))))
    if not texts:
        raise DsimError("no text in it", where=file)
    return texts


def _decode(target: Target, batch: list[Request], temperature: float, seed: int, stage: Progress) -> dict[int, list[int]]:
    room = max(len(r.prompt) + r.max_tokens for r in batch) + 2
    engine = Engine(target, None, NoSpeculation(), slots=len(batch), length=room, temperature=temperature, seed=seed)
    for request in batch:
        engine.submit(request)
    engine.begin()
    done, more = 0, True
    while more:
        more = engine.step()
        stage.advance(len(engine.finished) - done)
        done = len(engine.finished)
    return {r.request: r.output for r in engine.finished}


def _seed_of(seed: int, batch: int) -> int:
    return int(np.random.SeedSequence((seed, batch)).generate_state(1)[0])


def _limits(target: Target, prompts: Sequence[Prompt], max_tokens: int, progress: Progress) -> list[int]:
    """How many tokens each answer may have within the target's positions."""
    positions = getattr(target.config, "max_position_embeddings", None)
    if positions is None:
        return [max_tokens] * len(prompts)
    limits = [min(max_tokens, positions - len(ids)) for _, _, ids in prompts]
    for (domain, index, ids), limit in zip(prompts, limits, strict=True):
        if limit < 1:
            key = f"{domain} {index}"
            raise DsimError(f"a prompt of {len(ids)} tokens, but the target has {positions} positions", key=key, remedy="leave it out")
    if (short := sum(limit < max_tokens for limit in limits)) > 0:
        progress.say(f"{short} of {len(prompts)} answers may have fewer than {max_tokens} tokens: the target has {positions} positions")
    return limits


def _begun(file: Path, made: dict[str, Any], slots: int) -> list[Text]:
    """The whole batches that are there already; a new file gets its first line."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _append(file, [json.dumps({HEADER: made})])
        return []
    lines = list(_lines(file))
    if not lines or not lines[0][1].endswith("\n"):  # interrupted in its first line
        file.unlink()
        return _begun(file, made, slots)
    before = (_object(lines[0][1], file, 1, lines[0][2]) or {}).get(HEADER, {})
    different = [key for key in made if made[key] != before.get(key)]
    if different:
        key = different[0]
        raise DsimError(f"holds texts with {key} {before.get(key)!r}, now {made[key]!r}", where=file, key=key, remedy="remove it, or write elsewhere")
    whole = [line for _, line, _ in lines[1:] if line.endswith("\n")]
    kept = len(whole) if len(whole) == made["prompts"] else len(whole) // slots * slots
    with file.open("r+b") as there:
        there.truncate(sum(len(line.encode()) for line in (lines[0][1], *whole[:kept])))
    return read_texts(file) if kept else []


def _append(file: Path, lines: list[str]) -> None:
    try:
        with file.open("a", encoding="utf-8", newline="") as there:
            there.write("".join(line + "\n" for line in lines))
            there.flush()
            os.fsync(there.fileno())
    except OSError as problem:
        raise DsimError(f"cannot write ({problem.strerror})", where=file, remedy="free space; what is there is kept") from problem


def _lines(file: Path) -> list[tuple[int, str, bool]]:
    """Number, text with its line end, and whether it is the last."""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="\n") as there:
            lines = there.readlines()
    except OSError as problem:
        raise DsimError(f"cannot be read ({problem.strerror})", where=file, remedy="give a JSON-lines file of texts") from problem
    return [(number, line, number == len(lines)) for number, line in enumerate(lines, 1) if line.strip()]


def _object(line: str, file: Path, number: int, last: bool) -> dict[str, Any] | None:
    """A line's object; None for a last line that was not written to its end."""
    try:
        given = json.loads(line)
    except ValueError as problem:
        if last and not line.endswith("\n"):
            return None
        raise DsimError("not JSON", where=f"{file}:{number}", remedy="expected an object with `prompt` and `output`") from problem
    if not isinstance(given, dict):
        raise DsimError("expected an object with `prompt` and `output`", where=f"{file}:{number}")
    return given


def _ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(token) is int and token >= 0 for token in given)
