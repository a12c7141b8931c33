"""Scrapes of /metrics, one or two of a server, and AIPerf's export of them (server_metrics_export.json, schema 1.1), as counts (counters.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.counters import ENGINES, SCRAPE, SPEC, Count, gathered, is_used
from simulator.measurements.formats.reading import Document, Line, Part, read_document
from simulator.measurements.formats.rounds import COUNTS, PER_POSITION, SpecCounters, checked
from simulator.quantities import Within
from simulator.reading.opening import read_text

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

MOST_SAMPLES, LONGEST = 20_000, 10_000  # samples of a scrape that are used (of all engines), and characters of one
MOST_COUNT = 1e15
_LINE = re.compile(r"(vllm|llamacpp|sglang):([a-z_]+)(?=[{\s])")


class _Stats(Part):
    total: Annotated[float, Within(0, MOST_COUNT)] | None = None
    count: Annotated[float, Within(0, MOST_COUNT)] | None = None
    avg: Annotated[float, Within(0, MOST_COUNT)] | None = None  # all that there is of a gauge


class _Series(Part):
    labels: Annotated[dict[Line, Line], Field(max_length=100)] | None = None
    stats: _Stats


class _Family(Part):
    series: Annotated[list[_Series], Field(max_length=MOST_SAMPLES, fail_fast=True)]


def read_counters(path: Path, before: Path | None = None, model: str | None = None) -> SpecCounters:
    """Counters of all engines of one model in a scrape of /metrics, less those of an earlier scrape. Raises DsimError with file and counter, also
    where no round drafted anything, and where the scrape has several models and `model` does not choose one."""
    counters = _counters(path, model)
    if before is not None:
        counters = counted_between(_counters(before, model), counters, path)
    if not counters.slots and counters.engine == "vllm":
        raise DsimError("is missing", where=path, key=f"vllm:{SPEC}drafts", remedy=SCRAPE)
    if counters.drafts == 0:
        raise DsimError("counts no drafted round", where=path, key=f"{counters.engine}:{SPEC}drafts", remedy="scrape again after some traffic")
    return counters


def scrapes_around(result: Path) -> tuple[Path, Path]:
    """Where the scrapes from before and after a result lie."""
    before, after = (result.with_name(f"{result.stem}-{when}.txt") for when in ("before", "after"))
    return before, after


def counters_around(result: Path) -> SpecCounters | None:
    """What the scrapes beside a result counted during it (c4.json: from c4-before.txt to c4-after.txt). None where they are not there. Raises
    DsimError."""
    before, after = scrapes_around(result)
    if not (before.exists() and after.exists()):
        return None
    return counted_between(_counters(before, None), _counters(after, None), after)


def counted_between(before: SpecCounters, after: SpecCounters, where: Path | str) -> SpecCounters:
    """What was counted between two scrapes of one server. Raises DsimError where a counter fell."""
    for what, then, now in (("engine", before.engine, after.engine), ("model", before.model, after.model)):
        if then != now:
            raise DsimError(f"is of {what} {shown(now)}, and the earlier scrape of {shown(then)}", where=where, remedy="scrape one server")
    prefix = f"{after.engine}:{SPEC}"
    if after.engine == "llamacpp":  # has as many positions as it has drafted
        before = replace(before, per_position=before.per_position + [0.0] * (after.slots - before.slots))
    if (count := before.slots) != after.slots:
        problem = f"expected {count} positions as in the earlier scrape, got {after.slots}"
        raise DsimError(problem, where=where, key=f"{prefix}{PER_POSITION}", remedy="scrape one server")

    def grown(name: str, then: float, now: float) -> float:
        if now < then:
            problem = f"fell from {then:.15g} to {now:.15g} between the scrapes"
            raise DsimError(problem, where=where, key=name, remedy="the server was restarted, or the files are exchanged: scrape again")
        return now - then

    counted: dict[str, Any] = {"engine": after.engine, "model": after.model, "engines": after.engines}
    for name in COUNTS:
        then, now = getattr(before, name), getattr(after, name)
        key = f"{prefix}{name}" if name in ("drafts", "draft_tokens", "accepted_tokens") else f"{after.engine}: {name}"
        if then is None or now is None:
            counted[name] = None
        elif isinstance(now, list):
            counted[name] = [grown(f"{prefix}{PER_POSITION}", early, late) for early, late in zip(then, now, strict=True)]
        else:
            counted[name] = grown(key, then, now)
    return checked(SpecCounters(**counted), where, prefix)


def counters_in(text: str, where: Path | str, model: str | None = None) -> SpecCounters | None:
    """The counters in a scrape, None where it has none of an engine that is known. Raises DsimError where they are broken."""
    return gathered(_samples(text, where), where, model)


def counters_of(export: Document, model: str | None = None) -> SpecCounters | None:
    """The counters in a server_metrics_export.json of AIPerf, which holds what they grew by. Raises DsimError with file and field."""
    return gathered(_exported(export), export.where, model)


def _samples(text: str, where: Path | str) -> Iterator[Count]:
    """The counts in a scrape that are used. Raises DsimError with file and line."""
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        match = _LINE.match(line)
        name = match[2].removesuffix("_total") if match else ""
        if match is None or not is_used(match[1], name):
            continue
        if len(seen) == MOST_SAMPLES:
            raise DsimError(f"expected at most {MOST_SAMPLES:,} counters of speculation", where=where, remedy="scrape one server")
        sample = _sample(line, f"{where}:{number}")
        if (series := (name, frozenset(sample.labels.items()))) in seen:
            raise DsimError("appears twice", where=f"{where}:{number}", key=sample.name, remedy="give one scrape in a file")
        seen.add(series)
        yield match[1], name, sample.labels, sample.value


def _exported(export: Document) -> Iterator[Count]:
    """The counts in AIPerf's export that are used: totals of counters, numbers of observations of histograms."""
    for name, content in export.inner("metrics", export.content.get("metrics")).content.items():
        engine, _, called = name.partition(":")
        called = called.removesuffix("_total")
        if engine not in ENGINES or not (is_used(engine, called) or is_used(engine, f"{called}_count")):
            continue
        family = export.inner(f"metrics.{name}", content).read(_Family)
        for series in family.series:
            value, called_so = (series.stats.count, f"{called}_count") if series.stats.total is None else (series.stats.total, called)
            if value is None and called in ENGINES[engine].get("mean", ()):
                value, called_so = series.stats.avg, called
            if value is not None and is_used(engine, called_so):
                yield engine, called_so, series.labels or {}, value


def _sample(line: str, where: str) -> Sample:
    """The sample on a line of Prometheus' text format. Raises DsimError where it is no count."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        if len(line) > LONGEST:
            raise ValueError
        (sample,) = (sample for family in text_string_to_metric_families(line) for sample in family.samples)
    except (ValueError, LookupError):
        raise DsimError(f"expected a Prometheus sample, got {shown(line)}", where=where, remedy="scrape /metrics again") from None
    gauge = sample.name.endswith("spec_accept_length")
    if not (0 <= sample.value <= MOST_COUNT and (gauge or sample.value == int(sample.value))):
        raise DsimError(f"expected a count, got {sample.value:g}", where=where, key=sample.name[:80], remedy="scrape /metrics again")
    return sample


def _counters(path: Path, model: str | None) -> SpecCounters:
    text = read_text(path)
    if text.lstrip().startswith(("{", "[")):
        counters = counters_of(_export(path), model)
    else:
        counters = counters_in(text, path, model)
    if counters is None:
        raise DsimError("is missing", where=path, key=f"vllm:{SPEC}drafts", remedy=SCRAPE)
    return counters


def _export(path: Path) -> Document:
    """AIPerf's export of a server's metrics. Raises DsimError where the JSON is another one."""
    with suppress(DsimError):
        document = read_document(path, "metrics_phase")
        if "metrics" in document.content:
            return document
    raise DsimError("expected a scrape of /metrics, got JSON", where=path, remedy=SCRAPE)
