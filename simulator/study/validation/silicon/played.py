"""One run of the sample, played: what its client would have printed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.engine.given import ReplicaSettings
from simulator.measurements.prices import RoundCost
from simulator.rng import stream
from simulator.study.estimate.hosts import Host
from simulator.study.run.benchmark import sent_to_one
from simulator.study.validation.silicon.priced import Priced
from simulator.study.validation.silicon.sample import Run
from simulator.study.validation.silicon.setups import setup_of
from simulator.traffic.request import RequestColumns


@dataclass(frozen=True)
class Played:
    """Means over all requests, in seconds; `steps` of the engine per step that decodes."""

    ttft_s: float
    tpot_s: float
    steps: float


class _Client:
    """A sink that keeps sums of what a client sees."""

    def __init__(self) -> None:
        self.ttft, self.tpot, self.count = np.zeros(2), np.zeros(2), np.zeros(2)

    def warm(self, start_s: float) -> None:
        """Nothing is left out."""

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord."""
        self.count += [len(rows), (rows[:, 3] > 0).sum()]

    def requests(self, rows: Floats, _domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        first, finish, tokens, sent = rows[:, 7], rows[:, 8], rows[:, 10], rows[:, 15]
        several = (tokens > 1) & np.isfinite(finish)
        self.ttft += [np.nansum(first - sent), np.isfinite(first).sum()]
        self.tpot += [((finish - first)[several] / (tokens[several] - 1)).sum(), several.sum()]

    def joins(self, rows: Floats) -> None:
        """Not looked at."""

    def waits(self, rows: Floats) -> None:
        """Not looked at."""

    def outside(self, rows: Floats) -> None:
        """Not looked at."""


def play(run: Run, prices: Priced, host: Host) -> Played:
    """The run's client against its replica."""
    setup = setup_of(run)
    luck = stream(zlib.crc32(run.id.encode()), "silicon")
    prompt, output = (_lengths(luck, tokens, setup.ratio, setup.prompts) for tokens in (run.prompt_tokens, run.output_tokens))
    zeros = np.zeros(setup.prompts, dtype=np.int64)
    requests = RequestColumns(np.arange(setup.prompts), np.zeros(setup.prompts), prompt, output, zeros, zeros, ("",))
    cost = RoundCost(prices.costs(host.host_s, host.collective), None, 0, 0)
    engine = ReplicaSettings(max_batch=run.concurrency, prefill=setup.prefill)
    known = prices.kv_tokens > run.prompt_tokens + run.output_tokens  # less was there in no run: the memory model is wrong about it
    client = _Client()
    sent_to_one(cost, engine, requests, run.concurrency, client, prices.kv_tokens if known else None)
    tpot_s = float(client.tpot[0] / max(client.tpot[1], 1))
    return Played(float(client.ttft[0] / max(client.ttft[1], 1)), tpot_s, float(client.count[0] / max(client.count[1], 1)))


def seen_s(run: Run, played: Played, host: Host) -> float:
    """TTFT as the client sees it: with the steps that schedulers are ahead or hold back, and the front end."""
    return played.ttft_s + setup_of(run).wait_steps * played.tpot_s + host.frontend_s


def _lengths(luck: np.random.Generator, tokens: int, ratio: float, count: int) -> Integers:
    """Uniform in [ratio n, n], both included."""
    return luck.integers(max(round(ratio * tokens), 1), tokens + 1, count).astype(np.int64)
