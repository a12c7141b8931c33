"""SGLang's DSpark files, read and written: the SPS table (sampled and additive), the STS calibration, the dump of decode steps.

Forms as in sgl-project/sglang at 45b76f5 (speculative/dspark_components/dspark_sps.py), 9e16e2d (dspark_sts.py) and 0b79ccf
(dspark_observability.py, DecodeStepRecord and ReqDetail). Long because four files are described and checked here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.reading import MOST_PROBES, Count, Document, Line, Part, Probes, StepMilliseconds, read_document
from simulator.quantities import MOST_SLOTS, Calibration, Gamma, Share, Slots, Tokens, Within

MOST_CELLS = 100_000  # of a table by requests and tokens
MOST_VALUES = 20_000_000  # confidences and lengths of recorded blocks: 160 MB
UNCENSORED = ("static", "cap-accept")
_EDGE = 5e-5  # confidences are dumped with four digits


@dataclass(frozen=True)
class SampledSps:
    """Steps per second of whole steps by tokens in the step; looked up at the next probe below."""

    tokens: list[float]
    steps_per_s: list[float]
    max_tokens: int


@dataclass(frozen=True)
class AdditiveSps:
    """Step time = bias + alpha(requests) + theta(tokens), seconds, interpolated between probes and held outside."""

    bias_s: float
    requests: list[float]
    alpha_s: list[float]
    tokens: list[float]
    theta_s: list[float]

    def seconds(self, requests: float, tokens: float) -> float:
        """Time of a step."""
        return self.bias_s + float(np.interp(requests, self.requests, self.alpha_s)) + float(np.interp(tokens, self.tokens, self.theta_s))


@dataclass(frozen=True)
class StepTime:
    """Median time of the steps of one shape."""

    requests: int
    tokens: int
    seconds: float
    p10_s: float
    p90_s: float
    n: int


@dataclass(frozen=True)
class StepDump:
    """What a dump of decode steps holds: rounds of requests as recorded blocks, and step times by shape where they were taken."""

    blocks: RecordedBlocks | None
    times: list[StepTime]


Rates = Annotated[list[Annotated[float, Within(1e-3, 1e7, "steps per second")]], Field(min_length=1, max_length=MOST_PROBES)]
Shares = Annotated[list[Annotated[float, Within(-1000, 1000, "seconds")]], Field(min_length=1, max_length=MOST_PROBES)]


class _Sampled(Part):
    sample_batch_tokens: Probes
    sample_steps_per_sec: Rates
    max_batch_tokens: Tokens


class _Additive(Part):
    bias_seconds: Annotated[float, Within(1e-9, 1000, "seconds")]
    bs_probes: Probes
    alpha_seconds: Shares
    m_probes: Probes
    theta_seconds: Shares


class _Calibration(Part):
    temperatures: Annotated[list[Calibration], Field(min_length=1, max_length=MOST_SLOTS)]


class _Request(Part):
    rid: Line | None = None
    req_pool_index: Count | None = None
    prefix_len: Annotated[int, Within(0, 1e8, "tokens")]
    correct_drafts: Slots
    confidence: Annotated[list[Share], Field(max_length=MOST_SLOTS)] | None = None


class _Step(Part):
    forward_ct: Count
    num_running_reqs: Annotated[int, Within(0, 1e5, "requests")] | None = None
    num_verify_tokens: Annotated[int, Within(0, 1e8, "tokens")] | None = None
    step_cpu_ms: StepMilliseconds | None = None
    step_gpu_ms: StepMilliseconds | None = None
    reqs: Annotated[list[_Request], Field(fail_fast=True)] | None = None


class _Dump(Part):
    gamma: Gamma
    mode: Line = ""
    simulate_acc_len: Annotated[float, Within(0, 1000, "tokens")] | None = None  # SGLANG_SIMULATE_ACC_LEN, with which step times are profiled
    records: Annotated[list[_Step], Field(min_length=1, fail_fast=True)]


def read_sps(path: Path) -> SampledSps | AdditiveSps:
    """An SPS table of either form; the additive one is known by its bias. Raises DsimError with file and field."""
    document = read_document(path, "bias_seconds", "sample_batch_tokens")
    if document.content.get("bias_seconds") is None:
        sampled = document.read(_Sampled)
        tokens = sampled.sample_batch_tokens
        _same_length(document, "sample_steps_per_sec", sampled.sample_steps_per_sec, tokens)
        if sampled.max_batch_tokens < tokens[-1]:
            problem = f"expected at least the largest probe, {tokens[-1]:g}, got {sampled.max_batch_tokens}"
            raise document.fail("max_batch_tokens", problem)
        if len(tokens) < 2:
            raise document.fail("sample_batch_tokens", "expected two probes or more, got SGLang's flat stand-in", "profile the server first")
        return SampledSps(tokens, sampled.sample_steps_per_sec, sampled.max_batch_tokens)
    table = document.read(_Additive)
    _same_length(document, "alpha_seconds", table.alpha_seconds, table.bs_probes)
    _same_length(document, "theta_seconds", table.theta_seconds, table.m_probes)
    if table.bias_seconds + min(table.alpha_seconds) + min(table.theta_seconds) <= 0:
        raise document.fail("bias_seconds", "the table has steps that take no time", "profile the server again")
    if (cells := len(table.bs_probes) * len(table.m_probes)) > MOST_CELLS:
        raise document.fail("m_probes", f"expected at most {MOST_CELLS:,} pairs of requests and tokens, got {cells:,}", "drop probes")
    return AdditiveSps(table.bias_seconds, table.bs_probes, table.alpha_seconds, table.m_probes, table.theta_seconds)


def _same_length(document: Document, key: str, values: Sequence[float], probes: Sequence[float]) -> None:
    if len(values) != len(probes):
        raise document.fail(key, f"expected {len(probes)} numbers, one for each probe, got {len(values)}")


def read_sts(path: Path) -> list[float]:
    """The temperatures of a calibration, one per position. Raises DsimError with file and field."""
    return read_document(path, "temperatures").read(_Calibration).temperatures


def read_step_records(path: Path, drafter: str) -> StepDump:
    """A dump of decode steps: `dspark_info_record` of /server_info, alone or within the whole answer (one entry per rank).

    A dump holds the rounds that were run, not every anchor. Anchors that a request passed over within an accepted block were never drafted
    from: they repeat the round before them, so a request that verifies whole blocks meets exactly the recorded rounds. Domains and acceptance
    probabilities are not in a dump. Only runs that verified whole blocks are read: where verification was cut, what would have been accepted
    beyond the cut is not known. Nor are rounds of simulated acceptance; step times are. Raises DsimError with file and field.
    """
    documents = _dumps(read_document(path, "internal_states", "dspark_info_record", "records"))
    dumps = [document.read(_Dump) for document in documents]
    if len({(dump.gamma, dump.mode) for dump in dumps}) > 1:
        raise documents[0].fail("gamma", "ranks disagree", "use the dump of one server")
    rounds: dict[tuple[int, str], list[_Round]] = {}
    for rank, (document, dump) in enumerate(zip(documents, dumps, strict=True)):
        _add_rounds(rounds, rank, document, dump)
    steps = [step for dump in dumps for step in dump.records]
    return StepDump(_blocks(rounds, dumps[0].gamma, drafter, path, dumps[0].mode) if rounds else None, _times(steps))


def _dumps(document: Document) -> list[Document]:
    """A dump of every data-parallel rank that has steps: an idle one has no records, or no dump."""
    key, states = "dspark_info_record", document.content.get("internal_states")
    if states is None:
        return [document.inner(key, document.content[key]) if document.content.get(key) is not None else document]
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise document.fail("internal_states", "expected a list of objects")
    dumps = [document.inner(f"internal_states.{rank}.{key}", state[key]) for rank, state in enumerate(states) if state.get(key)]
    busy = [dump for dump in dumps if dump.content.get("records") != []]
    if not busy:
        remedy = "start the server with SGLANG_DSPARK_DEBUG_DUMP=core,step_cpu_time,reqs, and ask after some traffic"
        raise document.fail("internal_states", f"none of {len(states)} ranks has step records", remedy)
    return busy


@dataclass(frozen=True)
class _Round:
    order: int
    prefix: int
    accepted: int
    confidence: list[float] | None


def _add_rounds(requests: dict[tuple[int, str], list[_Round]], rank: int, document: Document, dump: _Dump) -> None:
    """Rounds of every request in the order of its steps. Raises DsimError where they are not whole blocks, or go back."""
    for at, step in enumerate(dump.records):
        for number, request in enumerate(step.reqs or []):
            here = f"records.{at}.reqs.{number}"
            if dump.mode not in UNCENSORED:
                remedy = "record with SGLANG_RAGGED_VERIFY_MODE=static or cap-accept"
                raise DsimError(f"blocks were cut before verification (mode {shown(dump.mode)})", where=document.where, key="mode", remedy=remedy)
            if dump.simulate_acc_len:
                problem = f"acceptance was simulated, {dump.simulate_acc_len:g} tokens a round"
                raise document.fail("simulate_acc_len", problem, "restart the server without SGLANG_SIMULATE_ACC_LEN, or dump no reqs")
            if request.correct_drafts > dump.gamma:
                raise document.fail(f"{here}.correct_drafts", f"expected 0 … {dump.gamma}, got {request.correct_drafts}")
            if request.confidence is not None and len(request.confidence) != dump.gamma:
                raise document.fail(f"{here}.confidence", f"expected {dump.gamma} probabilities, got {len(request.confidence)}")
            if request.rid is None and request.req_pool_index is None:
                raise document.fail(f"{here}.rid", "is missing", "dump the steps again")
            name = request.rid if request.rid is not None else f"slot {request.req_pool_index}"
            rounds = requests.setdefault((rank, name), [])
            rounds.append(_Round(step.forward_ct, request.prefix_len, request.correct_drafts, request.confidence))
    for (_, name), rounds in requests.items():
        rounds.sort(key=lambda r: (r.order, r.prefix))
        for before, after in pairwise(rounds):
            if after.prefix < before.prefix and not name.startswith("slot "):  # a slot is used again
                problem = f"request {shown(name)} has {after.prefix} tokens at step {after.order}, after {before.prefix} at step {before.order}"
                raise document.fail("records", problem, "use the dump of one run")


def _blocks(rounds: dict[tuple[int, str], list[_Round]], gamma: int, drafter: str, path: Path, mode: str) -> RecordedBlocks:
    """Every round stands for the anchors that it advanced over. Raises DsimError."""
    every = [r for mine in rounds.values() for r in mine]
    heads = {r.confidence is not None for r in every}
    if len(heads) > 1:
        raise DsimError("some rounds have confidences and some have none", where=path, key="reqs.confidence", remedy="use the dump of one run")
    repeats = np.array([r.accepted + 1 for r in every])
    if (values := int(repeats.sum()) * (1 + gamma * (heads == {True}))) > MOST_VALUES:
        raise DsimError(f"expected at most {MOST_VALUES:,} recorded values, got {values:,}", where=path, key="records", remedy="drop steps")
    length = np.array([sum(r.accepted + 1 for r in mine) for mine in rounds.values()])
    accepted = np.repeat(np.array([r.accepted for r in every]), repeats)
    confidence = None
    if heads == {True}:
        table = np.array([r.confidence for r in every], dtype=np.float64)
        confidence = np.repeat(np.clip(table, _EDGE, 1 - _EDGE), repeats, axis=0)
    source = f"SGLang step records ({path.name}, mode {mode}): {len(every)} rounds of {len(rounds)} requests; anchors within a block repeat its round"
    return RecordedBlocks(
        drafter=drafter, gamma=gamma, temperature=None, provenance="imported", source=source, domains=("any",),
        sequence_domain=np.zeros(len(length), dtype=np.int64), first_row=np.cumsum(length) - length, length=length,
        accepted=accepted, confidence=confidence,
    )  # fmt: skip


def _times(steps: Sequence[_Step]) -> list[StepTime]:
    """Step times by shape, of the steps that have one."""
    shapes: dict[tuple[int, int], list[float]] = {}
    for step in steps:
        ms = step.step_cpu_ms if step.step_cpu_ms is not None else step.step_gpu_ms
        if ms is not None and step.num_running_reqs and step.num_verify_tokens:  # an idle rank's step has neither
            shapes.setdefault((step.num_running_reqs, step.num_verify_tokens), []).append(ms / 1e3)
    times = []
    for (requests, tokens), seconds in sorted(shapes.items()):
        p10, p50, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
        times.append(StepTime(requests, tokens, p50, p10, p90, len(seconds)))
    return times


def sampled_sps_json(tokens: Sequence[int], seconds: Sequence[float]) -> str:
    """A sampled SPS table as SGLang loads it."""
    rates = [1 / s for s in seconds]
    return json.dumps({"sample_batch_tokens": list(tokens), "sample_steps_per_sec": rates, "max_batch_tokens": max(tokens)}) + "\n"


def additive_sps_json(table: AdditiveSps) -> str:
    """An additive SPS table as SGLang loads it."""
    probes = {"bs_probes": [int(r) for r in table.requests], "m_probes": [int(t) for t in table.tokens]}
    values = {"bias_seconds": table.bias_s, "alpha_seconds": table.alpha_s, "theta_seconds": table.theta_s}
    return json.dumps(values | probes) + "\n"


def sts_json(temperatures: Sequence[float], dataset: str, rows: int) -> str:
    """A calibration as SGLang loads it."""
    return json.dumps({"temperatures": list(temperatures), "dataset": dataset, "num_samples": rows}) + "\n"
