"""The compiled path: which runs it can take, its tables, and the loop that gives the kernel what it asks for.

Longer than others, since all of it works on one set of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import isfinite, ldexp
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats
from simulator.engine.given import ClosedTraffic, Fleet, OpenTraffic, SessionTraffic, Traffic
from simulator.engine.kernel import layout as k
from simulator.engine.records import End, RequestRecord, Sink
from simulator.engine.tables import settings, tables, why_not, with_sessions
from simulator.kind import Lowered, lowering
from simulator.measurements.levels import normals
from simulator.measurements.prices import RoundPrices, front_end_s, reads_to_longest, scheduling_s
from simulator.policies.routing import LoadRouter, PrefixAware
from simulator.policies.verification import StepView
from simulator.rng import word_of
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.recorded_sessions import RecordedSource
from simulator.traffic.request import RequestColumns, within

_ROWS = 16384  # of each output, at most, between two looks of the driver
_LUCK = 4096
_MOST_PRICES = 1 << 23  # 64 MB of prices are kept, then asked for again


Parts = Mapping[str, Lowered]


@runtime_checkable
class DrawnUsers(Protocol):
    """A closed loop whose requests are a function of (user, turn) that gives many at once."""

    @property
    def domains(self) -> tuple[str, ...]: ...

    def draw(self, user: NDArray[np.int64], turn: NDArray[np.int64]) -> NDArray[np.int64]: ...


def lower(traffic: Traffic, fleet: Fleet) -> tuple[Parts, str]:
    """The parts of a fleet as numbers, and nothing; or why this run must go step by step through Python."""
    if find_spec("numba") is None:
        return {}, "numba is not installed (pip install 'dsim[fast]')"
    if why := _beyond(fleet) or why_not(traffic, fleet):
        return {}, why
    replay, settings, parts = fleet.replay, fleet.settings, {}
    rows = StepView(len(replay.accepted), replay.gamma, replay.confidence, replay.survival, (), np.empty(0))
    kinds: dict[str, tuple[Any, ...]] = {
        "policy": (fleet.policy, rows, settings.max_batch),
        "cost model": (fleet.prices,),
        "scheduler's cost model": (fleet.believed,),
        "router": (fleet.router,),
        "prefill": (settings.prefill,),
        "admission": (settings.admission,),
    }
    for what, (kind, *about) in kinds.items():
        if (numbers := lowering(kind, *about)) is None:
            return {}, f"the {what} is {type(kind).__name__}, written in Python"
        parts[what] = numbers
    if isinstance(traffic, ClosedTraffic) and not isinstance(traffic.source, DrawnUsers):
        return {}, f"the users are {type(traffic.source).__name__}, written in Python"
    return parts, ""


def _beyond(fleet: Fleet) -> str:
    """What a fleet has that the kernel does not know; empty where there is nothing."""
    if fleet.absences:
        return "replicas are away for a while, which is played in Python"
    if fleet.groups:
        return "replicas differ, which is played in Python"
    if fleet.pool is not None:
        return "prefill workers have a profile, a cache or a link of their own, which is played in Python"
    if isinstance(fleet.router, LoadRouter) and fleet.router.stale_s:
        return "the router sees loads of some time ago, which is played in Python"
    if isinstance(fleet.router, PrefixAware) and fleet.router.sees == "approximate":
        return "the router goes by what it has sent, which is played in Python"
    return ""


class CompiledRun:
    """The arrays of a run, and what the driver does when the kernel stops."""

    def __init__(self, traffic: Traffic, fleet: Fleet, parts: Parts, sink: Sink) -> None:
        self.traffic, self.fleet, self.parts, self.sink = traffic, fleet, parts, sink
        self.closed = traffic if isinstance(traffic, ClosedTraffic) else None
        self.specs = RequestColumns.of(traffic.specs if isinstance(traffic, OpenTraffic) else ())
        self.domains = _domains(traffic, self.specs)
        self.ends = {"prices": 1, "believed": 1}  # of the rows in the price tables
        self.drawn = 0  # choices of the router
        self.w = self._world()
        self.g = self.w.g[0]

    def run(self) -> End:
        from simulator.engine.kernel.run import run as resume

        answers: dict[int, Callable[[], None]] = {
            k.FLUSH: self._flush, k.GROW: self._grow, k.TURNS: self._turns, k.LUCK: self._luck, k.PROMPT: self._prompt, k.SESSIONS: self._sessions,
            k.PRICE: lambda: self._price("price_at", "prices", self.fleet.prices),
            k.BELIEVED: lambda: self._price("believed_at", "believed", self.fleet.believed),
        }  # fmt: skip
        while (wanted := resume(self.w)) != k.ENDED:
            if wanted == k.STARVED:
                raise RuntimeError("no events are left, and the run has not ended")
            answers[wanted]()
        return self._end()

    def _world(self) -> k.World:
        fleet, replay = self.fleet, self.fleet.replay
        most, count, gamma = fleet.settings.max_batch, fleet.replicas, replay.gamma
        more = tables(self.traffic, fleet)
        slack = 4 * most + 16 + (2 * len(more["pending"]) if isinstance(self.traffic, SessionTraffic) else 0)
        users = self.closed.users if self.closed else 0
        live = users + 4 if self.closed else 1024 + len(more["pending"])
        policy = self.parts["policy"]
        ranked, smoothed = policy.branch in ("scheduled", "smoothed"), policy.branch == "smoothed"
        value = np.sort(replay.survival, axis=None) if ranked else np.ones(1)
        rank = np.searchsorted(value, replay.survival) if ranked else np.zeros((1, 1))
        sequences = [replay.of_domain[name] for name in self.domains]
        levels = [replay.levels[name] for name in self.domains]
        at = np.cumsum([0, *map(len, sequences)])
        shortest = [int(replay.length[s].min()) for s in sequences]
        window = max(8, min(1024, (1 << 17) // max(users, 1), 2 * self.closed.turns if self.closed else 0))
        prices = _price_table(most)
        believed = prices if fleet.believed is fleet.prices else _price_table(most)
        specs = self.specs
        output = within(specs.output_tokens, specs.prompt_tokens, fleet.max_context)
        world = k.World(
            g=np.zeros(1, k.GLOBAL),
            requests=np.zeros(live, k.REQUEST),
            replicas=np.zeros(count, k.REPLICA),
            slots=np.zeros((count, most), k.SLOT),
            prefilling=np.zeros((count, most), np.int64),
            pieces=np.zeros((count, most), np.int64),
            newcomers=np.zeros((count, most), np.int64),
            events=np.zeros(count + 3 * live + slack + 16, k.EVENT),
            accepted=replay.accepted.astype(np.int32),
            proposed=np.zeros(1, np.int32) if replay.proposed is None else replay.proposed.astype(np.int32),
            rank=rank.astype(np.int32),
            value=value,
            survival=np.ascontiguousarray(replay.survival, dtype=np.float64),
            confidence=np.ascontiguousarray(replay.confidence if smoothed else np.zeros((1, 1)), dtype=np.float64),
            means=np.zeros((count, most, gamma) if smoothed else (1, 1, 1)),
            heap=np.zeros(most * gamma + 1 if smoothed else 1),
            by_row=np.zeros(1, np.int32) if policy.table is None else policy.table.astype(np.int32),
            first_row=replay.first_row.astype(np.int64),
            length=replay.length.astype(np.int64),
            candidates=np.concatenate([np.empty(0, np.int64), *sequences]).astype(np.int64),
            domains=np.stack([at[:-1], np.diff(at), shortest], axis=-1).astype(np.int64),
            pull=np.concatenate([np.empty(0), *(level.pull for level in levels)]),
            bounds=np.concatenate([np.empty(0), *(level.bounds for level in levels)]),
            by_level=np.concatenate([np.empty(0, np.int64), *(level.ranked for level in levels)]).astype(np.int64),
            levels=np.array([[level.drift, level.luck] for level in levels]).reshape(-1, 2),
            normals=normals(),
            price_at=prices[0], prices=prices[1], believed_at=believed[0], believed=believed[1],
            arrival_s=specs.arrival_s,
            arrivals=np.stack(
                [specs.request, specs.prompt_tokens, output, specs.cached_prompt_tokens, specs.domain], axis=-1
            ).astype(np.int64),
            turns=np.zeros((users, window, 4), np.int64),
            pauses=np.zeros((users, window)),
            turn_from=np.zeros(users, np.int64),
            turn_now=np.zeros(users, np.int64),
            **more,
            luck=np.zeros((_LUCK + slack, 2), np.int64),
            out_steps=np.empty(_ROWS, k.STEP_ROW),
            out_requests=np.empty(_ROWS + slack, k.REQUEST),
            out_joins=np.empty(_ROWS + slack, k.JOIN_ROW),
            out_waits=np.empty(_ROWS, k.WAIT_ROW),
            few=np.zeros(k.FEW),
            keys=np.zeros(most * gamma + 1, np.int32),
            ranked=np.zeros(most * gamma + 1, np.int32),
            counts=np.zeros(2 * most * gamma + 8, np.int32),
        )  # fmt: skip
        self._set(world, window, slack)
        return world

    def _set(self, world: k.World, window: int, slack: int) -> None:
        """Settings and the state at time 0."""
        fleet, g = self.fleet, world.g
        g["proposes"] = fleet.replay.proposed is not None
        g["gamma"], g["most"], g["replicas"] = fleet.replay.gamma, fleet.settings.max_batch, fleet.replicas
        g["capacity"], g["page"] = -1 if fleet.kv_pages is None else fleet.kv_pages, fleet.page_tokens
        g["max_context"] = fleet.max_context or 0
        g["lookahead"] = fleet.lookahead
        g["overhead_s"], g["scheduling_s"], g["prompt_factor"] = fleet.prices.overhead_s, scheduling_s(fleet.prices), 1.0
        for what, (field, branches) in k.BRANCHES.items():
            g[field] = branches.index(self.parts[what].branch)
            for name, number in self.parts[what].settings.items():
                g[name] = number
        for name, number in settings(self.traffic, fleet).items():
            g[name] = number
        world.replicas["oldest"] = world.replicas["newest"] = -1
        g["front_end_s"] = front_end_s(fleet.prices)
        g["to_longest"] = reads_to_longest(fleet.prices)
        g["word"] = word_of(fleet.replay.seed, "sequence", fleet.replay.replication)
        g["window"], g["slack"], g["phase"] = window, slack, k.BEGIN
        g["lucks"] = len(world.luck)  # all to be drawn
        g["queue_head"] = g["queue_tail"] = -1
        if isinstance(traffic := self.traffic, ClosedTraffic):
            g["closed"], g["users"], g["turns"], g["most_finished"] = 1, traffic.users, traffic.turns, traffic.most
            g["outstanding"], g["refill"] = traffic.users * traffic.turns, 1
        else:
            warmup_s, until_s = traffic.warmup_s, traffic.until_s
            g["warmup_s"], g["until_s"], g["limit_s"] = warmup_s, until_s, until_s + traffic.drain_s
            g["outstanding"] = isfinite(until_s)  # the window is to end, too
        if isinstance(traffic, OpenTraffic):
            measured = (warmup_s <= world.arrival_s) & (world.arrival_s < until_s)
            g["outstanding"] += int(measured.sum())
            g["in_flight"] = traffic.in_flight or 0
        world.requests["next"] = np.append(np.arange(1, len(world.requests)), -1)

    def _flush(self) -> None:
        """Hand the rows written so far to the sink."""
        w, g, sink = self.w, self.g, self.sink
        if g["warm"]:
            sink.warm(float(g["warm_s"]))
        takers: dict[str, Callable[[Floats], None]] = {
            "out_steps": sink.steps,
            "out_requests": lambda rows: sink.requests(rows, self.domains),
            "out_joins": sink.joins,
            "out_waits": sink.waits,
        }
        for output, take in takers.items():
            if g[output]:
                take(_columns(getattr(w, output)[: g[output]]))
                g[output] = 0

    def _grow(self) -> None:
        """Twice as many requests at a time, and room for what may happen to them."""
        w, n = self.w, len(self.w.requests)
        requests = np.concatenate([w.requests, np.zeros(n, w.requests.dtype)])
        requests["next"][n:] = np.append(np.arange(n + 1, 2 * n), self.g["free"])
        self.g["free"] = n
        self.w = w._replace(requests=requests, events=np.concatenate([w.events, np.zeros(3 * n, w.events.dtype)]))

    def _turns(self) -> None:
        """The turns that come next for every user."""
        w, closed = self.w, self.closed
        assert closed is not None
        users = np.arange(closed.users)
        w.turn_from[:] = w.turn_now
        turns = w.turn_now[:, None] + np.arange(w.turns.shape[1])
        w.turns[:] = closed.source.draw(users[:, None], turns)  # type: ignore[attr-defined]
        w.pauses[:] = closed.source.pause_s(users[:, None], turns)
        w.turns[..., 1] = within(w.turns[..., 1], w.turns[..., 0], self.fleet.max_context)
        for user in users[w.turn_now == 0]:  # turn 0 starts part of the way through its answer
            prompt, output = w.turns[user, 0, :2]
            left = max(1, int(np.ceil(int(output) * closed.residual[user])))
            w.turns[user, 0, :2] = prompt + output - left, left
        self.g["refill"] = 0

    def _sessions(self) -> None:
        """Some sessions more."""
        assert isinstance(self.traffic, SessionTraffic)
        assert isinstance(self.traffic.sessions, SessionSource | RecordedSource)
        self.w = with_sessions(self.w, self.traffic.sessions, self.fleet.max_context)

    def _luck(self) -> None:
        """Replicas drawn by the router: those not used yet, and new ones."""
        w, used = self.w, int(self.g["lucks"])
        w.luck[:-used] = w.luck[used:].copy()
        w.luck[-used:] = self.fleet.router.drawn(self.drawn, used, self.fleet.replicas, self.fleet.luck)
        self.g["lucks"], self.drawn = 0, self.drawn + used

    def _price(self, index: str, table: str, model: RoundPrices) -> None:
        """Add the price row that is wanted to a table."""
        size, context = int(self.g["want_size"]), int(self.g["want_context"])
        exponent, grain = divmod(context - 1, 129)
        tokens = ldexp(grain + 128, exponent - 8) if context else 0.0
        fewer = [model.draft_s(size, tokens, proposing=proposing) for proposing in range(size)] if self.g["proposes"] else []
        row = np.concatenate([fewer, [model.draft_s(size, tokens)], model.round_s(size, tokens)])
        at, prices = getattr(self.w, index), getattr(self.w, table)
        end = self.ends[table]
        if end + len(row) > len(prices):
            if len(prices) >= _MOST_PRICES:
                at[:] = 0
                end = 1
            else:
                prices = np.concatenate([prices, np.zeros(max(len(prices), len(row)))])
        prices[end : end + len(row)] = row
        at[size, context] = end + len(fewer)
        self.ends[table] = end + len(row)
        same = self.fleet.believed is self.fleet.prices
        self.w = self.w._replace(**dict.fromkeys(("prices", "believed") if same else (table,), prices))

    def _prompt(self) -> None:
        """The time of prompt tokens, where it is not a line."""
        g, prices = self.g, self.fleet.prices
        tokens, attended, beside = int(g["want_tokens"]), float(g["want_attended"]), int(g["beside"])
        g["answer_s"] = prices.prefill_s(tokens, attended) if beside < 0 else prices.chunk_s(tokens, attended, beside)
        g["answered"] = 1

    def _end(self) -> End:
        """Write down what is still out, and how the run ended."""
        w, g = self.w, self.g
        self._flush()
        live = w.requests[w.requests["live"] == 1]
        live = live[np.argsort(live["made"])]
        if len(live):
            self.sink.requests(_columns(live), self.domains)
        asked_s = np.sort(live["asked_s"][~np.isnan(live["asked_s"])])
        if len(asked_s):
            self.sink.waits(np.stack([asked_s, np.full(len(asked_s), np.inf)], axis=-1))
        decoding = [w.slots["pages"][p, :n].sum() for p, n in enumerate(w.replicas["batch"])]
        rings = [np.arange(r["first"], r["first"] + r["prefilling"]) % g["most"] for r in w.replicas]
        prefilling = [w.requests["pages"][w.prefilling[p, ring]].sum() for p, ring in enumerate(rings)]
        traffic = self.traffic
        return End(
            start_s=float(g["warm_s"]) if isinstance(traffic, ClosedTraffic) else traffic.warmup_s,
            end_s=float(g["now"]) if isinstance(traffic, ClosedTraffic) or not isfinite(traffic.until_s) else traffic.until_s,
            unfinished=int(g["outstanding"]),
            rejected=int(g["rejected"]),
            preemptions=int(g["preempted"]),
            kv_pages_left=int(w.replicas["used"].sum() - sum(decoding) - sum(prefilling) + live["named"].sum() - self._shared()),
            path="compiled",
        )

    def _shared(self) -> int:
        """Named blocks that are in use."""
        users = self.w.cached["users"]
        named = [table[table > 0] - 1 for table in self.w.table]
        return sum(int((users[p, entries] > 0).sum()) for p, entries in enumerate(named))


def _domains(traffic: Traffic, specs: RequestColumns) -> Sequence[str]:
    """Names that requests' domains are places of."""
    if isinstance(traffic, SessionTraffic):
        return traffic.sessions.domain_names
    return traffic.source.domains if isinstance(traffic, ClosedTraffic) else specs.domains  # type: ignore[attr-defined]


def _columns(records: NDArray[Any]) -> Floats:
    """Rows of the kernel as a sink takes them, whose they then are."""
    if records.dtype != k.REQUEST:
        return records.view(np.float64).reshape(len(records), -1).copy()
    return np.stack([records[name].astype(np.float64) for name in RequestRecord._fields], axis=-1)


def _price_table(most: int) -> tuple[NDArray[np.int32], Floats]:
    """An empty one: where rows begin, by requests and context, and the rows; place 0 stands for a price not known."""
    return np.zeros((most + 1, k.CONTEXTS), np.int32), np.zeros(1 << 16)
