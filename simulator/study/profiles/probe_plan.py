"""What `dsim probe` measures, from its options."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from secrets import randbits
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.endpoint import Server
from simulator.measurements.formats.reading import Part
from simulator.names import check_word
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text
from simulator.schema import validate

PROMPTS = (
    "Explain how a bicycle stays upright when it is moving.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "List the steps to bake bread at home, with times and temperatures.",
    "What are the main differences between a virus and a bacterium?",
    "Describe the water cycle to a ten-year-old child.",
    "Write a Python function that returns the prime numbers below n, and explain it.",
    "Summarise the causes of the French Revolution in plain words.",
    "Compare trains and aeroplanes for a journey of six hundred kilometres.",
)


ENOUGH = 4  # levels, from which on one is kept out of the fit unasked
MOST_USERS = 4096  # threads of this process
MOST_LETTERS = 1_000_000  # of a prompt


@dataclass(frozen=True)
class ProbePlan:
    """What to measure: numbers of users to fit and to check, measured answers per user, and levels that may be added."""

    server: Server
    prompts: tuple[str, ...]
    concurrency: tuple[int, ...]
    check: tuple[int, ...]
    turns: int
    refine: int = 0
    seed: int = 0  # of what prompts begin with
    label: str = ""
    drafter: str = "drafter"

    @classmethod
    def of(
        cls, server: Server, prompts: Path | None, concurrency: str, check: str, turns: int, refine: int = 0, *,
        seed: int | None = None, label: str = "", drafter: str = "drafter",
    ) -> ProbePlan:  # fmt: skip
        """A plan from the command's options; without a seed another one at every call. With ENOUGH levels and none to check, one in the middle is
        checked. Raises DsimError."""
        if not _is_url(server.base_url):
            shown = server.base_url.rpartition("@")[2]  # without a password
            raise DsimError(f"expected a URL such as http://127.0.0.1:8000/v1, got '{shown}'", key="--base-url")
        grid, apart = _counts(concurrency, "--concurrency"), _counts(check, "--check") if check else ()
        if len(grid) < 2:
            raise DsimError("expected at least two numbers of users", key="--concurrency", remedy="give two that differ by half or more")
        if set(grid) & set(apart):
            raise DsimError("has a number of users that --concurrency fits", key="--check", remedy="check at other numbers")
        if label:
            check_word(label, "--label")
        check_word(drafter, "--drafter", file=True)
        if not apart and len(grid) >= ENOUGH:
            apart = (grid[len(grid) // 2],)
            grid = tuple(users for users in grid if users not in apart)
        seed = randbits(32) if seed is None else seed
        return cls(server, _read_prompts(prompts), grid, apart, turns, refine, seed, label, drafter)

    def fresh(self, users: int, attempt: int) -> Callable[[int, int], str]:
        """How prompts begin at a level: other words for every request, level, attempt, label and seed, so that no request has a prefix of another."""

        def words(user: int, turn: int) -> str:
            name = f"{self.seed} {self.label} {users} {attempt} {user} {turn}"
            return f"{sha256(name.encode()).hexdigest()[:12]} "

        return words


def read_extra(text: str) -> dict[str, Any]:
    """More fields of a request's JSON. Raises DsimError."""
    remedy = """for example '{"temperature": 0}'"""
    fields = parse_json(text, "--extra", remedy=remedy)
    if not isinstance(fields, dict):
        raise DsimError("expected a JSON object", key="--extra", remedy=remedy)
    return fields


def read_headers(lines: Sequence[str], key: str | None) -> dict[str, str]:
    """Headers of every request from lines of "Name: value", and the server's key where they hold no other. What they hold is not in any error.
    Raises DsimError."""
    headers = {"Authorization": _sendable(f"Bearer {key.strip()}", "OPENAI_API_KEY")} if key and key.strip() else {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not value.strip():
            raise DsimError("expected 'Name: value'", key="--header", remedy="for example --header 'X-Api-Key: …'")
        others = {known: at for known, at in headers.items() if known.lower() != name.lower()}
        headers = others | {name: _sendable(value.strip(), "--header")}
    return headers


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False


def _sendable(value: str, key: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise DsimError("expected printable ASCII characters on one line", key=key)
    return value


def _counts(text: str, key: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\s*[1-9][0-9]{0,8}(\s*,\s*[1-9][0-9]{0,8})*\s*", text):
        raise DsimError(f"expected whole numbers above 0 such as 1,2,4,8, got {shown(text)}", key=key)
    counts = sorted({int(part) for part in text.split(",")})
    if counts[-1] > MOST_USERS:
        raise DsimError(f"expected at most {MOST_USERS} users, got {counts[-1]}", key=key, remedy="one machine cannot send for more")
    return tuple(counts)


class _Prompt(Part):
    prompt: Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]


def _read_prompts(path: Path | None) -> tuple[str, ...]:
    """One prompt per line, or JSON lines with a key `prompt`. Raises DsimError with file and line."""
    if path is None:
        return PROMPTS
    prompts = []
    for number, line in enumerate(StringIO(read_text(path), newline=""), 1):
        if line.strip():
            where = f"{path}:{number}"
            content = parse_json(line, where) if path.suffix in (".jsonl", ".json") else {"prompt": line.strip()}
            if not isinstance(content, dict):
                raise DsimError("expected an object with a text 'prompt' on every line", where=where, key="--prompts")
            prompts.append(validate(_Prompt, content, where, DsimError).prompt)
    if not prompts:
        raise DsimError("has no prompts", where=path, key="--prompts")
    return tuple(prompts)
