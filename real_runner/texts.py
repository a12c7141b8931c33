"""Texts that the target says by ordinary decoding, kept in a file as they are made: what blocks are recorded along and drafters are trained on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from real_runner.engine import Engine
from real_runner.failures import same_options
from real_runner.records import ServedRequest
from real_runner.target import Target
from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.policies.verification import NoSpeculation
from simulator.progress import Progress
from simulator.reading.json_files import parse_json
from simulator.reading.opening import opened
from simulator.rng import stream

HEADER = "texts_of"  # the key by which a file's first line is known to describe the others
MOST_ID = 1 << 31
Prompt = tuple[str, int, list[int]]  # domain, its number in the prompt set, token ids


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids of a prompt and of what the target said to it, an end-of-text token included where it came to one."""

    prompt: list[int]
    output: list[int]
    domain: str = "none"
    of: int = 0  # the prompt's number in its set


@dataclass(frozen=True, slots=True)
class Words:
    """How a target's tokenizer reads text as it stands, without a chat template, and the token that ends a text."""

    encode: Callable[[str], list[int]]
    end: int | None


def generate_texts(
    target: Target, prompts: Sequence[Prompt], *, temperature: float, max_tokens: int, slots: int, seed: int, file: Path, progress: Progress
) -> list[Text]:
    """One text for each prompt, in their order, `slots` at a time. Each batch is appended to `file` and has random draws of its own: a resumed
    run gives what an undisturbed one gives. `max_tokens` is cut short where the target has no more positions.

    Raises DsimError where a prompt leaves no room for two tokens, or where `file` holds the texts of another run.
    """
    if max_tokens < 2 or slots < 1:
        raise DsimError(f"got {max_tokens} tokens and {slots} slots", key="max_tokens", remedy="expected at least 2 tokens and 1 slot")
    room = [_room(target, prompt, max_tokens) for prompt in prompts]
    about = {
        HEADER: Path(target.name).name, "weights": mark(target), "dtype": str(target.dtype).removeprefix("torch."), "temperature": temperature,
        "max_tokens": max_tokens, "seed": seed, "slots": slots, "prompts": digest(json.dumps([[d, i, ids] for d, i, ids in prompts]).encode()),
    }  # fmt: skip
    texts = _kept(file, about, slots, len(prompts))
    with progress.stage("texts", len(prompts), len(texts)) as stage:
        for at in range(len(texts), len(prompts), slots):
            batch_seed = int(stream(seed, "texts", at // slots).integers(2**63))
            answers = _say(target, prompts[at : at + slots], room[at : at + slots], temperature, batch_seed, stage)
            _append(file, answers)
            texts += answers
    return texts


def read_texts(file: Path, words: Words | None = None) -> list[Text]:
    """Texts of `generate_texts`, or given ones: JSON lines with `prompt` and `output` (or `completion`), `domain` and `of` where there are any. Both
    are token ids, or text that `words` encodes; a `finish_reason` of "stop" says that the target ended it."""
    texts = _read(file, words)[1]
    if not texts:
        raise DsimError("expected at least one text", where=file, key="texts", remedy="give JSON lines with `prompt` and `output`")
    return texts


def must_be_said_by(target_vocabulary: int, texts: Iterable[Text]) -> None:
    """Raises DsimError where a text holds a token that a target of this vocabulary does not have."""
    if (highest := max(max(*text.prompt, *text.output) for text in texts)) >= target_vocabulary:
        raise DsimError(f"token {highest}, but the target has {target_vocabulary}", key="texts", remedy="give texts of this target")


def _room(target: Target, prompt: Prompt, max_tokens: int) -> int:
    """Tokens that may be said to a prompt."""
    domain, index, ids = prompt
    positions = getattr(target.config, "max_position_embeddings", None)
    room = max_tokens if positions is None else min(max_tokens, positions - len(ids))
    if room < 2:
        raise DsimError(f"{len(ids)} tokens, but the target has {positions} positions", key=f"prompt {index} of {domain}", remedy="leave it out")
    return room


def _say(target: Target, prompts: Sequence[Prompt], room: list[int], temperature: float, seed: int, stage: Progress) -> list[Text]:
    length = max(len(ids) + tokens for (_, _, ids), tokens in zip(prompts, room, strict=True)) + 1
    engine = Engine(target, None, NoSpeculation(), slots=len(prompts), length=length, temperature=temperature, seed=seed)
    for number, (_, _, ids) in enumerate(prompts):
        engine.submit(ServedRequest(number, ids, room[number]))
    reported, more = 0, True
    while more:
        more = engine.step()
        stage.advance(len(engine.finished) - reported)
        reported = len(engine.finished)
    done = sorted(engine.finished, key=lambda r: r.request)
    return [Text(request.prompt, request.output, domain, index) for request, (domain, index, _) in zip(done, prompts, strict=True)]


def _append(file: Path, texts: list[Text]) -> None:
    """On disk before more is said."""
    try:
        with file.open("a", encoding="utf-8") as lines:
            lines.write("".join(json.dumps(asdict(text)) + "\n" for text in texts))
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as problem:
        raise DsimError(f"cannot write ({problem.strerror})", where=file, remedy="free space; finished batches are kept") from problem


def _kept(file: Path, about: dict[str, Any], slots: int, wanted: int) -> list[Text]:
    """What a run before made, in whole batches; the file then holds just that, or the header alone."""
    texts: list[Text] = []
    if file.exists():
        header, texts = _read(file)
        if header is None and texts:
            raise DsimError("holds texts from elsewhere", where=file, remedy="give another file")
        if header is not None:
            same_options(header, about, "unfinished texts", file)
    if len(texts) < wanted:
        texts = texts[: len(texts) // slots * slots]
        write_whole(file, "".join(json.dumps(line) + "\n" for line in (about, *map(asdict, texts))))
    return texts


def _read(file: Path, words: Words | None = None) -> tuple[dict[str, Any] | None, list[Text]]:
    """Header, where there is one, and texts; a last line that was cut off while it was written is passed over."""
    header, texts, remedy = None, [], "give JSON lines with `prompt` and `output`"
    with opened(file, remedy=remedy) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = parse_json(line, f"{file}:{number}", remedy=remedy)
            except DsimError:
                if not line.endswith("\n"):
                    break
                raise
            if number == 1 and isinstance(entry, dict) and HEADER in entry:
                header = entry
            else:
                texts.append(_text(entry, f"{file}:{number}", len(texts), words))
    return header, texts


def _text(entry: Any, where: str, number: int, words: Words | None) -> Text:
    entry = dict(entry) if isinstance(entry, dict) else {}
    if "output" not in entry and "completion" in entry:
        entry["output"] = entry["completion"]
    for key in ("prompt", "output"):
        ids = entry.get(key)
        if isinstance(ids, str):
            if words is None:
                raise DsimError("expected token ids, got text", where=where, key=key, remedy="give a list of ids")
            entry[key] = ids = words.encode(ids)
        if not isinstance(ids, list) or not ids or any(type(one) is not int or not 0 <= one < MOST_ID for one in ids):
            raise DsimError(f"expected a list of token ids from 0 to {MOST_ID - 1}", where=where, key=key)
    if entry.get("finish_reason") == "stop" and words is not None and words.end is not None and entry["output"][-1] != words.end:
        entry["output"] = [*entry["output"], words.end]
    of, domain = entry.get("of", number), entry.get("domain", "none")
    if type(of) is not int or not 0 <= of < MOST_ID:
        raise DsimError(shown(of), where=where, key="of", remedy="expected the prompt's number in its set")
    if not isinstance(domain, str) or len(domain) > 200:
        raise DsimError(shown(domain), where=where, key="domain", remedy="expected a name of at most 200 characters")
    return Text(entry["prompt"], entry["output"], domain, of)


def mark(target: Target) -> str:
    """Tells weights apart that bear the same name."""
    return digest(target.head.weight[:64].float().cpu().numpy().tobytes())


def digest(content: bytes) -> str:
    """Of what must be the same when unfinished work goes on."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()
