"""A run of the sample as predicted."""

from __future__ import annotations

from pydantic import NonNegativeFloat

from simulator.study.run.record import Record


class Predicted(Record):
    """One run as predicted, in seconds; with what a fit needs, and the package's own static estimate. `why`: it could not be."""

    id: str
    ttft_s: NonNegativeFloat = 0.0
    tpot_s: NonNegativeFloat = 0.0
    alone_ttft_s: NonNegativeFloat = 0.0  # before what schedulers hold back and the front end
    steps: NonNegativeFloat = 1.0
    collective_s: NonNegativeFloat = 0.0
    static_ttft_s: NonNegativeFloat = 0.0
    static_tpot_s: NonNegativeFloat = 0.0
    modelled: tuple[str, ...] = ()
    borrowed: tuple[str, ...] = ()
    why: str = ""
