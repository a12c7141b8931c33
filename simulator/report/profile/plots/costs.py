"""Pictures of a profile's step costs: the verify staircase, drafting by parts, prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from simulator.arrays import Floats
from simulator.measurements.agreement import cost_rows, further_files
from simulator.measurements.composed import OperatorCost, OperatorVerify
from simulator.measurements.cost import DraftTable, MeasuredTable, PrefillTable
from simulator.measurements.cost_kind import Cost
from simulator.measurements.profile import Drafter, Profile
from simulator.report import style, wording
from simulator.report.layout import dress, panels, titled
from simulator.report.profile.plots.scales import scale, shown_of
from simulator.report.style import Look

if TYPE_CHECKING:
    import pandas as pd

PARTS = {"draft": "backbone", "head": "sequential head", "absorb": "taking features in"}
_TINTS = {"draft": "#88ccee", "head": "#cc6677", "absorb": "#ddcc77", "whole": "#88ccee"}  # Tol, muted: none is a drafter's


@dataclass(frozen=True)
class Line:
    """One curve of a panel; milliseconds against tokens. `rows` are the measured cells, None for a formula."""

    name: str
    x: Floats
    y: Floats
    rows: pd.DataFrame | None = None
    covered: tuple[float, float] | None = None  # beyond it nothing was measured


def verify(profile: Profile, look: Look = style.WIDE) -> Figure:
    """Milliseconds of a verify step by its tokens: a panel per context, a line per number of requests, band p10–p90."""
    return _measured(verify_lines(profile), look, "Verify step", "tokens in the step", 4.2, profile.costs.verify, is_staircase(profile))


def prefill(profile: Profile, look: Look = style.WIDE) -> Figure:
    """Milliseconds of a prefill step by its tokens, a line per context cached before them."""
    return _measured({"": prefill_lines(profile)}, look, "Prefill step", "prompt tokens in the step", 3.6, profile.costs.prefill)


def _measured(groups: dict[str, list[Line]], look: Look, title: str, x: str, height: float, cost: Cost | None, staircase: bool = False) -> Figure:
    with style.dressed(look):
        figure, axes = panels(look, len(groups), height=height, columns=3, share_y=True)
        tints = tints_of(groups)
        for ax, (group, lines) in zip(axes, groups.items(), strict=True):
            draw_lines(ax, lines, tints, staircase)
            titled(ax, "ms" + (f", {group}" if group else ""))
            ax.set_xlabel(x)
        scale(axes, is_measured(groups))
        formula = "composed of operators' kernel times" if isinstance(cost, OperatorCost) else "a formula, not cells"
        subtitle = "median of each cell, band p10–p90" if is_measured(groups) else formula
        dress(figure, look, title, subtitle, _handles(groups, tints, look))
    return figure


def drafting(profile: Profile, look: Look = style.WIDE) -> Figure:
    """Milliseconds of drafting a round by requests, a panel per drafter, stacked by part where the profile has the parts apart."""
    with style.dressed(look):
        costly = {name: drafter for name, drafter in profile.drafters.items() if draft_parts(profile, drafter)}
        figure, axes = panels(look, len(costly), height=3.6, columns=2, share_y=True)
        used: dict[str, Artist] = {}
        for ax, (name, drafter) in zip(axes, costly.items(), strict=True):
            parts = draft_parts(profile, drafter)
            _stack(ax, parts, look)
            titled(ax, f"{wording.short(look.label(name), 24)}: ms per round" + ("" if look.narrow else f", whole block of {drafter.gamma}"))
            ax.set_xlabel("requests")
            used |= {part: Patch(facecolor=_TINTS[part], label=PARTS.get(part, "drafting, not known by parts")) for part in parts}
            if len(parts) > 1 and "draft" in used:
                used["draft"] = Patch(facecolor=_TINTS["draft"], label=PARTS["draft"])
        subtitle = "medians, summed" + ("; features are taken in of requests × (block + 1) tokens" if "absorb" in used else "")
        dress(figure, look, "Drafting", subtitle, list(used.values()))
    return figure


def verify_lines(profile: Profile) -> dict[str, list[Line]]:
    """Lines by the panel's title: a few contexts, a few numbers of requests each."""
    cost = profile.costs.verify
    if isinstance(cost, OperatorVerify):
        return {f"{k} tokens of each request" if k > 1 else "one token of each request": _composed_lines(cost, k) for k in (1, 8)}
    if not isinstance(cost, MeasuredTable):
        low, high = cost.tokens_range()
        x = np.linspace(max(low / 2, 1), 1.5 * high, 400)
        contexts = (0.0, 1024.0, 8192.0) if cost.varies_with != "tokens" else (0.0,)
        named = {c: f"context {c:,.0f}" if len(contexts) > 1 else "step time" for c in contexts}
        return {"": [Line(named[c], x, 1000 * cost.seconds(x, 1, c), None, (low, high)) for c in contexts]}
    rows = cost_rows(profile.folder / cost.file)
    groups = {}
    for context in shown_of(_values(rows, "context_tokens"), 3):
        at = rows if context is None else rows[rows["context_tokens"] == context]
        title = "" if context is None else f"context {context:,.0f}"
        groups[title] = [_cells_line(at, "requests", value, "requests", "tokens") for value in shown_of(_values(at, "requests"), 6)]
    return groups


def _composed_lines(cost: OperatorVerify, each: int) -> list[Line]:
    """Steps in which every request has `each` tokens, up to as many requests as attention was priced at."""
    most = min(cost.most("requests") or 1.0, cost.tokens_range()[1] / each)
    requests = np.unique(np.round(np.geomspace(1, most, 120)))
    lines = []
    for context in (1024.0, 8192.0, 32_768.0):
        steps = np.array([1000 * float(cost.seconds(each * r, r, context)) for r in requests])
        lines.append(Line(f"context {context:,.0f}", each * requests, steps))
    return lines


def prefill_lines(profile: Profile) -> list[Line]:
    """A line per context cached before the prompt's tokens."""
    cost = profile.costs.prefill
    if isinstance(cost, PrefillTable):
        rows = cost_rows(profile.folder / cost.file)
        return [_cells_line(rows, "context_tokens", value, "cached before", "tokens") for value in shown_of(_values(rows, "context_tokens"), 6)]
    assert cost is not None
    x = np.linspace(1, 8192, 200)
    contexts = (0, 8192, 32768) if cost.seconds(1, 8192) != cost.seconds(1, 0) else (0,)
    return [
        Line(f"{c:,} cached before" if len(contexts) > 1 else "formula", x, np.array([1000 * cost.seconds(n, c + n / 2) for n in x]))
        for c in contexts
    ]


def draft_parts(profile: Profile, drafter: Drafter) -> dict[str, dict[float, float]]:
    """Milliseconds of a whole block by part and number of requests, at the middle context; empty where drafting costs nothing."""
    if not isinstance(drafter.draft, DraftTable):
        whole = {float(r): 1000 * drafter.draft.seconds(r, 0, drafter.gamma) for r in (2**i for i in range(9))}
        return {"whole": whole} if any(whole.values()) else {}
    draft, table = drafter.draft, drafter.draft.table
    context = float(table.contexts[len(table.contexts) // 2])
    requests = [float(r) for r in sorted(cost_rows(profile.folder / draft.file)["requests"].unique())]
    once = {r: 1000 * float(table.seconds(np.asarray(r), 1, context)) for r in requests}
    parts = {"draft" if further_files(drafter) else "whole": once}
    if draft.head:
        parts["head"] = {r: 1000 * draft.seconds(r, context, drafter.gamma) - once[r] for r in requests}
    if draft.absorb:
        parts["absorb"] = {r: 1000 * float(draft.absorb_s(r * (drafter.gamma + 1), context)) for r in requests}
    return parts


def _values(rows: pd.DataFrame, column: str) -> list[float | None]:
    if column not in rows or rows[column].isna().all():
        return [None]
    return [float(value) for value in sorted(rows[column].dropna().unique())]


def _cells_line(rows: pd.DataFrame, column: str, value: float | None, noun: str, key: str) -> Line:
    part = (rows if value is None else rows[rows[column] == value]).sort_values(key)
    name = "cells" if value is None else f"{value:,.0f} {noun if value != 1 else noun.removesuffix('s')}"
    return Line(name, part[key].to_numpy(np.float64), 1000 * part["p50_s"].to_numpy(np.float64), part)


def draw_lines(axes: Axes, lines: Sequence[Line], tints: dict[str, str], staircase: bool) -> None:
    """Median lines with bands; formulas dotted beyond what was measured; eager cells hollow, suspicious ones crossed."""
    for line in lines:
        tint = tints[line.name]
        if line.rows is None:
            low, high = line.covered or (line.x[0], line.x[-1])
            inside = (line.x >= low) & (line.x <= high)
            axes.plot(line.x, line.y, color=tint, linewidth=1.4, linestyle=":", alpha=0.8)
            axes.plot(line.x[inside], line.y[inside], color=tint, linewidth=2.0)
            continue
        rows = line.rows
        graph = ~rows["eager"].to_numpy(bool)
        steps = "steps-pre" if staircase else "default"
        axes.fill_between(line.x, 1000 * rows["p10_s"], 1000 * rows["p90_s"], color=tint, alpha=0.18, linewidth=0, step="pre" if staircase else None)
        for chosen, dashes, kind, face in ((graph, "-", steps, tint), (~graph, "--", "default", style.PAPER)):
            axes.plot(line.x[chosen], line.y[chosen], color=tint, linewidth=1.6, linestyle=dashes, drawstyle=kind)
            axes.plot(line.x[chosen], line.y[chosen], color=tint, linestyle="none", marker="o", markersize=3.5, markerfacecolor=face)
        doubtful = rows["suspicious"].ne("").to_numpy(bool)
        axes.plot(line.x[doubtful], line.y[doubtful], color=style.INK, linestyle="none", marker="x", markersize=7, markeredgewidth=1.4, zorder=5)


def is_staircase(profile: Profile) -> bool:
    return isinstance(profile.costs.verify, MeasuredTable) and profile.costs.verify.between == "step"


def _stack(axes: Axes, parts: dict[str, dict[float, float]], look: Look) -> None:
    requests = list(next(iter(parts.values())))
    bottom = np.zeros(len(requests))
    for part, times in parts.items():
        heights = np.array([times[r] for r in requests])
        axes.bar(range(len(requests)), heights, bottom=bottom, width=0.72, color=_TINTS[part], linewidth=0)
        bottom += heights
    if not look.narrow and look.height is None:  # where there is room for them
        for place, total in enumerate(bottom):
            text = f"{total:.3g}" if total >= 1 else f"{total:.2g}"
            axes.annotate(text, (place, total), (0, 3 * look.scale), textcoords="offset points", ha="center", fontsize="small", color=style.INK)
    axes.set_xticks(range(len(requests)), [wording.load(r) for r in requests])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, max(1.15 * float(bottom.max()), axes.get_ylim()[1]))


def tints_of(groups: dict[str, list[Line]]) -> dict[str, str]:
    names = list(dict.fromkeys(line.name for lines in groups.values() for line in lines))
    return {name: style.CYCLE[i % len(style.CYCLE)] if len(names) > 1 else style.BASELINE for i, name in enumerate(names)}


def is_measured(groups: dict[str, list[Line]]) -> bool:
    return any(line.rows is not None for lines in groups.values() for line in lines)


def _handles(groups: dict[str, list[Line]], tints: dict[str, str], look: Look) -> list[Line2D]:
    every = [line for lines in groups.values() for line in lines]
    handles = [style.entry(look, name, tint) for name, tint in tints.items()] if len(tints) > 1 else []
    cells = [line.rows for line in every if line.rows is not None]
    if any(line.covered for line in every):
        handles.append(style.entry(look, "dotted: beyond the data", style.MUTED, linewidth=1.4, linestyle=":"))
    if any(rows["eager"].any() for rows in cells):
        label = "hollow: eager, no graph"
        handles.append(style.entry(look, label, style.MUTED, linewidth=1.4, linestyle="--", marker="o", markersize=4, markerfacecolor=style.PAPER))
    if any(rows["suspicious"].ne("").any() for rows in cells):
        handles.append(style.entry(look, "crossed: suspicious", style.INK, linestyle="none", marker="x", markersize=7))
    return handles
