"""SGLang's DSpark files, read and written: the SPS table (sampled and additive), the STS calibration, the dump of decode steps.

Forms as in sgl-project/sglang at 45b76f5 (speculative/dspark_components/dspark_sps.py), 9e16e2d (dspark_sts.py) and 0b79ccf
(dspark_observability.py, DecodeStepRecord and ReqDetail).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.reading import Fields, read_fields

Floats = NDArray[np.float64]
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


def read_sps(path: Path) -> SampledSps | AdditiveSps:
    """An SPS table of either form; the additive one is known by its bias. Raises DsimError with file and field."""
    fields = read_fields(path, "bias_seconds", "sample_batch_tokens")
    if "bias_seconds" not in fields:
        tokens, speed = fields.rising("sample_batch_tokens"), fields.numbers("sample_steps_per_sec", above=True)
        fields.same_length("sample_batch_tokens", "sample_steps_per_sec")
        most = fields.whole("max_batch_tokens", 1)
        if most < tokens[-1]:
            raise fields.fail("max_batch_tokens", f"expected at least the largest probe, {tokens[-1]:g}, got {most}")
        if len(tokens) < 2:
            raise fields.fail("sample_batch_tokens", "expected two probes or more, got SGLang's flat stand-in", "profile the server first")
        return SampledSps(tokens, speed, most)
    bias = fields.number("bias_seconds", above=True)
    requests, alpha = fields.rising("bs_probes"), fields.numbers("alpha_seconds", -bias)
    tokens, theta = fields.rising("m_probes"), fields.numbers("theta_seconds", -bias)
    fields.same_length("bs_probes", "alpha_seconds")
    fields.same_length("m_probes", "theta_seconds")
    if bias + min(alpha) + min(theta) <= 0:
        raise fields.fail("bias_seconds", "the table has steps that take no time", "profile the server again")
    return AdditiveSps(bias, requests, alpha, tokens, theta)


def read_sts(path: Path) -> list[float]:
    """The temperatures of a calibration, one per position. Raises DsimError with file and field."""
    return read_fields(path, "temperatures").numbers("temperatures", above=True)


def read_step_records(path: Path, drafter: str) -> StepDump:
    """A dump of decode steps: `dspark_info_record` of /server_info, alone or within the whole answer (one entry per rank).

    A dump holds the rounds that were run, not every anchor. Anchors that a request passed over within an accepted block were never drafted
    from: they repeat the round before them, so a request that verifies whole blocks meets exactly the recorded rounds. Domains and acceptance
    probabilities are not in a dump. Only runs that verified whole blocks are read: where verification was cut, what would have been accepted
    beyond the cut is not known. Raises DsimError with file and field.
    """
    payloads = _payloads(read_fields(path, "internal_states", "dspark_info_record", "records"))
    gammas = {payload.whole("gamma", 1) for payload in payloads}
    modes = {payload.text("mode", "") for payload in payloads}
    if len(gammas) > 1 or len(modes) > 1:
        raise payloads[0].fail("gamma", "ranks disagree", "use the dump of one server")
    gamma, mode = gammas.pop(), modes.pop()
    steps = [(rank, step) for rank, payload in enumerate(payloads) for step in payload.objects("records")]
    rounds = _rounds(steps, gamma, mode)
    return StepDump(_blocks(rounds, gamma, drafter, path.name, mode) if rounds else None, _times(steps))


def _payloads(fields: Fields) -> list[Fields]:
    """A dump of every data-parallel rank that has steps: an idle one has no records, or no dump."""
    if "internal_states" not in fields:
        return [fields.object("dspark_info_record") if "dspark_info_record" in fields else fields]
    states = fields.objects("internal_states")
    dumps = [state.object("dspark_info_record") for state in states if state.content.get("dspark_info_record")]
    busy = [dump for dump in dumps if dump.content.get("records") != []]
    if not busy:
        remedy = "start the server with SGLANG_DSPARK_DEBUG_DUMP=core,step_cpu_time,reqs, and ask after some traffic"
        raise fields.fail("internal_states", f"none of {len(states)} ranks has step records", remedy)
    return busy


@dataclass(frozen=True)
class _Round:
    order: int
    prefix: int
    accepted: int
    confidence: list[float] | None


def _rounds(steps: Sequence[tuple[int, Fields]], gamma: int, mode: str) -> dict[tuple[int, str], list[_Round]]:
    """Rounds of every request in the order of its steps."""
    requests: dict[tuple[int, str], list[_Round]] = {}
    for rank, step in steps:
        order = step.whole("forward_ct")
        for request in step.objects("reqs") if step.content.get("reqs") else []:
            if mode not in UNCENSORED:
                remedy = "record with SGLANG_RAGGED_VERIFY_MODE=static or cap-accept"
                raise DsimError(f"blocks were cut before verification (mode '{mode}')", where=step.path, key="mode", remedy=remedy)
            accepted = request.whole("correct_drafts")
            if accepted > gamma:
                raise request.fail("correct_drafts", f"expected 0 … {gamma}, got {accepted}")
            confidence = request.numbers("confidence") if "confidence" in request else None
            if confidence is not None and (len(confidence) != gamma or max(confidence) > 1):
                raise request.fail("confidence", f"expected {gamma} probabilities")
            name = request.text("rid", f"slot {request.whole('req_pool_index')}")
            requests.setdefault((rank, name), []).append(_Round(order, request.whole("prefix_len"), accepted, confidence))
    for rounds in requests.values():
        rounds.sort(key=lambda r: (r.order, r.prefix))
    return requests


def _blocks(rounds: dict[tuple[int, str], list[_Round]], gamma: int, drafter: str, name: str, mode: str) -> RecordedBlocks:
    """Every round stands for the anchors that it advanced over."""
    every = [r for mine in rounds.values() for r in mine]
    heads = {r.confidence is not None for r in every}
    if len(heads) > 1:
        raise DsimError("some rounds have confidences and some have none", where=name, key="reqs.confidence", remedy="use the dump of one run")
    repeats = np.array([r.accepted + 1 for r in every])
    length = np.array([sum(r.accepted + 1 for r in mine) for mine in rounds.values()])
    accepted = np.repeat(np.array([r.accepted for r in every]), repeats)
    confidence = None
    if heads == {True}:
        table = np.array([r.confidence for r in every], dtype=np.float64)
        confidence = np.repeat(np.clip(table, _EDGE, 1 - _EDGE), repeats, axis=0)
    source = f"SGLang step records ({name}, mode {mode}): {len(every)} rounds of {len(rounds)} requests; anchors within a block repeat its round"
    return RecordedBlocks(
        drafter=drafter, gamma=gamma, temperature=None, provenance="imported", source=source, domains=("any",),
        sequence_domain=np.zeros(len(length), dtype=np.int64), first_row=np.cumsum(length) - length, length=length,
        accepted=accepted, confidence=confidence,
    )  # fmt: skip


def _times(steps: Sequence[tuple[int, Fields]]) -> list[StepTime]:
    """Step times by shape, of the steps that have one."""
    shapes: dict[tuple[int, int], list[float]] = {}
    for _, step in steps:
        key = next((key for key in ("step_cpu_ms", "step_gpu_ms") if key in step), None)
        if key is not None and step.content.get("num_running_reqs") and step.content.get("num_verify_tokens"):  # an idle rank's step has neither
            shape = step.whole("num_running_reqs", 1), step.whole("num_verify_tokens", 1)
            shapes.setdefault(shape, []).append(step.number(key, above=True) / 1e3)
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
