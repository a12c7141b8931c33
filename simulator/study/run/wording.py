"""Numbers as people read them, in answers and in tables alike: thousands, intervals, gains; a dash where nothing is known."""

from __future__ import annotations

from simulator.study.run.result import Estimate, Range

DASH = "–"

PARAMETERS = {  # what a profile may be unsure of
    "step": "step time", "verified": "cost of drafted tokens", "growth": "cost beyond the measured tokens", "draft": "draft cost",
    "scheduling": "cost of scheduling", "prefill": "cost of prompts", "level": "acceptance", "tilt": "acceptance along a block", "pace": "all times",
}  # fmt: skip


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


def bounds(estimate: Estimate | None, decimals: int | None = None) -> str:
    """The interval alone, `79.8…80.9`; empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{plain(estimate.low, decimals)}…{plain(estimate.high, decimals)}"


def interval(estimate: Estimate | None, decimals: int | None = None) -> str:
    """`80.3 (79.8…80.9)`."""
    if estimate is None:
        return DASH
    around = bounds(estimate, decimals)
    return plain(estimate.mean, decimals) + (f" ({around})" if around else "")


def percent(fraction: float | None, decimals: int | None = None, signed: bool = True) -> str:
    """`+51 %` of 0.51."""
    return DASH if fraction is None else f"{_signed(100 * fraction, decimals, signed)} %"


def share(fraction: float) -> str:
    """`90 %` of 0.9, `99.9 %` of 0.999."""
    return f"{100 * fraction:.3g} %"


def money(amount: float | None) -> str:
    """`0.93`, `12.50`, `1,250`."""
    return plain(amount, 2 if amount is not None and 0.1 <= abs(amount) < 100 else None)


def count(number: float, what: str) -> str:
    """`1 GPU`, `3 GPUs`."""
    return f"{number:g} {what}" + ("" if number == 1 else "s")


def gain_bounds(estimate: Estimate | None) -> str:
    """`49…53`, or `−2…+3` where zero lies between."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    decimals = _gain_decimals(estimate.mean)
    return "…".join(_signed(100 * bound, decimals, estimate.low < 0) for bound in (estimate.low, estimate.high))


def gain(estimate: Estimate | None, prediction: Range | None = None) -> str:
    """`+51 % (49…53) [38…66]`: in brackets the prediction interval."""
    if estimate is None:
        return DASH
    around = gain_bounds(estimate)
    return " ".join(filter(None, (percent(estimate.mean), f"({around})" if around else "", gain_predicted(estimate, prediction))))


def predicted(prediction: Range | None, decimals: int | None = None) -> str:
    """A prediction interval, `[70.2…92.1]`; empty where there is none."""
    return (
        "" if prediction is None or prediction.low == prediction.high else f"[{plain(prediction.low, decimals)}…{plain(prediction.high, decimals)}]"
    )


def gain_predicted(estimate: Estimate, prediction: Range | None) -> str:
    """`[38…66]`, of a gain."""
    return "" if prediction is None else f"[{gain_bounds(Estimate(estimate.mean, prediction.low, prediction.high))}]"


def intervals(noise: str, prediction: str) -> str:
    """`simulation noise 49…53, prediction interval 38…66`: never the one without the name of it."""
    told = (f"{name} {text}" for name, text in (("simulation noise", noise), ("prediction interval", prediction.strip("[]"))) if text)
    return ", ".join(told)


def of_draws(share: float, draws: int) -> str:
    """`in 97 of 100 draws`; nearly all are not all."""
    hundred = round(100 * share)
    if 0 < share < 1 and hundred in (0, 100):
        return f"in {round(share * draws)} of {draws} draws"
    return f"in {hundred} of 100 draws"


def gain_mean(estimate: Estimate | None) -> str:
    """`+51 %`."""
    return percent(estimate.mean if estimate else None)


def _gain_decimals(fraction: float) -> int:
    return 1 if abs(fraction) < 0.1 else 0


def _signed(value: float, decimals: int | None, signed: bool) -> str:
    text = plain(value, _gain_decimals(value / 100) if decimals is None else decimals)
    return f"+{text}" if signed and value > 0 else text
