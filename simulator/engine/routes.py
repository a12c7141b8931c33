"""What a router that remembers knows: which replica had a session last, and what prompts each has in its cache."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.engine.given import Fleet
from simulator.engine.pages import PrefixCache
from simulator.engine.replica import Replica
from simulator.policies.routing import PrefixAware, Seen
from simulator.traffic.request import Request


class Routes:
    """Of the replicas of a run. `names` are those of all blocks sent to each, where the router goes by what it has sent."""

    def __init__(self, replicas: Sequence[Replica], fleet: Fleet) -> None:
        self.replicas, self.fleet = replicas, fleet
        self.home: dict[int, int] = {}  # by session
        guesses = isinstance(fleet.router, PrefixAware) and fleet.router.sees == "approximate"
        self.names: list[set[int]] | None = [set() for _ in replicas] if guesses else None

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
            page = self.fleet.page_tokens
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
        page, found = self.fleet.page_tokens, 0
        for name in content.names(0, request.context_tokens // page, page):
            if name not in self.names[number]:
                break
            found += 1
        return found * page
