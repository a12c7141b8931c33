"""A seal: predictions of what will be measured, in one file that cannot be changed unseen. What it holds, its digest, and how it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from simulator.errors import DsimError
from simulator.reading.json_files import read_json
from simulator.study.run.facts import Source
from simulator.study.run.metrics import Verdict
from simulator.study.run.record import Document, Record, ShortText, distinct, known
from simulator.study.sealed.numbers import NUMBERS
from simulator.traffic.benchmark import Client

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SHOWN = 12  # characters of a digest that tables show
NOT_STATED = "not stated"  # of a profile that does not say its hardware, engine or target


class SealedNumber(Record):
    """A prediction and its 90 % interval, null where there is none."""

    value: PositiveFloat
    low: NonNegativeFloat | None = None
    high: NonNegativeFloat | None = None

    def holds(self, measured: float) -> bool | None:
        """Is a measurement within the interval? None where there is none."""
        return None if self.low is None or self.high is None else self.low <= measured <= self.high


class SealedCell(Record):
    """One policy at one load: its numbers by name, how many requests the client sends, and the mean tokens of a prompt and of an answer."""

    policy: ShortText
    load: PositiveFloat
    verdict: Verdict
    requests: NonNegativeFloat
    prompt_tokens: NonNegativeFloat
    output_tokens: NonNegativeFloat
    numbers: dict[str, SealedNumber]

    @model_validator(mode="after")
    def _known_numbers(self) -> Self:
        known("numbers", self.numbers, NUMBERS)
        return self


class SealedPolicy(Record):
    """A policy: its drafter and rule, and whether an engine can run it without loss."""

    name: ShortText
    drafter: ShortText | None
    rule: str
    choosable: bool


class SealedProfile(Record):
    """What was simulated, with a digest of the profile's files."""

    name: ShortText
    hardware: str
    engine: str
    target: str
    sha256: Sha256
    provenance: tuple[Source, ...]

    @property
    def llama_cpp(self) -> bool:
        """Is its engine llama.cpp, which has a limit of its own on the board, and streams every token by itself?"""
        return "llama.cpp" in self.engine.lower()


class RankedAt(Record):
    """Policies at a load, the fastest first."""

    load: PositiveFloat
    policies: tuple[str, ...]


class Crossing(Record):
    """Where two policies are equally fast: `first` is ahead below this load, `second` above it."""

    first: ShortText
    second: ShortText
    load: PositiveFloat


class ChoiceAt(Record):
    """The policy to run at a load."""

    load: PositiveFloat
    policy: ShortText


class ChoiceFor(Record):
    """The policy to run at a promised per-user speed, and what it delivers there."""

    tps_per_user: PositiveFloat
    policy: ShortText
    throughput_tok_s: PositiveFloat


class Knee(Record):
    """The load of a policy with the largest throughput × per-user speed, and both there."""

    policy: ShortText
    load: PositiveFloat
    throughput_tok_s: PositiveFloat
    tps_per_user: PositiveFloat


class Decisions(Record):
    """What follows from the cells of a condition."""

    ranking: tuple[RankedAt, ...]
    crossings: tuple[Crossing, ...]
    recommended: tuple[ChoiceAt, ...]
    recommended_overall: str  # empty where policies have no load in common
    promises: tuple[ChoiceFor, ...]
    knees: tuple[Knee, ...]


class Condition(Record):
    """A scenario with its predictions. `inputs_sha256` is of all files that the numbers depend on. `held_to`: the most requests
    in flight of a client that sends at a rate, None for any number; `burstiness` is that of its arrivals."""

    name: Annotated[ShortText, Field(min_length=1)]
    file: ShortText
    text: str
    sha256: Sha256
    overrides: tuple[str, ...]
    profile: SealedProfile
    inputs_sha256: Sha256
    client: Client
    load_kind: Literal["concurrency", "rate_rps"]
    held_to: PositiveInt | None = None
    burstiness: PositiveFloat = 1.0
    replicas: PositiveInt
    seed: NonNegativeInt
    replications: PositiveInt
    baseline: ShortText
    description: tuple[str, ...]
    policies: tuple[SealedPolicy, ...]
    cells: tuple[SealedCell, ...]
    decisions: Decisions

    @model_validator(mode="after")
    def _cells_once(self) -> Self:
        distinct("cells", ((cell.policy, cell.load) for cell in self.cells))
        known("cells", (cell.policy for cell in self.cells), {policy.name for policy in self.policies})
        return self

    @property
    def choosable(self) -> set[str]:
        """Policies that a decision may name."""
        return {policy.name for policy in self.policies if policy.choosable}

    def cell(self, policy: str, load: float) -> SealedCell | None:
        """The cell of a policy at a load, which files may have rounded."""
        return next((cell for cell in self.cells if cell.policy == policy and abs(cell.load / load - 1) < 1e-3), None)


class Seal(Document):
    """All of a seal. `code` is a digest of the modules that make numbers, `commit` that of a clone (with + where it has changes)."""

    kind: Literal["seal"] = "seal"
    dsim_version: ShortText
    commit: ShortText
    code: ShortText
    sealed_at: ShortText  # UTC
    numbers: dict[str, str]  # what each is
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=1000)]
    digest: Sha256

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        distinct("conditions", (condition.name for condition in self.conditions))
        return self

    def condition(self, name: str) -> Condition | None:
        """The condition of that name."""
        return next((condition for condition in self.conditions if condition.name == name), None)


def alike(one: str, other: str) -> bool:
    """May two names be of one model, engine or machine: is one within the other, folders, signs and case apart?"""
    first, second = (re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower()) for name in (one, other))
    return first in second or second in first


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON (keys sorted, no spaces, UTF-8) of all but the digest itself."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def files_sha256(files: Mapping[str, bytes]) -> str:
    """Of files by name: over a line `SHA-256 NAME` of each, names sorted, as `sha256sum` prints them."""
    return sha256("".join(f"{sha256(content)}  {name}\n" for name, content in sorted(files.items())).encode())


def read_seal(path: Path) -> Seal:
    """Raises DsimError where it is no seal, or its digest is not that of what it holds."""
    content = read_json(path, remedy="make a seal with dsim predict --seal")
    if content.get("kind") != "seal" or not isinstance(content.get("digest"), str):
        raise DsimError("is not a seal", where=path, remedy="make one with dsim predict SCENARIO --seal FILE")
    if (held := digest_of(content)) != content["digest"]:
        problem = f"was changed after it was sealed: expected what has digest {content['digest'][:SHOWN]}…, got {held[:SHOWN]}…"
        raise DsimError(problem, where=path, key="digest", remedy="use the file as dsim predict wrote it")
    return Seal.from_json(content, path)
