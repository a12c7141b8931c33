"""The sessions of a run that are under way: which of their requests have been sent, and which wait for which."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from simulator.engine.clock import Clock
from simulator.engine.given import SessionTraffic
from simulator.engine.kernel.layout import REFUSED_S
from simulator.traffic.request import Request, RequestSpec


@dataclass(slots=True)
class Live:
    """A session: its requests, how many each still waits for, and how many are not done."""

    requests: Sequence[RequestSpec]
    waits: list[int]
    left: int


class LiveSessions:
    """Starts sessions and sends what follows in them; `over` is told the number of each that has ended."""

    def __init__(self, env: Clock, traffic: SessionTraffic, send: Callable[[RequestSpec], None], over: Callable[[int], None]) -> None:
        self.env, self.traffic, self.send, self.over = env, traffic, send, over
        self.live: dict[int, Live] = {}
        self.next = len(traffic.starts_s)  # closed loop: the number of the session that begins where one ends

    def play(self) -> Generator[simpy.Event, Any, None]:
        """Every session at its time; those of a closed loop on their way."""
        traffic = self.traffic
        for number, start_s in enumerate(traffic.starts_s.tolist()):
            if start_s > self.env.now:
                yield self._due(start_s)
            self._start(number, 0.0 if traffic.under_way is None else float(traffic.under_way[number]))

    def _start(self, number: int, share: float = 0.0) -> None:
        """A session begins; one that is under way at a turn, and at a time of the pause before it, by the `share` of it that is over."""
        requests = self.traffic.sessions.session(number)
        turns = [row for row, spec in enumerate(requests) if spec.place and not spec.place.call]
        at, over = divmod(share * len(turns), 1.0)
        first = turns[int(at)]
        place = requests[first].place
        assert place is not None
        self.live[number] = Live(requests, [spec.place.waits if spec.place else 0 for spec in requests], len(requests) - first)
        self._after(number, first, place.pause_s * (1 - over) if first else 0.0)

    def _after(self, number: int, row: int, pause_s: float) -> None:
        if pause_s <= 0:
            self._send(number, row)
        else:
            self._due(self.env.now + pause_s, lambda _: self._send(number, row))

    def _send(self, number: int, row: int) -> None:
        """A request of a session, unless that has ended with one that was refused."""
        if number in self.live:
            self.send(self.live[number].requests[row])

    def _due(self, time_s: float, then: Callable[[simpy.Event], None] | None = None) -> simpy.Event:
        """At this time, and not some roundings later."""
        event = self.env.at(time_s)
        if then is not None and event.callbacks is not None:
            event.callbacks.append(then)
        return event

    def done(self, request: Request) -> None:
        """Send what waited for this request alone. A session of which a request is refused, or ends otherwise, is over."""
        place = request.spec.place
        assert place is not None
        number, live = place.session, self.live.get(place.session)
        if live is None:
            return
        live.left -= 1
        if request.rejected or request.ending or not live.left:
            del self.live[number]
            self.over(number)
            if self.traffic.under_way is not None:
                following, self.next = self.next, self.next + 1
                self._due(self.env.now + (REFUSED_S if request.rejected else 0.0), lambda _: self._start(following))
            return
        for row in range(place.then, place.then + place.count):
            live.waits[row] -= 1
            if not live.waits[row]:
                then = live.requests[row].place
                assert then is not None
                self._after(number, row, then.pause_s)
