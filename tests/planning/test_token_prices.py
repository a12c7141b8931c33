"""Prices by kind of token add up to the fleet, and sessions are counted with their pauses."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from simulator.engine.records import RequestRecord, StepRecord
from simulator.study.planning import token_prices
from simulator.study.planning.trial import PromptTime, lengths, under_way


def step(end_s: float, prefill_s: float, rest_s: float) -> list[float]:
    row = dict.fromkeys(StepRecord._fields, 0.0) | {"start_s": end_s - prefill_s - rest_s, "end_s": end_s, "prefill_s": prefill_s, "verify_s": rest_s}
    return [row[name] for name in StepRecord._fields]


def request(session: int, arrival_s: float, finish_s: float, measured: bool = True) -> list[float]:
    row = RequestRecord(0, 0, session, 0, 0, measured, arrival_s, arrival_s, finish_s, 300, 20, 240, 20, 0, 0, arrival_s)
    return [float(value) for value in row]


def test_the_time_of_prompts_is_that_of_steps_in_the_window() -> None:
    time = PromptTime(1.0, 2.0)
    time.steps(np.array([step(0.9, 0.5, 0.1), step(1.5, 0.1, 0.3), step(1.9, 0.0, 0.4), step(2.5, 0.3, 0.1)]))
    on_replicas = SimpleNamespace(engine=SimpleNamespace(prefill=SimpleNamespace(where="replica")))
    assert time.share(cast(Any, on_replicas)) == pytest.approx(0.1 / 0.8)
    elsewhere = SimpleNamespace(engine=SimpleNamespace(prefill=SimpleNamespace(where="elsewhere")), gpus=12.0, prefill_gpus=3.0)
    assert time.share(cast(Any, elsewhere)) == 0.25
    assert PromptTime(0, 1).share(cast(Any, on_replicas)) is None


def test_sessions_are_under_way_from_their_first_request_to_their_last_answer() -> None:
    """One from 0 to 7 with a pause, one from 6 that has no end, one that is over before the window: 2 + 4 of 5 seconds."""
    rows = np.array([request(1, 0, 1), request(1, 6, 7), request(2, 6, nan), request(3, 0, 4, measured=False)])
    assert under_way(rows, 5.0, 10.0) == pytest.approx((2 + 4) / 5)
    assert under_way(rows[:0], 5.0, 10.0) == 0.0
    left, refused = request(1, 6, nan), request(2, 7, nan)
    left[RequestRecord._fields.index("ended_s")], refused[RequestRecord._fields.index("rejected")] = 8.0, 1.0
    assert under_way(np.array([left, refused]), 5.0, 10.0) == pytest.approx(2 / 5)  # over with whom it lost
    assert lengths(rows) == {"prompt_tokens_mean": 300, "output_tokens_mean": 20}


def test_prices_add_up_to_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour's tokens of each kind, at their prices, are what an hour of the fleet costs; cached ones cost nothing where no time depends on them."""
    plan = SimpleNamespace(shape=SimpleNamespace(tokens_per_s=1000.0), scenario=lambda _cell, _replicas: SimpleNamespace(policies=[None]))
    row = {"prompt_time_share": 0.4, "prefix_hit_share": 0.8, "prompt_tokens_mean": 300.0, "output_tokens_mean": 20.0}
    output, prompt = 3.6, 3.6 * 15  # million tokens an hour
    for per_context, share in ((0.0, 0.0), (1e-6, 240e-6 / (1e-4 + 270e-6))):
        prices = SimpleNamespace(prefill_s=lambda tokens, attended, slope=per_context: tokens * (1e-4 + slope * attended))
        monkeypatch.setattr(token_prices, "fleet_of", lambda _scenario, _policy, _k, prices=prices: SimpleNamespace(prices=prices))
        told = token_prices.token_prices(cast(Any, plan), 0, 10.0, cast(Any, [row, row]))
        assert told is not None
        assert told.cached is not None
        assert told.cached_share == pytest.approx(share)
        assert told.input * prompt * 0.2 + told.cached * prompt * 0.8 + told.output * output == pytest.approx(10.0)
        assert told.output == pytest.approx(6.0 / output)
    unknown = row | {"prompt_time_share": None}
    assert token_prices.token_prices(cast(Any, plan), 0, 10.0, cast(Any, [unknown])) is None
    assert token_prices.token_prices(cast(Any, plan), 0, 10.0, []) is None
