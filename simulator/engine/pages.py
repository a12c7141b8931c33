"""The memory of a replica: pages for keys and values, and with a prefix cache what they hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from simulator.policies.prefix_cache import PrefixCaching
from simulator.traffic.request import Request


@dataclass(slots=True)
class KvCache:
    """Pages of `page_tokens` tokens; `capacity` None where memory is not known and so no limit. `used` are those of requests."""

    capacity: int | None
    page_tokens: int
    used: int = 0

    def pages(self, tokens: int) -> int:
        """Pages that `tokens` tokens occupy."""
        return -(-tokens // self.page_tokens)

    def fits(self, pages: int) -> bool:
        """Is there room for `pages` more?"""
        return self.capacity is None or self.used + pages <= self.capacity

    def take(self, pages: int) -> None:
        """Occupy pages that fit."""
        assert self.fits(pages), "took pages that do not fit"
        self.used += pages

    def admit(self, request: Request, pages: int) -> bool:
        """Occupy the pages of a request that is to run, if they fit, and say how much of its context is in the cache."""
        if not self.fits(pages):
            return False
        self.take(pages)
        request.cached_tokens = min(request.spec.cached_prompt_tokens, request.context_tokens - 1)
        return True

    def computed(self, request: Request, tokens: int) -> None:
        """The first `tokens` of a request's context have keys and values."""

    def leave(self, request: Request, pages: int) -> None:
        """A request with so many pages ends or is thrown out."""
        self.used -= pages
        assert self.used >= 0, "gave back more pages than were taken"

    def unowned(self, requests: dict[Request, int]) -> int:
        """Pages in use beside those of the requests that hold so many each."""
        return self.used - sum(requests.values())


@dataclass(slots=True)
class PrefixCache(KvCache):
    """Pages with content. Whole blocks that are computed get a name, requests that begin alike share them, and those that nobody uses stay until room
    is needed: the least recently used first, of one request the last first, never one in use.

    A page is free, in use (`used`, each once) or kept (`kept`).
    """

    rule: PrefixCaching = field(kw_only=True)
    speculates: bool = field(kw_only=True)
    users: dict[int, int] = field(default_factory=dict)  # requests that use a named block
    kept: OrderedDict[int, None] = field(default_factory=OrderedDict)  # named blocks that none does, the least recently used first
    evictions: int = 0

    def take(self, pages: int) -> None:
        KvCache.take(self, pages)
        while self.capacity is not None and self.used + len(self.kept) > self.capacity:
            self._forget(self.kept.popitem(last=False)[0])
            self.evictions += 1

    def _forget(self, block: int) -> None:
        """A kept block is evicted."""

    def matched(self, request: Request) -> int:
        """Blocks at the beginning of a request's context that are there, in whole units, less those that the engine computes again."""
        assert request.spec.content is not None
        full = (request.context_tokens - 1) // self.page_tokens  # the last token is always computed
        names, found = request.spec.content.names(0, full, self.page_tokens), 0
        while found < full and self.is_there(names[found]):
            found += 1
        return self.rule.used_blocks(found, self.page_tokens, self.speculates)

    def is_there(self, name: int) -> bool:
        """Is a block of this name in the memory?"""
        return name in self.users or name in self.kept

    def blocks(self, request: Request, count: int) -> Sequence[int]:
        """The first blocks of a request's context, which are there."""
        assert request.spec.content is not None
        return request.spec.content.names(0, count, self.page_tokens)

    def admit(self, request: Request, pages: int) -> bool:
        found = self.matched(request)
        mine = self.blocks(request, found)
        again = [block for block in mine if block in self.kept]
        if not self.fits(pages - found + len(again)):
            return False
        for block in again:
            del self.kept[block]
        self.used += len(again)
        for block in mine:
            self.users[block] = self.users.get(block, 0) + 1
        self.take(pages - found)
        self._found(request, found)
        return True

    def _found(self, request: Request, found: int) -> None:
        """A request is admitted with so many blocks that were there."""
        request.named, request.cached_tokens = found, found * self.page_tokens
        if request.hit_tokens < 0 and request.spec.place is not None:
            request.withheld_tokens = self._withheld(request.spec.place.said_tokens)

    def _withheld(self, said: int) -> int:
        """Tokens said earlier in a session that a request can never find, of a session whose last token has no keys and values."""
        blocks = self.rule.named_blocks(max(said - 1, 0), self.page_tokens, self.speculates)
        return said - self.rule.used_blocks(blocks, self.page_tokens, self.speculates) * self.page_tokens

    def computed(self, request: Request, tokens: int) -> None:
        """Name the whole blocks among the first `tokens`. One that another request has computed meanwhile is shared, and the page for it free."""
        assert request.spec.content is not None
        full = self.rule.named_blocks(tokens, self.page_tokens, self.speculates)
        if full <= request.named:
            return
        for name in request.spec.content.names(request.named, full, self.page_tokens):
            if name in self.kept:
                del self.kept[name]
            elif name in self.users:
                self.used -= 1
            self.users[name] = self.users.get(name, 0) + 1
        request.named = full

    def leave(self, request: Request, pages: int) -> None:
        self.used -= pages - request.named
        for block in reversed(self.blocks(request, request.named)):
            self.users[block] -= 1
            if not self.users[block]:
                del self.users[block]
                self.used -= 1
                self.kept[block] = None
        request.named = 0
        assert self.used >= 0, "gave back more pages than were taken"

    def unowned(self, requests: dict[Request, int]) -> int:
        return self.used - len(self.users) - sum(pages - request.named for request, pages in requests.items())


@dataclass(slots=True)
class CopyingCache(PrefixCache):
    """The same where a block that is computed again is kept beside the one that is there: `users` and `kept` count copies, `copies` has those of each
    name, the oldest first, which is the one that requests find."""

    copies: dict[int, dict[int, None]] = field(default_factory=dict)
    name_of: dict[int, int] = field(default_factory=dict)
    held: dict[Request, list[int]] = field(default_factory=dict)  # copies that a request uses, from its beginning on
    fresh: Iterator[int] = field(default_factory=count)

    def _forget(self, block: int) -> None:
        name = self.name_of.pop(block)
        del self.copies[name][block]
        if not self.copies[name]:
            del self.copies[name]

    def is_there(self, name: int) -> bool:
        return name in self.copies

    def blocks(self, request: Request, count: int) -> Sequence[int]:
        assert request.spec.content is not None
        if request in self.held:
            return self.held[request][:count]
        return [next(iter(self.copies[name])) for name in request.spec.content.names(0, count, self.page_tokens)]

    def admit(self, request: Request, pages: int) -> bool:
        if not PrefixCache.admit(self, request, pages):
            return False
        self.held[request] = list(self.blocks(request, request.named))
        return True

    def computed(self, request: Request, tokens: int) -> None:
        assert request.spec.content is not None
        full = self.rule.named_blocks(tokens, self.page_tokens, self.speculates)
        for name in request.spec.content.names(request.named, full, self.page_tokens) if full > request.named else ():
            copy = next(self.fresh)
            self.copies.setdefault(name, {})[copy], self.name_of[copy], self.users[copy] = None, name, 1
            self.held[request].append(copy)
        request.named = max(full, request.named)

    def leave(self, request: Request, pages: int) -> None:
        PrefixCache.leave(self, request, pages)
        del self.held[request]


def prefix_cache(capacity: int | None, page_tokens: int, rule: PrefixCaching, speculates: bool) -> PrefixCache:
    """Pages with content, as `rule` keeps them."""
    kind = CopyingCache if rule.keeps_copies else PrefixCache
    return kind(capacity, page_tokens, rule=rule, speculates=speculates)
