"""One benchmark of one replica without speculation, played in a moment: for checks and fits that play thousands of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.engine.given import ReplicaSettings
from simulator.engine.records import End, Sink
from simulator.engine.simulate import Fleet, OpenTraffic, observe
from simulator.measurements.prices import RoundPrices
from simulator.measurements.replay import nothing_drafted
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import NoSpeculation
from simulator.rng import stream
from simulator.study.run.client import printed
from simulator.study.run.meter import Meter
from simulator.traffic.request import RequestColumns


@dataclass(frozen=True)
class Played:
    """What the client of a benchmark printed (names of `vllm bench serve`, times in milliseconds), and which path of the engine ran."""

    numbers: dict[str, int | float | None]
    path: str

    def known(self, name: str) -> float:
        """A number that is known: `mean_ttft_ms`, `mean_tpot_ms`, `output_throughput`, …"""
        value = self.numbers[name]
        assert value is not None, name
        return float(value)


def alike(count: int, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> RequestColumns:
    """So many requests of one length, all there at time 0."""
    prompt, output, cached, domain = (np.full(count, tokens, dtype=np.int64) for tokens in (prompt_tokens, output_tokens, cached_tokens, 0))
    return RequestColumns(np.arange(count), np.zeros(count), prompt, output, cached, domain, ("",))


def sent_to_one(
    prices: RoundPrices,
    engine: ReplicaSettings,
    requests: RequestColumns,
    concurrency: int | None,
    sink: Sink,
    kv_tokens: int | None = None,
    page_tokens: int = 16,
    max_context: int | None = None,
) -> End:
    """`requests` sent to one replica, at most `concurrency` in flight, until all have ended; what happens goes to `sink`."""
    pages = None if kv_tokens is None else max(kv_tokens // page_tokens, 1)
    fleet = Fleet(
        1, engine, NoSpeculation(), nothing_drafted(), prices, prices, RoundRobin(), pages, page_tokens, stream(0, "routing"), (), max_context
    )
    return observe(OpenTraffic(requests, 0.0, np.inf, 0.0, in_flight=concurrency), fleet, sink)


def play(prices: RoundPrices, engine: ReplicaSettings, requests: RequestColumns, concurrency: int | None, max_context: int | None = None) -> Played:
    """What the client prints of such requests, all of them measured. A request of one token has no TPOT."""
    meter = Meter.whole()
    end = sent_to_one(prices, engine, requests, concurrency, meter, max_context=max_context)
    return Played(printed("vllm", meter, end, engine.prefill.where != "nowhere"), end.path)
