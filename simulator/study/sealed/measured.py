"""Result files of benchmark clients to measured cells of a seal: which cell each is of, repeats, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.aiperf import read_aiperf
from simulator.measurements.formats.bench import read_bench, read_llama_cpp
from simulator.measurements.formats.guidellm import read_guidellm
from simulator.measurements.formats.loadgen import NAMED_FAILED, LoadPoint, Loads
from simulator.measurements.formats.scrapes import counters_around
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text
from simulator.study.profiles.given_points import MOST_FILES, matching, natural
from simulator.study.profiles.workload import crowded
from simulator.study.sealed.numbers import SPEED, measured
from simulator.study.sealed.seal import Condition, Seal, SealedCell, SealedPolicy

FIXED = re.compile(r"fixed \(length (\d+)\)")  # a rule, as a seal tells it
UNLIKE = 0.02  # relative difference of counts of tokens that is named
BESIDE = re.compile(r"server_metrics_export\.json|.*_export.*\.jsonl")  # AIPerf's, beside its results
FORM = "POLICY=FILE, CONDITION/POLICY=FILE, or a folder CONDITION/POLICY/*.json (or .jsonl)"
UNKNOWN_DRAFTS = (
    "results of llama.cpp without scrapes of /metrics beside them (c4-before.txt, c4-after.txt of c4.json): what it drafted there is not known"
)


@dataclass(frozen=True)
class MeasuredCell:
    """One cell and the files of its repeats."""

    condition: Condition
    sealed: SealedCell
    points: tuple[LoadPoint, ...]

    @property
    def values(self) -> dict[str, list[float]]:
        """Each number, by repeat; those that every file has."""
        each = [measured(point) for point in self.points]
        return {name: [values[name] for values in each] for name in each[0] if all(name in values for values in each)}

    @property
    def means(self) -> dict[str, float]:
        """Means over repeats; of the speed, that of which it is the rate."""
        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        return means | {SPEED: 1 / means["tpot_mean_s"]}


@dataclass
class Measured:
    """All that was measured: cells that were sealed, files that were not, and what a reader has to know."""

    cells: list[MeasuredCell] = field(default_factory=list)
    not_sealed: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    model: str = ""

    @property
    def points(self) -> list[LoadPoint]:
        """Those of all cells, by when they were measured as far as files say it."""
        return sorted((point for cell in self.cells for point in cell.points), key=lambda point: point.measured_at)


def given_files(words: Sequence[str], seal: Seal) -> list[tuple[Condition, str, Path]]:
    """Condition, policy and path of every file. Raises DsimError for words of another form, and names that were not sealed."""
    files = [file for word in words for file in (_of_word(word, seal) if _named(word) else _of_folder(Path(word), seal))]
    if len(files) > MOST_FILES:
        raise DsimError(f"expected at most {MOST_FILES:,} files, got {len(files):,}", where="dsim score", remedy="give fewer")
    seen = set[Path]()
    for _, _, path in files:
        if path in seen:
            raise DsimError("is given twice", where=path, remedy="give every measurement once")
        seen.add(path)
    return files


def _named(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _of_word(word: str, seal: Seal) -> Iterator[tuple[Condition, str, Path]]:
    cell, _, pattern = word.partition("=")
    name, sign, policy = cell.partition("/")
    if not sign:
        name, policy = "", cell
    having = [c for c in seal.conditions if name in ("", c.name) and any(p.name == policy for p in c.policies)]
    if len(having) != 1:
        known = ", ".join(f"{c.name}/{p.name}" for c in seal.conditions for p in c.policies)
        problem = f"no condition was sealed with {shown(cell)}" if not having else f"{shown(cell)} is in {len(having)} conditions"
        raise DsimError(problem, where="dsim score", key=word[:80], remedy=f"sealed: {known}")
    paths = matching(pattern)
    if not paths:
        raise DsimError(f"no file matches {shown(pattern)}", where="dsim score", key=cell, remedy="check the pattern")
    yield from ((having[0], policy, Path(path)) for path in paths)


def _of_folder(folder: Path, seal: Seal) -> Iterator[tuple[Condition, str, Path]]:
    if not folder.is_dir():
        raise DsimError("is neither a folder nor NAME=FILE", where=folder, remedy=f"give {FORM}")
    found = [
        (condition, policy.name, Path(path))
        for condition in seal.conditions
        for policy in condition.policies
        for path in sorted(map(str, _results(folder / condition.name / policy.name, "*")), key=natural)
    ]
    if not found:
        raise DsimError("holds no result files of what was sealed", where=folder, remedy="put them into CONDITION/POLICY/*.json (or .jsonl)")
    yield from found


def _results(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for ending in ("json", "jsonl") for path in folder.glob(f"{pattern}.{ending}") if not BESIDE.fullmatch(path.name))


def not_of_the_seal(words: Sequence[str], seal: Seal) -> list[str]:
    """CONDITION/POLICY of the folders that hold results and were not sealed."""
    sealed = {f"{condition.name}/{policy.name}" for condition in seal.conditions for policy in condition.policies}
    folders = (path.parent for word in words if not _named(word) for path in _results(Path(word), "*/*/*"))
    found = (f"{folder.parent.name}/{folder.name}" for folder in folders)
    return sorted({name for name in found if name not in sealed}, key=natural)


def read_result(path: Path, pieces: bool = True) -> Loads:
    """The operating points of a result file, whichever client wrote it. `pieces`: those of an answer tell whether the server speculates. Raises
    DsimError."""
    text = read_text(path)
    for mark, read in (('"mean_tpot_ms"', _read_bench), ('"benchmarks"', read_guidellm), ('"output_token_throughput"', read_aiperf)):
        if mark in text:
            return read(path, pieces)
    parse_json(text, path)  # what was cut off is no JSON
    remedy = "give results of vllm bench serve --save-result, SGLang's bench_serving, GuideLLM or AIPerf"
    raise DsimError("is not a result of a benchmark client", where=path, remedy=remedy)


def _read_bench(path: Path, pieces: bool) -> Loads:
    """llama-server's are told by the scrapes beside them."""
    counters = counters_around(path)
    return read_llama_cpp(path) if counters is not None and counters.engine == "llamacpp" else read_bench(path, pieces)


def read_measured(files: Sequence[tuple[Condition, str, Path]]) -> Measured:
    """Everything in the files. Raises DsimError for a file that cannot be read, a measurement that is there twice, and two models."""
    every = Measured()
    repeats: dict[tuple[str, str, float], MeasuredCell] = {}
    seen: dict[LoadPoint, str] = {}
    for condition, policy, path in files:
        loads = read_result(path, pieces=not condition.profile.llama_cpp)
        if condition.profile.llama_cpp and any(point.slots is None for point in loads.points):
            every.remarks.append(UNKNOWN_DRAFTS)
        every.remarks += [*loads.remarks, *(f"{condition.name}/{policy}/{name}: no request finished" for name in loads.left_out)]
        for point in loads.points:
            name = f"{condition.name}/{policy}/{point.source}"
            _check(point, path, seen, every)
            seen[replace(point, source="", survival=None)] = name
            load, fleet = _load(point, condition, path), condition.replicas > 1 and condition.load_kind == "concurrency"
            sealed = condition.cell(policy, load)
            if sealed is None:
                divided = f": {point.offered:g} in flight ÷ {condition.replicas} replicas" if fleet else ""
                every.not_sealed.append(f"{name} (load {load:g}{divided})")
                continue
            sought = next(each for each in condition.policies if each.name == policy)
            every.remarks += [*_of_arrivals(name, point, condition), *_of_drafting(name, point, sought), *_differences(name, point, sealed)]
            key = (condition.name, policy, sealed.load)
            before = repeats[key].points if key in repeats else ()
            repeats[key] = MeasuredCell(condition, sealed, (*before, replace(point, source=path.as_posix())))
    if not repeats:
        first = [*every.not_sealed, *every.remarks][0]
        raise DsimError(f"none of the files is of a cell that was sealed: {first}", where="dsim score", remedy="check policies and loads")
    every.cells = list(repeats.values())
    return every


def _check(point: LoadPoint, path: Path, seen: dict[LoadPoint, str], every: Measured) -> None:
    """Raises DsimError where it is a copy, or of another model."""
    if (first := seen.get(replace(point, source="", survival=None))) is not None:
        raise DsimError(f"{point.source} has the numbers of {first}", where=path, remedy="give every measurement once")
    if point.model and every.model and point.model != every.model:
        problem = f"is of model {shown(point.model)}, and the files before of {shown(every.model)}"
        raise DsimError(problem, where=path, remedy="give the results of one model")
    every.model = every.model or point.model


def _load(point: LoadPoint, condition: Condition, path: Path) -> float:
    """On the scale of the condition. Raises DsimError where the file does not say it."""
    at_a_rate = condition.load_kind == "rate_rps"
    load = point.rate_rps if at_a_rate else point.offered
    if load is None:
        flag = "request_rate" if at_a_rate else "max_concurrency"
        problem = f"does not say its {flag}" if at_a_rate or not point.rate_rps else f"its prompts came at a rate, not by {flag} alone"
        raise DsimError(f"{problem}: the load of condition {condition.name}", where=path, key=flag, remedy="give results that were measured so")
    return load if at_a_rate else load / condition.replicas


def _of_arrivals(name: str, point: LoadPoint, condition: Condition) -> Iterator[str]:
    """Where prompts came at a rate, but not as the sealed ones."""
    if not point.rate_rps:
        return
    if point.held_to != condition.held_to:
        allowed, expected = (f"at most {limit:,} requests" if limit else "any number of requests" for limit in (point.held_to, condition.held_to))
        yield f"{name}: the client had {allowed} in flight (max_concurrency), and the seal is of {expected}"
    if point.burstiness is not None and not isclose(point.burstiness, condition.burstiness, rel_tol=1e-6):
        yield f"{name}: the arrivals have burstiness {point.burstiness:g}, and those of the seal {condition.burstiness:g}"


def _of_drafting(name: str, point: LoadPoint, policy: SealedPolicy) -> Iterator[str]:
    """Where the server drafted otherwise than the sealed policy: at all, or more or fewer tokens than a fixed length. SGLang says what a round
    verifies, the anchor and all tokens of a tree included, or the accepted length alone."""
    slots, fixed = point.slots, FIXED.fullmatch(policy.rule)
    if slots is None and point.budget and point.proposing == 1.0:
        slots = round(point.budget) - 1
    if slots is None and not policy.drafter and point.accepted_length and point.accepted_length > 1:
        drafted = f"some tokens (accepted length {point.accepted_length:.3g})"
    elif slots is not None and (bool(slots) != bool(policy.drafter) or (slots and fixed and slots != int(fixed[1]))):
        drafted = f"{slots:g} tokens" if slots else "nothing"
    else:
        return
    yield f"{name}: the server drafted {drafted}, and the seal is of {f'{policy.drafter}, {policy.rule}' if policy.drafter else 'no drafter'}"


def _differences(name: str, point: LoadPoint, sealed: SealedCell) -> Iterator[str]:
    """Where the benchmark was another one than what was sealed, where its numbers contradict each other, and where requests failed."""
    if problem := crowded(point):
        yield f"{name}: {problem}"
    sent = None if point.requests is None else point.requests + (point.failed or 0)
    if sent is not None and sent != sealed.requests:
        yield f"{name}: {sent:,} requests were sent, and the seal is of {sealed.requests:,.0f}"
    if sent and point.failed and point.failed > NAMED_FAILED * sent:
        yield f"{name}: {point.failed:,} of {sent:,} requests failed, and the numbers are of the others"
    for what, tokens, expected in (("a prompt", point.prompt_tokens, sealed.prompt_tokens), ("an answer", point.output_tokens, sealed.output_tokens)):
        if tokens and expected and not isclose(tokens, expected, rel_tol=UNLIKE):
            yield f"{name}: {what} has {tokens:.4g} tokens in the mean, and the seal is of {expected:.4g}"
