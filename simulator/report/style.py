"""How every picture looks: colours, type, layout, and files with the same bytes for the same result."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import quote, unquote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from simulator.errors import visible
from simulator.report import wording
from simulator.study.run.facts import PolicyFacts
from simulator.study.run.result import RunResult

INK, MUTED, FAINT, GRID, PAPER = "#1b1f24", "#5b6670", "#8a949e", "#e3e6e9", "#ffffff"
BASELINE = "#454c54"  # the black of Okabe and Ito's palette, softened; the policy all others are compared with
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89a00")  # Okabe–Ito, its yellow darkened for white paper
BOUND = " (bound)"  # behind the name of a policy that knows what no policy can know
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")

# The names under which a page's style sheet may restyle these colours for a dark screen.
VARIABLES = {INK: "ink", MUTED: "muted", FAINT: "faint", GRID: "grid", PAPER: "paper", BASELINE: "c-base"} | {c: f"c{i}" for i, c in enumerate(CYCLE)}

_TYPE_PT = 9.0  # of usual words on a page
_SCREEN_DPI = 96
_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": _TYPE_PT,
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
    "pdf.fonttype": 42,  # TrueType, which publishers ask for and editors can edit
    "ps.fonttype": 42,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Look:
    """The room a picture has, inches, and what is different there. Without a height it takes what it needs. `narrow`: a phone or a column of a
    paper. `type_pt`: of usual words; lines and marks go with it. `labels` rename what is drawn; `colours` are by name or in the order drawn."""

    width: float = 9.0
    height: float | None = None
    stretch: float = 1.0
    narrow: bool = False
    type_pt: float = 9.0
    title: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] | Sequence[str] = ()
    axes: tuple[Axes, ...] = ()  # somebody's own, to draw into

    @property
    def scale(self) -> float:
        """Of its type to that of a page."""
        return self.type_pt / _TYPE_PT

    def label(self, name: str) -> str:
        """What a policy, choice or drafter is called."""
        return self.labels.get(name, name)

    def colour(self, name: str, place: int, usual: str = "") -> str:
        """Of a policy, choice or drafter at its place in the picture; `usual` where nobody set any, else the next of the cycle."""
        usual = usual or CYCLE[place % len(CYCLE)]
        if isinstance(self.colours, Mapping):
            return self.colours.get(name, usual)
        return self.colours[place % len(self.colours)] if self.colours else usual


WIDE = Look()
PHONE = Look(width=4.3, stretch=0.86, narrow=True)


@contextmanager
def dressed(look: Look = WIDE) -> Iterator[None]:
    """matplotlib with our settings and nobody else's."""
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.filterwarnings("ignore", message="(?s).*[Gg]lyph.*missing from.*")  # names in other scripts: the page has a font for them
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _RC | {"font.size": look.type_pt}))
        yield


def written_out(figure: Figure) -> None:
    """Writes out what nobody sees in a figure's texts, which an SVG could not even hold."""
    for text in figure.findobj(Text):
        if visible(text.get_text()) is not text.get_text():
            text.set_text(visible(text.get_text()))


class Drawing(Figure):
    """A figure that is saved with our settings wherever it is saved, and that a notebook shows without pyplot."""

    def savefig(self, *options: Any, **more: Any) -> None:
        """As matplotlib does, with fonts inside the file."""
        with dressed():
            written_out(self)
            super().savefig(*options, **more)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """For notebooks: sharp, and as large as the figure is."""
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=2 * _SCREEN_DPI)
        width, height = self.get_size_inches()
        return out.getvalue(), {"width": round(width * _SCREEN_DPI), "height": round(height * _SCREEN_DPI)}


def named(axis: Any, names: Iterable[str]) -> None:
    """A tick for each name, from 0 on; in somebody's own axes too a name is text and no formula."""
    shown = [visible(name) for name in names]
    axis.set_ticks(range(len(shown)), shown, parse_math=False)


def thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: wording.load(round(value, 9))))


def colour(policy: PolicyFacts, result: RunResult, look: Look = WIDE) -> str:
    """The same for a policy in every picture; the baseline is neutral."""
    others = [other.name for other in result.policies if other.name != result.baseline]
    usual = BASELINE if policy.name == result.baseline else CYCLE[others.index(policy.name) % len(CYCLE)]
    return look.colour(policy.name, result.place(policy), usual)


def marker(policy: PolicyFacts, result: RunResult) -> str:
    return MARKERS[result.place(policy) % len(MARKERS)]


def handle(policy: PolicyFacts, result: RunResult, look: Look = WIDE) -> Line2D:
    """A policy's entry in a legend."""
    label = look.label(policy.name) + (BOUND if policy.bound else "")
    return entry(look, label, colour(policy, result, look), marker=marker(policy, result), linestyle="--" if policy.bound else "-")


def entry(look: Look, label: str, tint: str, **more: Any) -> Line2D:
    """A line of a legend."""
    usual = {"markersize": 5, "linewidth": 1.8} | more
    sizes = {name: usual.pop(name) * look.scale for name in ("markersize", "linewidth")}
    return Line2D([], [], color=tint, label=label, **sizes, **usual)


def hollow_handle(result: RunResult, look: Look = WIDE) -> list[Line2D]:
    """A legend entry for points that did not settle, where there are any."""
    seen = {point.verdict for point in result.frontier} - {"stable"}
    return [hollow(look, " or ".join(sorted(seen)))] if seen else []


def hollow(look: Look, meaning: str) -> Line2D:
    """A legend's entry for hollow marks."""
    label = meaning if look.narrow else f"hollow: {meaning}"
    return entry(look, label, MUTED, marker="o", markerfacecolor=PAPER, linestyle="none")


def published_handle(any_drawn: bool, look: Look = WIDE) -> list[Line2D]:
    return [entry(look, "published", FAINT, linewidth=4, alpha=0.45)] if any_drawn else []


def png(figure: Figure) -> bytes:
    """As a page shows it."""
    return encoded(figure, "png", dpi=180)


def svg(figure: Figure, salt: str) -> str:
    """With text as text; `salt` sets the ids in it."""
    return encoded(figure, "svg", {"svg.hashsalt": salt}).decode()


_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def encoded(figure: Figure, format: str, settings: Mapping[str, Any] = MappingProxyType({}), **more: Any) -> bytes:
    """The content of a file, without dates: the same figure gives the same bytes."""
    out = io.BytesIO()
    with dressed():
        mpl.rcParams.update(cast(Any, settings))
        written_out(figure)
        Figure.savefig(figure, out, format=format, metadata=_METADATA[format], **more)
    return out.getvalue()


_TAG = re.compile(r"<[^>]*>")
_TIPS = "tips-"  # the id of marks that have some, in their order


def tips(texts: Iterable[str]) -> str:
    """The id under which marks have these texts, which a page shows where somebody points at them."""
    return _TIPS + quote(json.dumps([visible(text) for text in texts]), safe="")


def _with_tips(group: re.Match[str]) -> str:
    """Marks with their texts: an attribute of each."""
    texts, marks = json.loads(unquote(group[1])), group[2].split("<use ")
    if len(marks) != len(texts) + 1:
        return f"<g>{group[2]}</g>"
    return "<g>" + marks[0] + "".join(f'<use data-tip="{escape(text)}" {mark}' for text, mark in zip(texts, marks[1:], strict=True)) + "</g>"


def inline(text: str, stem: str) -> str:
    """An SVG to stand inside a page: no header, no size of its own, ids that no other picture has, colours the page can change, tips of marks.
    Texts in it are left alone: they are names."""
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)  # the page has its style
    body = re.sub(rf'<g id="{_TIPS}([^"]*)">((?:(?!<g id=).)*?<g[^>]*>(?:(?!</g>).)*</g>\s*)</g>', _with_tips, body, flags=re.DOTALL)
    used = {target for tag in _TAG.findall(body) for target in re.findall(r'(?:href="#|url\(#)([^")]+)', tag)}

    def joined(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{stem}-{m[1]}"' if m[1] in used else "", tag[0])
        text = re.sub(r'(href="#|url\(#)', rf"\g<1>{stem}-", text)
        return re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], text)

    body = _TAG.sub(joined, body)
    _, box, _ = re.split(r'(viewBox="[^"]*")', body, maxsplit=1)
    return re.sub(r"<svg[^>]*>", f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box} aria-hidden="true" focusable="false">', body, count=1)
