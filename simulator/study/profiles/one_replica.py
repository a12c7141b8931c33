"""One replica of the simulated engine, for fits and checks that have it in the loop."""

from __future__ import annotations

import numpy as np

from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import ClosedTraffic, Fleet, simulate
from simulator.measurements.prices import RoundPrices
from simulator.measurements.replay import Replay
from simulator.policies.prefill import Instant
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import VerificationPolicy
from simulator.rng import stream, uniform_at
from simulator.study.run.meter import RunMetrics, summarise
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.lengths import Fixed
from simulator.traffic.workload import Workload


def one_replica(settings: ReplicaSettings, policy: VerificationPolicy, replay: Replay, prices: RoundPrices) -> Fleet:
    """A fleet of one replica with ample memory for KV."""
    return Fleet(1, settings, policy, replay, prices, prices, RoundRobin(), None, 16, stream(0, "routing"))


def closed_loop(
    users: int,
    turns: int,
    output_tokens: int,
    policy: VerificationPolicy,
    replay: Replay,
    prices: RoundPrices,
    domains: dict[str, float] | None = None,
) -> RunMetrics:
    """Metrics of a closed loop of `users` without prompts, `turns` measured requests each; the same random draws at every call."""
    workload = Workload(arrivals=ClosedLoop(), prompt_tokens=Fixed(tokens=1), output_tokens=Fixed(tokens=output_tokens), domains=domains or {})
    fleet = one_replica(ReplicaSettings(max_batch=users, prefill=Instant()), policy, replay, prices)
    traffic = ClosedTraffic(users, workload.closed_loop(users, 0, 0), turns, uniform_at(0, "residual", 0, np.arange(users)))
    return summarise(simulate(traffic, fleet), 1.0, 1, False, False)
