"""Users who leave and clients that give up, while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite

from simulator.engine.clock import Clock
from simulator.traffic.impatience import Senders, Timeout
from simulator.traffic.request import Ending, Request


class Leaving:
    """Watches the `live` requests, by their numbers. `over` is told of one that ends, `give_up` of an attempt that does (it returns the next one),
    and `send` of the next one when its time has come."""

    def __init__(
        self,
        env: Clock,
        senders: Senders,
        live: Mapping[int, Request],
        give_up: Callable[[Request], Request],
        over: Callable[[Request, Ending], None],
        send: Callable[[Request], None],
    ) -> None:
        self.env, self.senders, self.live = env, senders, live
        self.give_up, self.over, self.send = give_up, over, send

    def sent(self, request: Request, ranked: bool) -> None:
        """A request is sent for the first time; priorities count where they are `ranked`."""
        manner = self.senders.of(request.spec.index, request.spec.output_tokens)
        request.stop_tokens, request.priority = manner.stop_tokens, manner.priority if ranked else 0
        if isfinite(manner.patience_s):
            self._after(manner.patience_s, lambda: self._impatient(request.made))
        if manner.timeout is not None:
            self._watch(request, manner.timeout)

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        event = self.env.at(self.env.now + seconds)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: then())

    def _impatient(self, number: int) -> None:
        """A user leaves who has no first token yet."""
        request = self.live.get(number)
        if request is not None and not request.emitted_tokens:
            self.over(request, Ending.LEFT)

    def _watch(self, attempt: Request, timeout: Timeout) -> None:
        self._after(timeout.seconds, lambda: self._late(attempt.made, attempt.retries, timeout))

    def _late(self, number: int, attempt: int, timeout: Timeout) -> None:
        """The time of an attempt is over: unless it has what it should, its client gives it up, for good after the last."""
        request = self.live.get(number)
        if request is None or request.retries != attempt or (timeout.until == "first_token" and request.emitted_tokens):
            return
        if attempt == timeout.retries:
            self.over(request, Ending.TIMED_OUT)
            return
        following = self.give_up(request)
        self._after(self.senders.backoff_s(timeout, request.spec.index, attempt), lambda: self._again(following, timeout))

    def _again(self, attempt: Request, timeout: Timeout) -> None:
        """An attempt is sent, unless its user has left meanwhile."""
        if self.live.get(attempt.made) is attempt:
            self.send(attempt)
            self._watch(attempt, timeout)
