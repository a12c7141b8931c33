"""Requests that end otherwise: users who leave, clients that give up and try again; and classes of requests, each with a promise of its own.
How patient a user is depends on seed, replication and request only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from simulator.arrays import Integers
from simulator.quantities import Seconds, Share, SomeSeconds, Weight, Within
from simulator.rng import uniform_at
from simulator.schema import Frozen
from simulator.traffic.goodput import Goodput
from simulator.traffic.lengths import Lengths
from simulator.traffic.pauses import SomePause

Retries = Annotated[int, Within(0, 100, "retries")]
Priority = Annotated[int, Within(-1000, 1000)]


class Timeout(Frozen):
    """The client gives an attempt up that has no first token after `seconds` (with `until: answer`, not its whole answer), and sends it again, at
    most `retries` times. It waits `backoff_s` before the first, twice as long before each further one, at most `most_backoff_s`, each less a random
    part of at most `jitter`: the defaults are those of OpenAI's Python client, whose timeout is 600 s."""

    seconds: SomeSeconds
    until: Literal["first_token", "answer"] = "first_token"
    retries: Retries = 2
    backoff_s: Seconds = 0.5
    most_backoff_s: Seconds = 8.0
    jitter: Share = 0.25


class Impatience(Frozen):
    """Who does not wait for the end. `patience_s`: a user leaves who has no first token so long after sending (a number is the mean of an exponential
    distribution). A `stop_share` of the users stop their answer, at a random token of it. `timeout`: what the client does."""

    patience_s: SomePause = None
    stop_share: Share = 0.0
    timeout: Timeout | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.patience_s is None and not self.stop_share and self.timeout is None:
            raise ValueError("expected at least one of patience_s, stop_share, timeout, got none")
        return self

    @property
    def words(self) -> str:
        """A sentence of a report, without its end."""
        said = [] if self.patience_s is None else [f"users leave who have no first token after their patience ({self.patience_s.words})"]
        said += [f"{100 * self.stop_share:g} % stop their answer at a random token"] if self.stop_share else []
        if (given := self.timeout) is not None:
            end = "a first token" if given.until == "first_token" else "the whole answer"
            said.append(f"clients give an attempt up after {given.seconds:g} s without {end} and try again up to {given.retries} times")
        words = "; ".join(said)
        return words[:1].upper() + words[1:]


class RequestClass(Frozen):
    """A class of requests: its `share` (relative to the others), the `sla` that each of its requests is promised, its `priority` (lower ones first,
    as in vLLM) and, where they differ from the workload's, its `impatience` and lengths."""

    share: Weight
    sla: Goodput
    priority: Priority = 0
    impatience: Impatience | None = None
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None


class Manner(NamedTuple):
    """How a request would end if nothing ended it before: seconds after sending at which its user leaves without a first token, and the token at
    which it is stopped (0: at none)."""

    patience_s: float
    stop_tokens: int
    timeout: Timeout | None
    priority: int


@dataclass(frozen=True)
class Senders:
    """Who sends the requests of one replication, by their numbers; `together` of them in a row are one user's."""

    impatience: Impatience | None
    classes: Mapping[str, RequestClass]
    seed: int
    replication: int
    together: int = 1

    @property
    def leave(self) -> bool:
        """Does anybody not wait for the end?"""
        return any(self._of(place) is not None for place in range(max(len(self.classes), 1)))

    def _of(self, place: int) -> Impatience | None:
        own = list(self.classes.values())[place].impatience if self.classes else None
        return own or self.impatience

    def group(self, request: Integers) -> Integers:
        """The place of each request's class. # [n] -> [n]"""
        edges = np.cumsum([one.share for one in self.classes.values()] or [1.0])
        u = uniform_at(self.seed, "class", self.replication, np.asarray(request, dtype=np.int64) // self.together)
        return np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), len(edges) - 1)

    def of(self, request: int, output_tokens: int) -> Manner:
        """What request number `request` with an answer of so many tokens does."""
        number = np.array([request])
        place = int(self.group(number)[0])
        given, priority = self._of(place), list(self.classes.values())[place].priority if self.classes else 0
        if given is None:
            return Manner(inf, 0, None, priority)
        patience_s, stop_tokens = inf, 0
        if given.patience_s is not None:
            patience_s = float(given.patience_s.at(self._uniform("patience", number))[0])
        if given.stop_share and output_tokens > 1 and self._uniform("stops", number)[0] < given.stop_share:
            stop_tokens = 1 + floor(float(self._uniform("stop", number)[0]) * (output_tokens - 1))
        return Manner(patience_s, stop_tokens, given.timeout, priority)

    def backoff_s(self, timeout: Timeout, request: int, retry: int) -> float:
        """Seconds before retry number `retry`, from 0, of a request."""
        longest = min(timeout.backoff_s * 2.0**retry, timeout.most_backoff_s)
        return longest * (1 - timeout.jitter * float(self._uniform("backoff", np.array([request]), np.array([retry]))[0]))

    def _uniform(self, cause: str, *index: Integers) -> Any:
        return uniform_at(self.seed, f"impatience {cause}", self.replication, *index)
