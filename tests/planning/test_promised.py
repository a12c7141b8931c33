"""What users saw against the promise, on requests made by hand."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from simulator.engine.records import RequestRecord
from simulator.study.planning.sla import Sla
from simulator.study.planning.trial import promised
from simulator.traffic.request import Ending


def seen(first_s: float, finish_s: float, tokens: int = 11, rejected: bool = False, measured: bool = True) -> RequestRecord:
    """A request that came at 1 s."""
    return RequestRecord(0, 0, -1, -1, 0, measured, 1.0, first_s, finish_s, 5, tokens, 0, 0, 0, rejected, 1.0)


def sla(share: float) -> Sla:
    return Sla.model_validate({"speed": {"tps": 10.0, "share": share}, "ttft": {"seconds": 1.0, "share": share}})


ROWS = np.array(
    [
        seen(1.5, 2.5),  # 10 tokens a second
        seen(2.0, 2.5),  # 20
        seen(3.0, 3.0),  # all at once
        seen(2.5, nan),  # not finished
        seen(nan, nan),  # never answered
        seen(nan, nan, 1, rejected=True),
        seen(1.25, 1.25, 1),  # a single token has no speed
        seen(1.0, 9.0, measured=False),
    ],
    dtype=np.float64,
)


def test_quantiles_are_of_the_measured_with_the_unanswered_as_slowest() -> None:
    found = promised(ROWS, sla(0.5))
    assert found["speed"] == 0.0  # of 0 0 0 10 20 inf, the half that must keep it begins after the third
    assert found["speed_kept"] == pytest.approx(3 / 6)
    assert found["ttft"] == 1.5  # of 0.25 0.5 1 1.5 2 inf inf
    assert found["ttft_kept"] == pytest.approx(3 / 7)
    assert promised(ROWS, sla(0.4))["speed"] == 10.0
    assert promised(ROWS, sla(0.9))["ttft"] is None


def test_who_gave_up_after_a_first_token_was_never_answered() -> None:
    gone = [seen(1.5, nan)._replace(ending=ending, ended_s=3.0) for ending in (Ending.TIMED_OUT, Ending.LEFT)]
    stopped = seen(1.5, nan)._replace(ending=Ending.STOPPED, ended_s=3.0)
    assert promised(np.array(gone, dtype=np.float64), sla(0.5))["ttft_kept"] == 0
    assert promised(np.array([stopped], dtype=np.float64), sla(0.5))["ttft_kept"] == 1


def test_nobody_measured_is_unknown() -> None:
    assert promised(ROWS[-1:], sla(0.9)) == {"speed": None, "speed_kept": None, "ttft": None, "ttft_kept": None}
