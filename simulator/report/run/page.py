"""The report: one HTML file that needs nothing else, its Markdown twin, and the pictures as files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from simulator.files import write_whole
from simulator.report import tables, wording
from simulator.study.run.metrics import METRICS
from simulator.study.run.result import RunResult, ScenarioFacts


@dataclass(frozen=True)
class Picture:
    """One picture: its file stem, what it shows in words, and, on the page, its two drawings (wide and for a phone)."""

    stem: str
    alt: str
    wide: Markup
    phone: Markup


_STEMS = ("pareto", "against_load", "accepted_length", "time_per_token", "latency")


def write_report(result: RunResult, folder: Path) -> Path:
    """Write report.html, report.md and the pictures into `folder`; the path of report.html."""
    pictures = _draw(result, folder)
    around = _context(result) | {"pictures": pictures}
    for name in ("report.md", "report.html"):
        text = templates().get_template(f"{name}.j2").render(around)
        write_whole(folder / name, text.encode())
    return folder / "report.html"


def _draw(result: RunResult, folder: Path) -> dict[str, Picture]:
    """Draw what is worth drawing; pictures of an earlier result that this one does not have are removed."""
    from simulator.report import plots

    wanted = {
        "pareto": plots.pareto,
        "against_load": plots.against_load,
        "accepted_length": plots.accepted_length if result.has("accepted_length") else None,
        "time_per_token": plots.time_per_token if result.has(*(metric.name for metric in METRICS if metric.place == "parts")) else None,
        "latency": plots.latency if plots.latency_tells(result) else None,
    }
    pictures = {}
    for stem, draw in wanted.items():
        if draw is None:
            for ending in ("png", "svg"):
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
            continue
        wide, phone = draw(result), draw(result, plots.PHONE)
        plots.save(wide, folder, stem)
        inline = [Markup(plots.inline(plots.svg(figure, name), name)) for figure, name in ((wide, stem), (phone, f"{stem}-phone"))]
        pictures[stem] = Picture(stem, _alt(stem, result), *inline)
    return pictures


def _alt(stem: str, result: RunResult) -> str:
    """What a picture shows, for those who cannot see it; the numbers are in the tables."""
    what = {
        "pareto": "Throughput in tokens per second and GPU against per-user speed in tokens per second, one line per policy",
        "against_load": "Throughput above and verification budget below, over load, one line per policy",
        "accepted_length": "Accepted length, bonus included, over load, one line per policy",
        "time_per_token": "Stacked bars: a user’s milliseconds per token by cause, per policy at a few loads",
        "latency": "TTFT above and TPOT below, p50 and p99 in milliseconds, over load, one line per policy",
    }[stem]
    return f"{what}: {', '.join(policy.name for policy in result.policies)}."


def _context(result: RunResult) -> dict[str, Any]:
    """All that the templates are given."""
    return {
        "result": result,
        "title": result.scenario.question or result.scenario.name,
        "scenario": result.scenario,
        "profile": result.profile,
        "facts": _facts(result),
        "warnings": result.remarks(),
        "overlays": {where: _overlays(result, x) for where, x in (("pareto", "tps_per_user"), ("against_load", result.load_kind))},
        "policies": tables.policies(result),
        "at_sla": tables.at_sla(result),
        "at_matched_throughput": tables.at_matched_throughput(result),
        "validation": tables.validation(result),
        "latency": tables.latency(result),
        "time_per_token": tables.time_per_token(result),
        "points": tables.verdicts(result),
        "provenance": tables.provenance(result.profile.provenance) if result.profile.provenance else None,
        "content": yaml.safe_dump(_yaml(result.scenario.content), sort_keys=False, allow_unicode=True, width=100),
        "command": _command(result.scenario),
        "definitions": wording.DEFINITIONS,
    }


def _overlays(result: RunResult, x: str) -> str:
    """The published curves of a picture, named."""
    curves = [curve for curve in result.published if curve.points and curve.x == x]
    labels = [curve.label if not curve.source or curve.source in curve.label else f"{curve.label} ({curve.source})" for curve in curves]
    return f"Published, drawn broad and pale: {'; '.join(labels)}." if labels else ""


def _facts(result: RunResult) -> list[tuple[str, str]]:
    """The lines under the answer: what was simulated, on what."""
    loads, profile = result.loads(), result.profile
    span = "" if not loads else wording.load(loads[0]) if len(loads) == 1 else f"{wording.load(loads[0])}…{wording.load(loads[-1])}"
    gpus = profile.gpus_per_replica
    facts = [
        ("model", profile.target),
        ("hardware", f"{profile.hardware}, {gpus} GPU{'s' if gpus != 1 else ''} per replica"),
        ("engine", profile.engine),
        ("profile", profile.name),
        ("load", f"{span} {result.load_unit}".strip()),
        ("replications", str(result.scenario.replications)),
    ]
    return [(name, value) for name, value in facts if value]


def _command(scenario: ScenarioFacts) -> str:
    """What to type to get this report again."""
    parts = ["dsim", "run", scenario.file]
    for override in scenario.overrides:
        parts += ["--set", override]
    return shlex.join(parts)


def _yaml(raw: Any) -> Any:
    """Plain data only, with numbers that are no numbers as null."""
    if isinstance(raw, Mapping):
        return {str(key): _yaml(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_yaml(value) for value in raw]
    if isinstance(raw, float) and not math.isfinite(raw):
        return None
    return raw if isinstance(raw, str | int | float | bool | None) else str(raw)


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("simulator.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": _markdown, "code": Markup}
    return environment


def _markdown(raw: Any) -> Markup:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(str(raw).split())
    for mark in "\\`*_[]|<>#~":
        text = text.replace(mark, {"<": "&lt;", ">": "&gt;"}.get(mark, f"\\{mark}"))
    return Markup(text)
