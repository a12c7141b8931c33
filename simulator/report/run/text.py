"""The terminal's end of a run: a small frontier, a compact table, the gains, the answer and its warnings."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.report import wording
from simulator.report.compare import compare
from simulator.study.run.result import PolicyFacts, RunResult, Validation

__all__ = ["compare", "frontier_plot", "summary"]

_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan", "white")
_ANSI = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 39}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_Y = "throughput_tok_s_gpu"


def frontier_plot(result: RunResult, width: int | None = None, colour: bool | None = None) -> str:
    """Throughput over per-user speed as text, a letter per policy. Plain unless on a terminal that takes colour."""
    import plotext

    room, coloured = _width(width), _coloured(colour)
    figure = plotext.figure
    figure.clear()
    figure.subplots(1, 1)
    figure.plot_size(min(room, 100), 18)
    drawn: list[tuple[float, float]] = []
    for policy in reversed(result.policies):  # the first policies lie on top
        pairs = [(point.mean(result.speed_metric), point.mean(_Y)) for point in result.points[policy.name]]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            letter = _letter(policy, result)
            figure.draw(figure.signal(*map(list, zip(*points, strict=True)), marker=letter))
            drawn += points
    if not drawn:
        return "No point has both a speed and a throughput.\n" + _key(result, coloured, room)
    for axis, values in enumerate(zip(*drawn, strict=True)):
        ticks = _ticks(0.0 if axis == 1 else min(values), max(values))
        figure.ruler(axis, 0).lim(ticks[0], ticks[-1])
        figure.ruler(axis, 0).ticks(ticks, [wording.load(tick) for tick in ticks])
    figure.label(f"per-user speed, {wording.speed_unit(result)}", axis=0)
    figure.title("throughput, tok/s/GPU")
    text = "\n".join(line.rstrip() for line in figure.build().string(colorless=True).splitlines())
    figure.clear()
    if coloured:
        text = _painted(text, result)
    return text + "\n" + _key(result, coloured, room)


def summary(result: RunResult, out_folder: Path | str, width: int | None = None, colour: bool | None = None) -> str:
    """All that `dsim run` prints when it is done."""
    out = io.StringIO()
    coloured = _coloured(colour)
    console = Console(
        file=out, width=_width(width), force_terminal=coloured, no_color=not coloured, color_system="standard" if coloured else None, highlight=False
    )
    console.print(Text(result.scenario.question or result.scenario.name, style="bold"))
    console.print(_frontier_table(result))
    for table in _gain_tables(result):
        console.print()
        console.print(table)
    _print_warnings(console, result)
    console.print()
    print(frontier_plot(result, width, colour), file=out)
    for i, line in enumerate(result.answer):
        console.print(Text(line, style="bold" if i == 0 else ""))
    console.print(Text(f"report: {Path(out_folder) / 'report.html'}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def validation_table(validation: Validation, width: int | None = None) -> str:
    """What `dsim validate` prints: simulated against published, a line each."""
    out = io.StringIO()
    console = Console(file=out, width=max(_width(width), 100), no_color=True, color_system=None, highlight=False)
    table = _table("simulated against published")
    table.add_column("what", overflow="fold")
    for title in ("simulated", "published", "difference", "limit"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in validation.rows:
        cells = wording.validation_cells(row)
        table.add_row(Text(f"{row.policy}: {row.what}"), *cells)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _frontier_table(result: RunResult) -> Table:
    table = _table(f"load: {result.load_unit}" + (f"; {wording.certainty(result)}" if wording.certainty(result) else ""))
    table.add_column("policy", overflow="fold")
    for title in ("load", wording.speed_unit(result), "tok/s/GPU", "budget", "accepted"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for policy in result.policies:
        for i, point in enumerate(result.points[policy.name]):
            name = policy.name + (" (bound)" if policy.bound else "")
            cells = [wording.interval(point.get(metric), d) for metric, d in ((result.speed_metric, 1), (_Y, 0))]
            cells += [wording.plain(point.mean(metric), 2) for metric in ("verification_budget", "accepted_length")]
            verdict = Text("" if point.verdict == "stable" else point.verdict, style="yellow")
            last = i == len(result.points[policy.name]) - 1
            table.add_row(Text(name if i == 0 else ""), wording.load(point.load), *cells, verdict, end_section=last)
    return table


def _gain_tables(result: RunResult) -> list[Table]:
    speed, baseline, gains = wording.speed_unit(result), result.baseline, result.gains
    at_sla, matched = (
        _gain_table(f"at {speed}", f"{baseline}: throughput, tok/s/GPU"),
        _gain_table("at tok/s/GPU", f"{baseline}: per-user speed, {speed}"),
    )
    for row in gains.at_sla:
        if row.policy != baseline:
            ends = [wording.plain(e.mean if e else None, 0) for e in (row.baseline_throughput, row.throughput)]
            ends[1] = f"≥ {wording.plain(row.at_least.mean, 0)}" if row.at_least else ends[1]
            at_sla.add_row(wording.plain(row.sla_tps, 0), Text(row.policy), *ends, wording.gain(row.gain), Text(row.note or ""))
    for pair in gains.at_matched_throughput:
        ends = [wording.plain(e.mean if e else None, 1) for e in (pair.baseline_tps, pair.tps)]
        matched.add_row(wording.plain(pair.throughput, 0), Text(pair.policy), *ends, wording.gain(pair.gain), Text(pair.note or ""))
    return [table for table in (at_sla, matched) if table.row_count]


def _gain_table(at: str, over: str) -> Table:
    table = _table(f"gain over {over}")
    table.add_column(at, justify="right", no_wrap=True)
    table.add_column("policy", overflow="fold")
    for title in ("baseline", "reached", "gain"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    return table


def _print_warnings(console: Console, result: RunResult) -> None:
    if result.warnings:
        console.print()
    for remark in result.remarks():
        console.print(Text.assemble((remark.severity, "bold yellow" if remark.severity == "warning" else "bold"), f": {remark.text}"))
        if remark.remedy:
            console.print(Text(f"  → {remark.remedy}"))


def _table(title: str) -> Table:
    from rich import box

    return Table(title=Text(title, style="dim"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)


def _key(result: RunResult, coloured: bool, width: int) -> str:
    """Which letter is which policy."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=coloured, color_system="standard" if coloured else None, highlight=False)
    entries: list[Any] = []
    for policy in result.policies:
        entries += [(_letter(policy, result), _tint(policy, result)), f" {policy.name}{' (bound)' if policy.bound else ''}   "]
    console.print(Text.assemble(*entries))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _painted(text: str, result: RunResult) -> str:
    """The letters inside the frame in their policies' colours, on whatever background the terminal has."""
    codes = {_letter(policy, result): _ANSI[_tint(policy, result)] for policy in result.policies}

    def paint(line: str) -> str:
        head, bar, rest = line.partition("┤" if "┤" in line else "│")
        return head + bar + re.sub("[A-Z]", lambda found: f"\x1b[{codes.get(found[0], 39)}m{found[0]}\x1b[0m", rest)

    return "\n".join(paint(line) for line in text.splitlines())


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose low and high, four to eight of them."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _letter(policy: PolicyFacts, result: RunResult) -> str:
    return _LETTERS[result.place(policy) % len(_LETTERS)]


def _tint(policy: PolicyFacts, result: RunResult) -> str:
    return "white" if policy.name == result.baseline else _COLOURS[result.place(policy) % len(_COLOURS)]


def _width(width: int | None) -> int:
    return max(40, width if width is not None else shutil.get_terminal_size((100, 24)).columns)


def _coloured(colour: bool | None) -> bool:
    """Colour only where a person sees it and has not asked for none."""
    return colour if colour is not None else sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
