"""Distributions of latency in a result: the quantiles of its requests, meaned over replications, and nothing where a time is not known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.study.run.build import build_result
from simulator.study.run.metrics import SHARES
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep


def test_curves_agree_with_the_metrics(scenario: Callable[..., Path]) -> None:
    known = load_scenario(scenario())  # its prompts take no time: a TTFT would mean nothing
    rows = sweep(known, workers=1)
    result = build_result(known, rows)
    for point in result.frontier:
        curve = dict(zip(SHARES, point.curves["tpot"], strict=True))
        assert list(point.curves) == ["tpot"]
        assert curve[0.5] == pytest.approx(point.mean("tpot_p50_s"), rel=1e-3)
        assert curve[0.99] == pytest.approx(point.mean("tpot_p99_s"), rel=1e-3)
        assert sorted(point.curves["tpot"]) == list(point.curves["tpot"])
