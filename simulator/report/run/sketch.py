"""The frontier as text: throughput over per-user speed, a letter per policy."""

from __future__ import annotations

import math
import re

from simulator.errors import visible
from simulator.report import wording
from simulator.study.run.facts import PolicyFacts
from simulator.study.run.result import RunResult

_PLAIN = 39  # the terminal's own colour, of the baseline
_TINTS = (34, 31, 32, 35, 33, 36)  # blue, red, green, magenta, yellow, cyan, as a terminal numbers them
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_Y = "throughput_tok_s_gpu"


def frontier(result: RunResult, width: int, coloured: bool) -> str:
    """The plot, and below it which letter is which policy."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.subplots(1, 1)
    figure.plot_size(min(width, 100), 18)
    drawn: list[tuple[float, float]] = []
    for policy in reversed(result.policies):  # the first policies lie on top
        pairs = [(point.mean(result.speed_metric), point.mean(_Y)) for point in result.points[policy.name]]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            figure.draw(figure.signal(*map(list, zip(*points, strict=True)), marker=_letter(policy, result)))
            drawn += points
    if not drawn:
        return "No point has both a speed and a throughput.\n" + _key(result, width, coloured)
    for axis, values in enumerate(zip(*drawn, strict=True)):
        ticks = _ticks(0.0 if axis == 1 else min(values), max(values))
        figure.ruler(axis, 0).lim(ticks[0], ticks[-1])
        figure.ruler(axis, 0).ticks(ticks, [wording.load(tick) for tick in ticks])
    figure.label(f"per-user speed, {wording.speed_unit(result)}", axis=0)
    figure.title("throughput, tok/s/GPU")
    text = "\n".join(line.rstrip() for line in figure.build().string(colorless=True).splitlines())
    figure.clear()
    return (_painted(text, result) if coloured else text) + "\n" + _key(result, width, coloured)


def _key(result: RunResult, width: int, coloured: bool) -> str:
    """`A one   B two`, as many on a line as fit."""
    lines, used = [""], 0
    for policy in result.policies:
        letter, name = _letter(policy, result), visible(policy.name) + " (bound)" * policy.bound
        if used and used + len(name) + 2 > width:
            lines, used = [*lines, ""], 0
        shown = f"\x1b[{_tint(policy, result)}m{letter}\x1b[0m" if coloured else letter
        lines[-1] += f"{shown} {name}   "
        used += len(name) + 5
    return "\n".join(line.rstrip() for line in lines)


def _painted(text: str, result: RunResult) -> str:
    """The letters inside the frame in their policies' colours, on whatever background the terminal has."""
    tints = {_letter(policy, result): _tint(policy, result) for policy in result.policies}

    def paint(line: str) -> str:
        head, bar, rest = line.partition("┤" if "┤" in line else "│")
        return head + bar + re.sub("[A-Z]", lambda letter: f"\x1b[{tints.get(letter[0], _PLAIN)}m{letter[0]}\x1b[0m", rest)

    return "\n".join(paint(line) for line in text.splitlines())


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose low and high, four to eight of them."""
    size = max(abs(low), abs(high), 1e-3)  # smaller differences are none that anybody sees
    span = high - low if high - low > 1e-9 * size else size
    unit = 10 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if span / (unit * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _letter(policy: PolicyFacts, result: RunResult) -> str:
    return _LETTERS[result.place(policy) % len(_LETTERS)]


def _tint(policy: PolicyFacts, result: RunResult) -> int:
    """The code of its colour."""
    return _PLAIN if policy.name == result.baseline else _TINTS[result.place(policy) % len(_TINTS)]
