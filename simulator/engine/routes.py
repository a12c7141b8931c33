"""What a router knows: how much each replica holds, or held some seconds ago; which had a session last, and what prompts each has in its cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from simulator.engine.given import Fleet
from simulator.engine.pages import PrefixCache
from simulator.engine.replica import Replica
from simulator.policies.routing import LoadRouter, PrefixAware, Seen
from simulator.traffic.request import Request


class Routes:
    """Of the replicas of a run. `names` are those of all blocks sent to each, where the router goes by what it has sent; `changes` (when, replica,
    one more or less) are those of the loads that it has not seen yet, where it sees them late."""

    def __init__(self, replicas: Sequence[Replica], fleet: Fleet) -> None:
        self.replicas, self.fleet = replicas, fleet
        self.home: dict[int, int] = {}  # by session
        guesses = isinstance(fleet.router, PrefixAware) and fleet.router.sees == "approximate"
        self.names: list[set[int]] | None = [set() for _ in replicas] if guesses else None

        self.stale_s = fleet.router.stale_s if isinstance(fleet.router, LoadRouter) else 0.0
        self.loads, self.changes = [0] * len(replicas), deque[tuple[float, int, int]]()

    def held(self, now_s: float, here: Sequence[int]) -> Sequence[int]:
        """Requests that the replicas hold, as the router sees them: [i] those of the i-th that is there."""
        if len(self.replicas) == 1:
            return [0]
        if not self.stale_s:
            return [self.replicas[number].held for number in here]
        while self.changes and self.changes[0][0] <= now_s - self.stale_s:
            _, number, more = self.changes.popleft()
            self.loads[number] += more
        return [self.loads[number] for number in here]

    def changed(self, now_s: float, number: int, more: int) -> None:
        """A replica holds one request more, or less."""
        if self.stale_s:
            self.changes.append((now_s, number, more))

    def seen(self, request: Request, arrival: int, held: Sequence[int], here: Sequence[int]) -> Seen:
        """What the router sees of a request and of the replicas that are there."""
        place = request.spec.place
        home = self.home.get(place.session, -1) if place else -1
        found = here.index(home) if home in here else -1
        return Seen(arrival, held, self.fleet.luck, found, request.spec.prompt_tokens, lambda: [self._cached(request, number) for number in here])

    def sent(self, request: Request, number: int) -> None:
        """A request was sent to this replica."""
        if request.spec.place is not None:
            self.home[request.spec.place.session] = number
        if self.names is not None and request.spec.content is not None:
            page = self.replicas[number].kv.page_tokens
            self.names[number].update(request.spec.content.names(0, request.context_tokens // page, page))

    def forget(self, session: int) -> None:
        """It is over."""
        self.home.pop(session, None)

    def _cached(self, request: Request, number: int) -> int:
        """Tokens of a prompt that a replica has, or is thought to have."""
        kv, content = self.replicas[number].kv, request.spec.content
        if content is None:
            return 0
        if self.names is None:
            return kv.matched(request) * kv.page_tokens if isinstance(kv, PrefixCache) else 0
        page, found = kv.page_tokens, 0
        for name in content.names(0, request.context_tokens // page, page):
            if name not in self.names[number]:
                break
            found += 1
        return found * page
