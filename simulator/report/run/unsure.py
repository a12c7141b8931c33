"""What an answer is not sure of, and the measurement that would narrow it most."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Column, Lines, Row, Table, table
from simulator.study.run.facts import UnsureFacts, WorthMeasuring
from simulator.study.run.result import RunResult
from simulator.study.run.wording import PARAMETERS

LEAST_SHARE, WORTH_IT = 0.005, 0.95  # of a variance, to be shown; of a width, to be advised


def unsure(result: RunResult) -> Table | None:
    """Shares of the variance of the answer's prediction interval, with what is known of each number and the measurement that would tell."""
    told = result.prediction
    if told is None or not told.about:
        return None
    rows = shares(told.unsure)
    past = next((error for error in told.model_error if error.metric == "speed"), None)
    known = f"from {past.comparisons:,} cells that were compared: {past.source}" if past and past.comparisons else ""
    rows.append(("the model itself", _percent(told.model_share), known))
    rows.append(("random draws", _percent(told.noise_share), "of a single run"))
    title = f"What widens the prediction interval of {told.about}: shares of its variance."
    return table("unsure", title, ("what", Column("share"), Column("what is known, and what would tell", words=True)), rows, words=4)


def shares(unsure: Sequence[UnsureFacts]) -> list[Row]:
    """Each number's share of a variance, and its note; the least are left out."""
    return [(_named(it), _percent(it.share), it.note) for it in unsure if it.share >= LEAST_SHARE]


def worth(result: RunResult) -> Lines:
    """The one measurement that would narrow the interval most, where one would."""
    told = result.prediction
    if told is None or told.measure is None or told.measure.left > WORTH_IT:
        return Lines(())
    return Lines((worth_most(told.measure, f"load {wording.load(told.measure.load)} ({result.load_unit})"),))


def worth_most(measure: WorthMeasuring, load: str) -> str:
    """The measurement in a sentence."""
    left = measure.left
    much = "halves this interval" if 0.45 <= left <= 0.55 else f"leaves {_percent(left)} of the width of this interval"
    return f"Worth most: one benchmark of {measure.policy} at {load}, its speed and accepted length, {much}."


def _named(it: UnsureFacts) -> str:
    return " of ".join(filter(None, (PARAMETERS.get(it.parameter, it.parameter), it.drafter)))


def _percent(share: float) -> str:
    return wording.percent(share, 0, signed=False)
