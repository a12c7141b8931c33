"""A request of the workload, and its state in the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import nan
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Flags, Floats, Integers
from simulator.traffic.content import Content, HashedPrompts

REQUESTS = 1 << 12  # of a session at most: numbers of requests and texts do not depend on other sessions


class Ending(IntEnum):
    """How a request ended: as it should (or it has not), its user left before the first token or stopped the answer, or its client gave up."""

    NONE = 0
    LEFT = 1
    STOPPED = 2
    TIMED_OUT = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands in its session: it is sent `pause_s` after the `waits` requests before it are done. When it is, it no longer holds up
    the `count` requests of the session from number `then` on. `call`: it is not a turn, but a call that its agent waits for.
    `said_tokens` of its prompt were said in the session before."""

    session: int
    turn: int
    then: int = 0
    count: int = 0
    waits: int = 0
    pause_s: float = 0.0
    call: bool = False
    said_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request of the workload.

    `index` keys its random streams (which recorded texts it walks), so it must not depend on the policy. `output_tokens` counts all tokens of the
    answer: the first comes at the end of prefill, the others from decode rounds. `cached_prompt_tokens` of the prompt are in a prefix cache
    and need no prefill. `content` is what a simulated prefix cache knows it by, `place` where it stands in its session.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    domain: str
    cached_prompt_tokens: int = 0
    content: Content | None = None
    place: Place | None = None

    def within(self, context_tokens: int | None) -> RequestSpec:
        """With an answer that ends where prompt and answer fill `context_tokens`; a prompt that does so alone is refused later on."""
        if context_tokens is None or self.prompt_tokens + self.output_tokens <= context_tokens:
            return self
        return replace(self, output_tokens=max(context_tokens - self.prompt_tokens, 1))


def within(output_tokens: Integers, prompt_tokens: Integers, context_tokens: int | None) -> Integers:
    """RequestSpec.within of many. # [n], [n] -> [n]"""
    return output_tokens if context_tokens is None else np.minimum(output_tokens, np.maximum(context_tokens - prompt_tokens, 1))


@dataclass(frozen=True, slots=True, eq=False)
class RequestColumns(Sequence[RequestSpec]):
    """Requests as columns # [n]: a list of RequestSpec in a tenth of its memory. `domain` is an index into `domains`."""

    request: Integers  # RequestSpec.index
    arrival_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    cached_prompt_tokens: Integers
    domain: Integers
    domains: tuple[str, ...]
    contents: HashedPrompts | None = None

    @classmethod
    def of(cls, specs: Sequence[RequestSpec]) -> RequestColumns:
        """The columns of a list of requests."""
        if isinstance(specs, RequestColumns):
            return specs
        domains = tuple(dict.fromkeys(s.domain for s in specs))
        places = {name: i for i, name in enumerate(domains)}
        whole = [(s.index, s.prompt_tokens, s.output_tokens, s.cached_prompt_tokens, places[s.domain]) for s in specs]
        index, prompt, output, cached, domain = np.array(whole, dtype=np.int64).reshape(-1, 5).T
        return cls(index, np.array([s.arrival_s for s in specs], dtype=np.float64), prompt, output, cached, domain, domains)

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.request, self.arrival_s, self.prompt_tokens, self.output_tokens, self.cached_prompt_tokens, self.domain

    def __len__(self) -> int:
        return len(self.request)

    @overload
    def __getitem__(self, at: int) -> RequestSpec: ...
    @overload
    def __getitem__(self, at: slice | Flags | Integers) -> RequestColumns: ...
    def __getitem__(self, at: int | slice | Flags | Integers) -> RequestSpec | RequestColumns:
        if isinstance(at, slice | np.ndarray):
            contents = None if self.contents is None else self.contents[at]
            return RequestColumns(*(column[at] for column in self._columns), self.domains, contents)  # type: ignore[arg-type, call-arg]
        return next(iter(self[np.array([at])]))

    def __iter__(self) -> Iterator[RequestSpec]:
        for start in range(0, len(self), 4096):
            part = self[start : start + 4096]
            rows = zip(*(column.tolist() for column in part._columns), strict=True)
            for row, (index, arrival_s, prompt, output, cached, domain) in enumerate(rows):
                content = None if part.contents is None else part.contents.of(row)
                yield RequestSpec(index, arrival_s, prompt, output, self.domains[domain], cached, content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__: Any = None


@dataclass(slots=True, eq=False)
class Request:
    """The state of a request in the engine."""

    spec: RequestSpec
    made: int = 0  # requests created before it
    user: int = -1  # closed loop: its user
    turn: int = -1
    measured: bool = False
    sent_s: float = nan  # later than its arrival where the client held it back
    first_token_s: float = nan
    finish_s: float = nan
    emitted_tokens: int = 0
    prefilled_tokens: int = 0  # of prompt plus emitted tokens, since it was last admitted
    last_emit_s: float = nan
    left_s: float = nan  # when it last left the batch with tokens emitted
    waited_s: float = 0.0  # outside the batch since its last round
    preemptions: int = 0
    rejected: bool = False
    ending: Ending = Ending.NONE
    ended_s: float = nan  # where it ended otherwise
    retries: int = 0  # attempts before this one
    stop_tokens: int = 0  # at which its user stops it, 0 for none
    priority: int = 0  # lower ones first
    replica: int = -1  # that holds it
    gone: bool = False  # nobody waits for it any more: what holds it lets it go
    cached_tokens: int = 0  # of its context, in the cache when it was last admitted
    hit_tokens: int = -1  # the same when it first was
    named: int = 0  # whole blocks that others can find
    withheld_tokens: int = 0  # said earlier in its session, and of no use to the prefix cache
    visit: int = 0  # index of the current sequence of its walk
    row: int = -1  # the next recorded row
    walk: object = field(default=None, repr=False)

    def again(self) -> Request:
        """The same from its beginning: prompt, tokens, first token and the place in the recorded text are lost."""
        kept = ("spec", "made", "user", "turn", "measured", "sent_s", "preemptions", "retries", "stop_tokens", "priority")
        return Request(**{name: getattr(self, name) for name in kept})

    @property
    def last_tokens(self) -> int:
        """Tokens of its answer with which it ends."""
        return self.stop_tokens or self.spec.output_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens whose keys and values its decode step reads."""
        return self.spec.prompt_tokens + self.emitted_tokens

    @property
    def to_prefill(self) -> int:
        """Tokens to process before it can decode."""
        return self.context_tokens - self.prefilled_tokens

    @property
    def finished(self) -> bool:
        """Has it emitted all its tokens?"""
        return self.finish_s == self.finish_s
