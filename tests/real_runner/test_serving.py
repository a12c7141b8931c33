"""Arrivals in time of `dsim validate --engine`."""

from __future__ import annotations

from pathlib import Path

import pytest

from real_runner.serving import Serving, _arrivals
from simulator.errors import DsimError


def test_arrivals_of_a_trace_are_played_at_the_rate(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at},9,9\n" for at in (5.0, 7.0, 6.0, 9.0)))
    assert _arrivals(Serving(arrivals=trace)) == (0.0, 1.0, 2.0, 4.0)
    assert _arrivals(Serving(arrivals=trace, rate=1.5, open_requests=3)) == pytest.approx((0.0, 2 / 3, 4 / 3))
    assert _arrivals(Serving()) == ()
    assert len(_arrivals(Serving(rate=2.0, open_requests=7))) == 7
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n3,9,9\n3,9,9\n")
    with pytest.raises(DsimError, match="expected requests at two times or more"):
        _arrivals(Serving(arrivals=trace))
