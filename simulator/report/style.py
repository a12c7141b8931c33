"""How every picture looks: colours, type, layout, and files with the same bytes for the same result."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from simulator.files import write_whole
from simulator.report import wording
from simulator.study.run.result import PolicyFacts, RunResult

INK, MUTED, FAINT, GRID, PAPER = "#1b1f24", "#5b6670", "#8a949e", "#e3e6e9", "#ffffff"
BASELINE = "#454c54"  # the black of Okabe and Ito's palette, softened; the policy all others are compared with
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89a00")  # Okabe–Ito, its yellow darkened for white paper
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")

# The names under which a page's style sheet may restyle these colours for a dark screen.
VARIABLES = {INK: "ink", MUTED: "muted", FAINT: "faint", GRID: "grid", PAPER: "paper", BASELINE: "c-base"} | {c: f"c{i}" for i, c in enumerate(CYCLE)}

_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "path.simplify": False,
}


@dataclass(frozen=True)
class Look:
    """The room a picture has; inches. `narrow`: a phone."""

    width: float = 9.0
    stretch: float = 1.0
    narrow: bool = False


WIDE = Look()
PHONE = Look(width=4.3, stretch=0.86, narrow=True)


@contextmanager
def dressed() -> Iterator[None]:
    """matplotlib with our settings and nobody else's."""
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*")  # names in other scripts: the page has a font for them
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _RC))
        yield


_LEAST_AXES = 0.4  # inches of height for all axes together


def canvas(look: Look, height: float, rows: int = 1, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """An empty figure with `rows` axes over one another that share x."""
    figure = Figure(figsize=(look.width, height * look.stretch))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios or [1] * rows)})
    return figure, [row[0] for row in grid]


def dress(figure: Figure, look: Look, title: str, subtitle: str, handles: Sequence[Artist], left: float = 0.62, bottom: float = 0.5) -> None:
    """Title, subtitle and legend above, axes in what room is left; a figure that leaves too little grows. Margins in inches."""
    width, height = figure.get_size_inches()
    edge, y = 0.08, height - 0.1
    figure.text(edge / width, y / height, title, fontsize=11 if not look.narrow else 10, fontweight="bold", va="top")
    y -= 0.23
    for line in textwrap.wrap(subtitle, 58 if look.narrow else 1000, break_long_words=False, break_on_hyphens=False):
        figure.text(edge / width, y / height, line, fontsize=8.5 if not look.narrow else 7.5, color=MUTED, va="top")
        y -= 0.17
    y -= 0.02
    if handles:
        y -= _legend(figure, handles, edge, y)
    lacking = bottom + _LEAST_AXES + 0.42 - y
    if lacking > 0:
        for artist in (*figure.texts, *figure.legends):
            artist.remove()
        figure.set_size_inches(width, height + lacking + 0.01)
        dress(figure, look, title, subtitle, handles, left, bottom)
        return
    figure.subplots_adjust(
        left=left / width, right=1 - 0.2 / width, bottom=bottom / height, top=(y - 0.42) / height, hspace=0.4 if look.narrow else 0.26
    )


def _legend(figure: Figure, handles: Sequence[Artist], edge: float, y: float) -> float:
    """Place the legend with as many columns as fit; its height in inches."""
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=(edge / width, y / height), ncols=columns, borderaxespad=0, borderpad=0.2,
            handlelength=2.2, columnspacing=1.6, labelspacing=0.35,
        )  # fmt: skip
        box = legend.get_window_extent()
        if box.width / figure.dpi <= width - 2 * edge or columns == 1:
            return float(box.height) / figure.dpi
        legend.remove()
    return 0.0


def titled(axes: Axes, text: str, pad: float = 6) -> None:
    """The y axis's title, above it and level, where it can be read without turning one's head."""
    axes.set_title(text, loc="left", fontsize=9, color=MUTED, pad=pad)


def thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: wording.load(round(value, 9))))


def colour(policy: PolicyFacts, result: RunResult) -> str:
    """The same for a policy in every picture; the baseline is neutral."""
    if policy.name == result.baseline:
        return BASELINE
    others = [other.name for other in result.policies if other.name != result.baseline]
    return CYCLE[others.index(policy.name) % len(CYCLE)]


def marker(policy: PolicyFacts, result: RunResult) -> str:
    return MARKERS[result.place(policy) % len(MARKERS)]


def handle(policy: PolicyFacts, result: RunResult) -> Line2D:
    """A policy's entry in a legend."""
    tint, mark = colour(policy, result), marker(policy, result)
    label = legend_name(policy.name) + (" (bound, not a plan)" if policy.bound else "")
    return Line2D([], [], color=tint, marker=mark, markersize=5, linewidth=1.8, linestyle="--" if policy.bound else "-", label=label)


def legend_name(name: str) -> str:
    """Cut short; with a space before an underscore, since matplotlib leaves out labels that begin with one."""
    return f" {wording.short(name)}" if name.startswith("_") else wording.short(name)


def hollow_handle(result: RunResult) -> list[Line2D]:
    """A legend entry for points that did not settle, where there are any."""
    seen = {point.verdict for point in result.frontier} - {"stable"}
    label = "hollow: " + " or ".join(sorted(seen))
    return [Line2D([], [], color=MUTED, marker="o", markersize=5, markerfacecolor=PAPER, linestyle="none", label=label)] if seen else []


def published_handle(any_drawn: bool) -> list[Line2D]:
    return [Line2D([], [], color=FAINT, linewidth=4, alpha=0.45, label="broad and pale: published")] if any_drawn else []


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """`stem`.png and `stem`.svg in `folder`; the same result gives the same bytes."""
    drawn = {folder / f"{stem}.png": png(figure), folder / f"{stem}.svg": svg(figure, stem).encode()}
    for path, content in drawn.items():
        write_whole(path, content)
    return list(drawn)


def png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with dressed():
        figure.savefig(out, format="png", dpi=180, metadata={"Software": None})
    return out.getvalue()


def svg(figure: Figure, salt: str) -> str:
    out = io.StringIO()
    with dressed():
        mpl.rcParams["svg.hashsalt"] = salt
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def inline(text: str, stem: str) -> str:
    """An SVG to stand inside a page: no header, no size of its own, ids that no other picture has, colours the page can change."""
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{stem}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{stem}-", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], body)
    _, box, _ = re.split(r'(viewBox="[^"]*")', body, maxsplit=1)
    return re.sub(r"<svg[^>]*>", f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box} aria-hidden="true" focusable="false">', body, count=1)
