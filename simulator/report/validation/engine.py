"""Simulator against engine, for `dsim validate --engine`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simulator.files import whole
from simulator.report import wording
from simulator.report.blocks import Cell, Column, Row, Text, grouped, table
from simulator.report.page import Page, Section, section, sections
from simulator.report.tables import validation
from simulator.study.validation.engine_runs import HEADLINE, NUMBERS
from simulator.study.validation.result import EngineComparison, EngineRun

SHOWN = (*HEADLINE, "accepted_length", "verification_budget", "ttft_p50_s", "step_p50_s")
PARTS = {"cost_model": "cost model", "acceptance": "acceptance", "rest": "rest", "step_noise": "noise"}


def engine_page(check: EngineComparison, title: str) -> Page:
    """The page of a comparison; a terminal alone shows it."""
    return Page(title, "dsim validate", "", "", sections(SECTIONS, check))


def write_picture(check: EngineComparison, path: Path, title: str) -> None:
    """Both frontiers on one picture."""
    from simulator.report.validation.plots import engine_frontiers

    with whole(path) as draft:
        engine_frontiers(check, title).savefig(draft, dpi=150)


def _runs(check: EngineComparison) -> Section | None:
    numbers = (Column(NUMBERS[name], spare=name not in HEADLINE) for name in SHOWN)
    groups = [(policy, [_row(run) for run in check.runs if run.policy == policy]) for policy in dict.fromkeys(run.policy for run in check.runs)]
    caption = (
        "Simulated / measured, and the error. Cost model, acceptance and rest are the parts of the throughput's error; noise: p10 to p90 of step "
        "time over its price."
    )
    return section("runs", "Simulator against engine", grouped("runs", caption, ("load", *numbers, *PARTS.values()), groups, words=0))


def _row(run: EngineRun) -> Row:
    numbers = (Cell(f"{run.simulated[n]:.4g} / {run.measured[n]:.4g}", wording.percent(run.error[n], 1)) for n in SHOWN)
    parts = (wording.percent(getattr(run.why, name), 1, signed=name != "step_noise") for name in PARTS)
    return (str(run.load), *numbers, *parts)


def _errors(check: EngineComparison) -> Section | None:
    summary = ((NUMBERS[name], (one.median, one.worst)) for name, one in check.summary.items() if one.median is not None)
    errors = [(name, *(wording.percent(share, 1, signed=False) for share in shares)) for name, shares in summary]
    rank = check.ranking
    ranked = f"The better policy is named in {rank.right} of {rank.pairs} pairs whose measured throughputs differ by more than 3 %."
    return section(
        "errors",
        "Errors",
        table("summary", "Over all runs.", ("number", "median error", "worst"), errors),
        replace(validation(check.rows, "measured"), caption="Limits."),
        Text(ranked) if rank.pairs else None,
    )


SECTIONS = (_runs, _errors)
