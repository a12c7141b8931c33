"""Numbers as people read them: units, intervals, gains; a dash where nothing is known."""

from __future__ import annotations

import re

from simulator.study.run.metrics import METRICS, Metric
from simulator.study.run.result import RunResult
from simulator.study.run.validated import ValidationRow
from simulator.study.run.wording import (
    DASH,
    bounds,
    gain,
    gain_bounds,
    gain_mean,
    gain_predicted,
    interval,
    intervals,
    load,
    money,
    of_draws,
    percent,
    plain,
    predicted,
    share,
)  # fmt: skip

__all__ = [  # numbers too: pages take all their words from here
    "DASH", "DEFINITIONS", "MEASURES", "UNIT_SPACE", "bounds", "certainty", "gain", "gain_bounds", "gain_mean", "gain_predicted", "interval",
    "intervals", "load", "money", "of_draws", "percent", "plain", "predicted", "share", "short", "speed_unit", "validation_cells",
]  # fmt: skip

UNIT_SPACE = re.compile(r"(?<=\d) (?=%|tok/s|(?:ms|s|GPUs?|USD)\b)")  # between a number and its unit: no line ends there

MEASURES: dict[str, Metric] = {metric.name: metric for metric in METRICS}

DEFINITIONS = (
    (
        "per-user speed",
        "What a user sees while decoding: (output tokens − 1) / (last token − first token), per request; quantiles are over requests. "
        "Its inverse is TPOT.",
    ),
    ("throughput", "Output tokens per second and GPU, over the measured window."),
    ("accepted length", "Tokens committed per request and step, the bonus token included: a policy that drafts nothing has 1."),
    ("verification budget", "Tokens per request sent through the target in a step, the anchor included: MTP-1 has 2."),
    (
        "TTFT, TPOT, ITL, E2E",
        "Time to first token; time per output token after it; gap between bursts as an engine streams them (a burst is one step’s tokens, "
        "so ITL is never inverted into a speed); arrival to last token.",
    ),
    ("SLA", "The per-user speed that must be reached."),
    (
        "verdict",
        "Overloaded (open loop): requests that wait grow over the window by more than 2 % of those that arrive, and by more than chance; "
        "a longer run would look worse. Backlogged: a queue of at least one request, and of a tenth of those running, waits in front of the "
        "replicas but does not grow. Stable: neither.",
    ),
    ("bound", "A policy that knows the outcomes in advance: an upper bound for comparison, never a plan."),
    (
        "simulation noise",
        "95 % over replications, each with its own random draws and, unless it is a trace, its own traffic; the same for every policy. It says how "
        "well the simulation knows its own mean, and nothing of what the profile or the model has wrong.",
    ),
    (
        "prediction interval",
        "Where a measurement is expected in 9 of 10 cases: the middle 90 % of draws of all that is not known, which are the numbers that the "
        "profile is not sure of, the model’s own error in past comparisons, and the random draws of a single run. All policies have the same "
        "draws, so what "
        "they share cancels in gains.",
    ),
    (
        "provenance",
        "Measured, imported (another engine’s log), published (read from a paper), fitted, estimated (composed of kernel times that others "
        "measured), or synthetic.",
    ),
)


def validation_cells(row: ValidationRow) -> tuple[str, str, str, str, str]:
    """Simulated, published, difference, limit and verdict of one comparison: a curve's rms, or a gain with its difference in points."""
    verdict = "" if row.ok is None else "within" if row.ok else "outside"
    if row.unit == "concurrency":
        steps = DASH if row.difference is None else f"{plain(row.difference)} step{'' if row.difference == 1 else 's'}"
        simulated, published = ("beyond" if crossing is None else plain(crossing) for crossing in (row.simulated, row.published))
        return simulated, published, steps, plain(row.limit), verdict  # beyond: the curves do not cross within the grid
    if row.unit == "gain":
        apart = DASH if row.difference is None else f"{'+' if row.difference > 0 else ''}{plain(row.difference * 100, 1)} points"
        return percent(row.simulated, 0), percent(row.published, 0), apart, percent(row.limit, 1, signed=False), verdict
    difference = percent(row.difference, 1, signed=row.unit == "value")
    return plain(row.simulated), plain(row.published), difference, percent(row.limit, 1, signed=False), verdict


def speed_unit(result: RunResult) -> str:
    """The unit of the promised speed, with the statistic where it is not the mean over requests."""
    statistic = result.speed_metric.removeprefix("tps_per_user_")
    return "tok/s/user" if statistic == "mean" else f"tok/s/user ({statistic})"


def short(text: str, width: int = 36) -> str:
    """Cut to `width` characters, so that a legend stays a legend."""
    return text if len(text) <= width else text[: width - 1] + "…"


def certainty(result: RunResult, marks: tuple[str, str] = ("bars: ", "bands: ")) -> str:
    """What the bars and bands of a picture are, or the bounds and brackets of a table."""
    counts = sorted({point.n for point in result.frontier})
    if not counts:
        return ""
    many = "–".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    noise = "1 replication, so no simulation noise" if counts == [1] else f"{marks[0]}simulation noise (95 %) over {many} replications"
    return noise + (f", {marks[1]}prediction interval (90 %)" if result.prediction else "")
