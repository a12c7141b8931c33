"""A workload into replicas: one run, from empty machines to the last measured request.

Longer than others, since all of it works on one clock and one set of live requests.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
import simpy

from simulator.engine.ahead import why_plain
from simulator.engine.clock import Clock
from simulator.engine.fast import CompiledRun, lower
from simulator.engine.given import Absence, ClosedTraffic, Fleet, OpenTraffic, SessionTraffic, Traffic, UserSource
from simulator.engine.leaving import Leaving
from simulator.engine.live_sessions import LiveSessions
from simulator.engine.pool import Pool
from simulator.engine.records import Buffer, End, Kept, Run, Sink, record_of
from simulator.engine.replica import Replica
from simulator.engine.routes import Routes
from simulator.measurements.prices import front_end_s
from simulator.traffic.request import Ending, Request, RequestSpec

__all__ = ["ClosedTraffic", "End", "Fleet", "OpenTraffic", "Run", "SessionTraffic", "Sink", "Traffic", "UserSource", "World", "observe", "simulate"]

Path = Literal["auto", "compiled", "plain"]


def simulate(traffic: Traffic, fleet: Fleet, path: Path = "auto") -> Run:
    """Run `traffic` through `fleet` and keep everything."""
    kept = Kept()
    return kept.run(observe(traffic, fleet, kept, path))


def observe(traffic: Traffic, fleet: Fleet, sink: Sink, path: Path = "auto") -> End:
    """Run `traffic` through `fleet`, telling `sink` what happens as it does: compiled where that can be, with the same numbers to the last bit."""
    parts, why = ({}, "asked for") if path == "plain" else lower(traffic, fleet)
    if path == "auto" and not why:
        why = why_plain(traffic, fleet)
    assert not (why and path == "compiled"), why
    return replace(World(traffic, fleet, sink).run(), why_plain=why) if why else CompiledRun(traffic, fleet, parts, sink).run()


class World:
    """The live state of one run: the clock, the replicas, and which measured requests are still out."""

    def __init__(self, traffic: Traffic, fleet: Fleet, sink: Sink) -> None:
        self.traffic, self.fleet, self.sink = traffic, fleet, sink
        self.env = Clock()
        self.done = self.env.event()
        self.live: dict[int, Request] = {}  # by the number of those that came before
        self.domains: dict[str, int] = {}
        self.queued_s: dict[int, float] = {}  # those that wait for a front end or a prefill worker, and since when
        self.records, self.join_gaps, self.prefill_waits = Buffer(sink.steps), Buffer(sink.joins), Buffer(sink.waits)
        self.outside = Buffer(sink.outside)
        self.closed = Buffer(lambda rows: sink.requests(rows, list(self.domains)))
        self.outstanding = self.finished_count = self.routed = self.made = self.rejected = 0
        self.warm_s = 0.0
        self.front_end_s, self.front_ends_free_s = front_end_s(fleet.prices), [0.0] * fleet.replicas
        self.sent = 0
        self.most = 0  # closed loop: requests until those still out are starved
        self.head: RequestSpec | None = None  # open loop: the next to come, and the others
        self.coming: Iterator[RequestSpec] = iter(())
        self.sessions: LiveSessions | None = None
        self.place: simpy.Event | None = None  # that a client at its limit waits for
        self.leaving = Leaving(self.env, traffic.senders, self.live, self._give_up, self._over, self._send) if traffic.senders else None
        self.pool = Pool(self.env, fleet, self.outside) if fleet.pool else None
        self.replicas = [self._replica(number) for number in range(fleet.replicas)]
        self.routes = Routes(self.replicas, fleet)
        self.away = [0] * fleet.replicas  # absences of each that are under way
        self.lost: list[tuple[float, int]] = []
        self.retired: list[Replica] = []
        self.stranded: list[Request] = []  # came while every replica was away
        for absence in fleet.absences:
            self.env.process(self._play(absence))
        self.prefill = fleet.settings.prefill
        self.workers = simpy.Resource(self.env, workers) if (workers := self.prefill.machines.at_a_time) else None

    def _replica(self, number: int) -> Replica:
        return Replica(self.env, number, self.fleet.of(number), self._finished, self._evicted, self.records, self.join_gaps, self.pool)

    def run(self) -> End:
        if isinstance(self.traffic, ClosedTraffic):
            self.outstanding, self.most = self.traffic.users * self.traffic.turns, self.traffic.most
            for user in range(self.traffic.users):
                self._next(self.traffic, user, 0)
            self.env.run(until=self.done)
            start, end = self.warm_s, self.env.now
        else:
            limit = self.traffic.until_s + self.traffic.drain_s
            if isinstance(self.traffic, SessionTraffic):
                self.sessions = LiveSessions(self.env, self.traffic, self._send_turn, self.routes.forget)
                self.env.process(self._play_sessions(self.sessions, self.traffic))
            else:
                self.env.process(self._arrive(self.traffic))
            self.env.run(until=self.env.any_of([self.done, self.env.timeout(limit)]))
            start, end = self.traffic.warmup_s, self.traffic.until_s if isfinite(self.traffic.until_s) else self.env.now
        return self._end(start, end)

    def _end(self, start_s: float, end_s: float) -> End:
        """Write down what is still out, and how the run ended."""
        held = [r.kv.unowned(r.pages) for r in self.replicas]
        for request in self.live.values():
            self._write(request)
        for since_s in self.queued_s.values():
            self.prefill_waits.append((since_s, np.inf))
        for buffer in (self.records, self.closed, self.join_gaps, self.prefill_waits, self.outside):
            buffer.flush()
        return End(
            start_s=start_s,
            end_s=end_s,
            unfinished=self.outstanding,
            rejected=self.rejected,
            preemptions=sum(r.preemptions for r in (*self.replicas, *self.retired)),
            kv_pages_left=sum(held),
            lost_tokens=sum(tokens for at, tokens in self.lost if start_s < at <= end_s),
        )

    def _arrive(self, traffic: OpenTraffic) -> Generator[simpy.Event, Any, None]:
        """Open loop: each request at its time, or when the client may send it."""
        self.outstanding = sum(traffic.warmup_s <= s.arrival_s < traffic.until_s for s in traffic.specs)
        self._end_window(traffic)
        self.coming = iter(traffic.specs)
        self.head = next(self.coming, None)
        while self.head is not None:
            if self.head.arrival_s > self.env.now:
                yield self.env.at(self.head.arrival_s)
            elif traffic.in_flight is not None and len(self.live) >= traffic.in_flight:
                self.place = self.env.event()
                yield self.place
            else:
                self._begin(self._arrived(traffic, self.head))

    def _end_window(self, traffic: OpenTraffic | SessionTraffic) -> None:
        """The window is to end, too, where it has an end."""
        self.outstanding += isfinite(traffic.until_s)
        window = self.env.timeout(traffic.until_s)
        assert window.callbacks is not None
        window.callbacks.append(lambda _: self._count_down())

    def _play_sessions(self, sessions: LiveSessions, traffic: SessionTraffic) -> Generator[simpy.Event, Any, None]:
        """Sessions that come or are under way, over a window."""
        self._end_window(traffic)
        yield from sessions.play()

    def _send_turn(self, spec: RequestSpec) -> None:
        """A request of a session is sent."""
        traffic, now = self.traffic, self.env.now
        assert isinstance(traffic, SessionTraffic)
        assert spec.place is not None
        measured = traffic.warmup_s <= now < traffic.until_s
        self.outstanding += measured
        sent = replace(spec, arrival_s=now).within(self.fleet.max_context)
        self._begin(Request(sent, self.made, spec.place.session, spec.place.turn, measured))

    def _arrived(self, traffic: OpenTraffic, spec: RequestSpec) -> Request:
        """The first of those to come."""
        self.head = next(self.coming, None)
        return Request(spec.within(self.fleet.max_context), self.made, measured=traffic.warmup_s <= spec.arrival_s < traffic.until_s)

    def _send_next(self, traffic: OpenTraffic, place: simpy.Event, rejected: bool) -> None:
        """A client at its limit sends the next request in the place of one that has ended; after a refusal it is woken up instead, since the
        next may be refused as well."""
        request = None if rejected or self.head is None else self._arrived(traffic, self.head)
        if request is None or self.head is None or self.head.arrival_s > self.env.now:
            self.place = None
            place.succeed()
        if request is not None:
            self._begin(request)

    def _ask(self, traffic: ClosedTraffic, user: int, turn: int) -> None:
        """Closed loop: the next request of a user; the first is some way into its answer."""
        spec = traffic.source.spec(user, turn, self.env.now).within(self.fleet.max_context)
        if turn == 0:
            left = max(1, int(np.ceil(spec.output_tokens * traffic.residual[user])))
            spec = replace(spec, prompt_tokens=spec.prompt_tokens + spec.output_tokens - left, output_tokens=left)
        self._begin(Request(spec, self.made, user, turn, measured=1 <= turn <= traffic.turns))

    def _begin(self, request: Request) -> None:
        self.live[self.made] = request
        self.made += 1
        request.sent_s = self.env.now
        if self.leaving is not None:
            self.leaving.sent(request, self.fleet.settings.admission.ranks)
        self._send(request)

    def _send(self, request: Request) -> None:
        """To the engine, through the front end of a replica: the next in turn, which is free first, since all requests take as long."""
        if not self.front_end_s:
            self._enter(request)
            return
        mine = self.sent % len(self.front_ends_free_s)
        self.sent += 1
        if self.front_ends_free_s[mine] > self.env.now:
            self.queued_s[request.made] = self.env.now
        self.front_ends_free_s[mine] = max(self.front_ends_free_s[mine], self.env.now) + self.front_end_s
        through = self.env.at(self.front_ends_free_s[mine])
        assert through.callbacks is not None
        through.callbacks.append(lambda _: self._through(request))

    def _through(self, request: Request) -> None:
        """The front end is done with a request, which has waited for it until it began."""
        if not request.gone and request.made in self.queued_s:
            self.prefill_waits.append((self.queued_s.pop(request.made), self.env.now - self.front_end_s))
        self._enter(request)

    def _write(self, request: Request) -> None:
        self.closed.append(record_of(request, self.domains.setdefault(request.spec.domain, len(self.domains))))

    def _enter(self, request: Request) -> None:
        """To the prefill machines where there are any, else straight to a replica; not at all where the prompt alone fills the context, or no
        prefill machine can hold it."""
        if request.gone:
            return
        too_long = self.fleet.max_context is not None and request.spec.prompt_tokens >= self.fleet.max_context
        if too_long or (self.pool is not None and not self.pool.fits(request)):
            request.rejected = True
            self._finished(request)
        elif self.prefill.where == "elsewhere" and request.to_prefill:
            self.env.process(self._prefill_elsewhere(request))
        else:
            self._route(request)

    def _route(self, request: Request) -> None:
        if request.gone:
            return
        here = [number for number, absences in enumerate(self.away) if not absences]
        if not here:
            self.stranded.append(request)
            return
        held, router = self.routes.held(self.env.now, here), self.fleet.router
        if router.remembers:
            chosen = here[router.place(self.routes.seen(request, self.routed, held, here))]
            self.routes.sent(request, chosen)
        else:
            chosen = here[router.choose(self.routed, held, self.fleet.luck)]
        self.routed += 1
        request.replica = chosen
        self.routes.changed(self.env.now, chosen, 1)
        self.replicas[chosen].submit(request)

    def _left(self, request: Request) -> None:
        """A replica, if any, holds a request no longer."""
        if request.replica >= 0:
            self.routes.changed(self.env.now, request.replica, -1)
            request.replica = -1

    def _release(self, request: Request) -> None:
        """Nothing holds it any longer."""
        self._left(request)
        if self.pool is not None:
            self.pool.leave(request)

    def _evicted(self, request: Request) -> None:
        """Thrown out of a replica, its prompt is processed elsewhere again."""
        self._left(request)
        self._enter(request)

    def _play(self, absence: Absence) -> Generator[simpy.Event, Any, None]:
        """A replica goes, dying at once or done with what it holds, and comes back; who waited for one goes on."""
        number = absence.replica
        yield self.env.timeout(absence.start_s)
        self.away[number] += 1
        if absence.abrupt:
            self.retired.append(self.replicas[number])
            requests = self.replicas[number].die()
            self.lost.append((self.env.now, sum(max(r.emitted_tokens - 1, 0) for r in requests)))  # the first token comes with the prompt
            self.replicas[number] = self._replica(number)
            for r in requests:
                self._release(r)
            for r in requests:  # all progress is lost: prompt, tokens, first token, and the place in the recorded text
                self.live[r.made] = r.again()
                self._enter(self.live[r.made])
        yield self.env.timeout(absence.end_s - absence.start_s)
        self.away[number] -= 1
        waiting, self.stranded = self.stranded, []
        for request in waiting:
            self._route(request)

    def _prefill_elsewhere(self, request: Request) -> Generator[simpy.Event, Any, None]:
        """Wait for a worker, process the prompt, emit the first token, move the cache (with a pool, when a replica has admitted the request)."""
        slot = self.workers.request() if self.workers is not None else None
        if slot is not None:
            self.queued_s[request.made] = self.env.now
            yield slot
            if request.gone and self.workers is not None:
                self.workers.release(slot)
                return
            self.prefill_waits.append((self.queued_s.pop(request.made), self.env.now))
        if self.pool is not None:
            yield from self.pool.compute(request)
        else:
            cached = min(request.spec.cached_prompt_tokens, request.to_prefill - 1) if not request.preemptions else 0
            tokens = request.to_prefill - cached
            yield self.env.timeout(self.fleet.prices.prefill_s(tokens, cached + tokens / 2))
        if slot is not None and self.workers is not None:
            self.workers.release(slot)
        if request.gone:
            self._release(request)
            return
        if request.emitted_tokens == 0:
            request.first_token_s = request.last_emit_s = request.left_s = self.env.now
            request.emitted_tokens = 1
        request.prefilled_tokens = request.context_tokens
        if request.emitted_tokens >= request.last_tokens:
            request.finish_s = self.env.now
            self._finished(request)
            return
        if self.pool is None:
            yield self.env.timeout(self.prefill.machines.moving_s)
        self._route(request)

    def _let_go(self, request: Request) -> None:
        """Nobody waits for this one any more: whatever holds it is to let it go."""
        request.gone = True
        if request.made in self.queued_s:
            self.prefill_waits.append((self.queued_s.pop(request.made), self.env.now))
        if request.replica >= 0:
            self.replicas[request.replica].drop(request)

    def _give_up(self, request: Request) -> Request:
        """A client gives an attempt up; the next one, not yet sent."""
        self._let_go(request)
        self._release(request)
        again = self.live[request.made] = request.again()
        again.retries += 1
        return again

    def _over(self, request: Request, ending: Ending) -> None:
        """A request ends now, before its answer does."""
        self._let_go(request)
        request.ending, request.ended_s = ending, self.env.now
        self._finished(request)

    def _finished(self, request: Request) -> None:
        """A request is done: count it, and let its user ask again."""
        if request.stop_tokens and request.finished:
            request.ending, request.ended_s, request.finish_s = Ending.STOPPED, request.finish_s, nan
        self._write(request)
        self._release(request)
        del self.live[request.made]
        self.finished_count += 1
        if request.measured:
            self.rejected += request.rejected
            self._count_down()
        if isinstance(traffic := self.traffic, ClosedTraffic):
            if self.finished_count == traffic.users:
                self.warm_s = self.env.now
                self.sink.warm(self.warm_s)
            if self.finished_count >= self.most and not self.done.triggered:
                self.done.succeed()
            if not self.done.triggered:
                self._next(traffic, request.user, request.turn + 1, request.rejected)
        elif self.sessions is not None:
            self.sessions.done(request)
            if request.ending:  # with all that its user has asked for at the same time
                for other in [r for r in self.live.values() if r.user == request.user]:
                    if other.made in self.live:
                        self._over(other, Ending.STOPPED if other.emitted_tokens else Ending.LEFT)
        elif self.place is not None and isinstance(traffic, OpenTraffic):
            self._send_next(traffic, self.place, request.rejected)

    def _next(self, traffic: ClosedTraffic, user: int, turn: int, rejected: bool = False) -> None:
        """The next request of a user, after a pause where there is one."""
        pause_s = float(traffic.source.pause_s(user, turn))
        if rejected or pause_s > 0:
            self.env.process(self._think(traffic, user, turn, pause_s))
        else:
            self._ask(traffic, user, turn)

    def _count_down(self) -> None:
        """One thing less that the run waits for."""
        self.outstanding -= 1
        if self.outstanding == 0 and not self.done.triggered:
            self.done.succeed()

    def _think(self, traffic: ClosedTraffic, user: int, turn: int, pause_s: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(pause_s)
        self._ask(traffic, user, turn)
