"""Numbers as people read them: units, intervals, gains; a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.report.reading import Estimate, Point, Story, number

DASH = "–"


@dataclass(frozen=True)
class Measure:
    """How one metric of a result is shown: its title and unit, the factor into that unit, and decimals (None: by size)."""

    title: str
    unit: str = ""
    factor: float = 1.0
    decimals: int | None = None

    def of(self, point: Point, metric: str) -> Estimate | None:
        found = point.get(metric)
        return found.scaled(self.factor) if found else None


def _times(name: str) -> dict[str, Measure]:
    unit, factor = ("s", 1.0) if name == "E2E" else ("ms", 1000.0)
    return {f"{name.lower()}_p{q}_s": Measure(f"{name}\N{NO-BREAK SPACE}p{q}", unit, factor) for q in (50, 90, 99)}


MEASURES: dict[str, Measure] = {
    "tps_per_user_mean": Measure("per-user speed, mean", "tok/s", decimals=1),
    "tps_per_user_p10": Measure("per-user speed, p10", "tok/s", decimals=1),
    "tps_per_user_p50": Measure("per-user speed, p50", "tok/s", decimals=1),
    "tps_per_user_p90": Measure("per-user speed, p90", "tok/s", decimals=1),
    "throughput_tok_s_gpu": Measure("throughput", "tok/s/GPU", decimals=0),
    "verification_budget": Measure("verification budget, anchor incl.", "tok/request/step", decimals=2),
    "accepted_length": Measure("accepted length, bonus incl.", "tok/step", decimals=2),
    **_times("TTFT"),
    **_times("TPOT"),
    **_times("ITL"),
    **_times("E2E"),
    "step_p50_s": Measure("step time p50", "ms", 1000.0),
    "waste_fraction": Measure("verified in vain", "%", 100.0, 1),
    "concurrency_mean": Measure("requests in service", "", decimals=1),
    "waiting_mean": Measure("requests waiting", "", decimals=1),
    "preemptions": Measure("preemptions", "", decimals=0),
    "unfinished": Measure("unfinished", "", decimals=0),
}

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
    ("SLA", "The least per-user speed that is promised."),
    (
        "verdict",
        "Overloaded (open loop): requests in the system grow over the window by more than 5 % of those that arrive, and by more than chance, "
        "or more than 2 % of the measured ones never finish; a longer run would look worse. Backlogged: a queue of at least one request, and of "
        "a tenth of those running, stands before the replicas but does not grow. Stable: neither.",
    ),
    ("bound", "A policy that knows what no policy can know. It shows how much is left to gain, and is never a plan."),
    ("interval", "95 % over replications, each with its own luck and, but for a trace, its own traffic; the same for every policy."),
    ("provenance", "Measured, imported (another engine’s log), published (read from a paper), fitted, or synthetic."),
)


def measure(metric: str) -> Measure:
    return MEASURES.get(metric, Measure(metric))


def plain(value: float | None, decimals: int | None = None) -> str:
    """A number with thousands separators and a true minus; decimals by size unless given."""
    if value is None:
        return DASH
    if decimals is None:
        size = abs(value)
        decimals = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 0.1 else 4
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def load(value: float | None) -> str:
    """A load as the user wrote it: 80, 0.25."""
    return DASH if value is None else f"{value:,.6g}".replace("-", "−")


def bounds(found: Estimate | None, decimals: int | None = None) -> str:
    """The interval alone, `79.8…80.9`; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{plain(found.low, decimals)}…{plain(found.high, decimals)}"


def interval(found: Estimate | None, decimals: int | None = None) -> str:
    """`80.3 (79.8…80.9)`."""
    if found is None:
        return DASH
    around = bounds(found, decimals)
    return plain(found.mean, decimals) + (f" ({around})" if around else "")


def percent(fraction: float | None, decimals: int | None = None, signed: bool = True) -> str:
    """`+51 %` of 0.51."""
    return DASH if fraction is None else f"{_signed(100 * fraction, decimals, signed)} %"


def gain_bounds(found: Estimate | None) -> str:
    """`49…53`, or `−2…+3` where zero lies between."""
    if found is None or found.low is None or found.high is None:
        return ""
    decimals = _gain_decimals(found.mean)
    return "…".join(_signed(100 * bound, decimals, found.low < 0) for bound in (found.low, found.high))


def gain(found: Estimate | None) -> str:
    """`+51 % (49…53)`."""
    if found is None:
        return DASH
    around = gain_bounds(found)
    return percent(found.mean, _gain_decimals(found.mean)) + (f" ({around})" if around else "")


def gain_mean(found: Estimate | None) -> str:
    """`+51 %`."""
    return DASH if found is None else percent(found.mean, _gain_decimals(found.mean))


def validation_cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Simulated, published, difference, limit and verdict of one comparison: a curve's rms, or a gain with its difference in points."""
    verdict = {True: "within", False: "outside"}.get(row.get("ok"), "")  # type: ignore[arg-type]
    simulated, published, difference, limit = (number(row.get(key)) for key in ("simulated", "published", "difference", "limit"))
    if row.get("unit") == "concurrency":
        steps = DASH if difference is None else f"{plain(difference)} step{'' if difference == 1 else 's'}"
        return simulated_or_beyond(simulated), simulated_or_beyond(published), steps, DASH if limit is None else plain(limit), verdict
    if row.get("unit") != "gain":
        return plain(simulated), plain(published), percent(difference, 1, signed=row.get("unit") == "value"), percent(limit, 1, signed=False), verdict
    apart = DASH if difference is None else f"{'+' if difference > 0 else '−' if difference < 0 else ''}{plain(abs(difference) * 100, 1)} points"
    return percent(simulated, 0), percent(published, 0), apart, percent(limit, 1, signed=False), verdict


def simulated_or_beyond(concurrency: float | None) -> str:
    """A concurrency at which curves cross, `beyond` where they do not within the grid."""
    return "beyond" if concurrency is None else plain(concurrency)


def speed_unit(story: Story) -> str:
    """The unit of the promised speed, with the statistic where it is not the mean over requests."""
    statistic = story.speed.removeprefix("tps_per_user_")
    return "tok/s/user" if statistic == "mean" else f"tok/s/user ({statistic})"


def short(text: str, width: int = 36) -> str:
    """Cut to `width` characters, so that a legend stays a legend."""
    return text if len(text) <= width else text[: width - 1] + "…"


def replications(story: Story) -> str:
    """`5 replications`, `3–5 replications`."""
    counts = sorted({point.n for point in story.all_points() if point.n is not None})
    if not counts:
        return ""
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"{span} replication" + ("" if counts == [1] else "s")


def certainty(story: Story) -> str:
    """What the bars and brackets are."""
    counts = replications(story)
    if not counts:
        return ""
    if counts == "1 replication":
        return "1 replication, so no intervals"
    return f"95 % intervals over {counts}"


def _gain_decimals(fraction: float) -> int:
    return 1 if abs(fraction) < 0.1 else 0


def _signed(value: float, decimals: int | None, signed: bool) -> str:
    text = plain(value, _gain_decimals(value / 100) if decimals is None else decimals)
    return f"+{text}" if signed and value > 0 else text
