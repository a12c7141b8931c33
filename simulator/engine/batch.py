"""The running requests of a replica as arrays, so that a step has no Python loop over requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Integers
from simulator.measurements.replay import Replay, Walk
from simulator.policies.verification import EngineView, Floats, Lengths
from simulator.traffic.request import Request

ROW, END, LEFT, CONTEXT, PAGES, LAG1, LAG2 = range(7)
NOTHING = np.zeros(0)


def view_of(
    replay: Replay, rows: Integers, before: Sequence[Integers], round_s: Floats, context_tokens: float, means: Floats | None, kept: Floats
) -> EngineView:
    """What a policy may see of requests at `rows` [R] that were at `before` 1, 2, … steps ago."""
    confidence = None if replay.confidence is None else replay.confidence.take(rows, axis=0)
    lagged = [replay.survival.take(then, axis=0) for then in before]
    view = EngineView(len(rows), replay.gamma, confidence, replay.survival.take(rows, axis=0), lagged, round_s, context_tokens, means, kept)
    if replay.proposed is not None:
        view.proposed, view.lagged_proposed = replay.proposed.take(rows), [replay.proposed.take(then) for then in before]
    return view


class Batch:
    """Slots 0..R-1 hold the running requests; who leaves is replaced by the last, so order carries no meaning."""

    def __init__(self, replay: Replay, most: int, smoothing: float | None = None) -> None:
        self.replay, self.smoothing = replay, smoothing
        self.means: Floats = np.full((most if smoothing is not None else 0, replay.gamma), -1.0)  # running ones of confidences; below 0: none yet
        self.state: NDArray[np.int64] = np.zeros((7, most), dtype=np.int64)
        self.requests: list[Request] = []
        self.context_total = 0
        self.newcomers: list[Request] = []  # joined since the last step

    def __len__(self) -> int:
        return len(self.requests)

    def join(self, request: Request, pages: int) -> None:
        """A request whose context is in the cache starts, or goes on, decoding."""
        slot = len(self.requests)
        walk, unknown = cast(Walk | None, request.walk), self.replay.unknown
        if walk is None or walk.of is not self.replay.first_row:  # new, or thrown out of a replica with other recordings: no row is common to both
            request.walk = walk = self.replay.walk(request.spec.index, request.spec.domain, request.spec.output_tokens)
            request.row, request.visit = walk.first[0], 0
        left = request.last_tokens - request.emitted_tokens
        self.state[:, slot] = (request.row, walk.end[request.visit], left, request.context_tokens, pages, unknown, unknown)
        if self.smoothing is not None:
            self.means[slot] = -1.0
        self.requests.append(request)
        self.context_total += request.context_tokens
        self.newcomers.append(request)

    def tell(self, request: Request) -> None:
        """Bring the counter of a request's tokens up to date."""
        request.emitted_tokens = request.last_tokens - max(int(self.state[LEFT, self.requests.index(request)]), 0)

    def leave(self, slot: int) -> tuple[Request, int]:
        """Take out the request in `slot`; returns it and its pages. Its own counters are brought up to date."""
        request, last = self.requests[slot], len(self.requests) - 1
        row, _, left, context, pages, _, _ = self.state[:, slot].tolist()
        request.row, request.emitted_tokens = row, request.last_tokens - max(left, 0)
        self.context_total -= context
        if request in self.newcomers:
            self.newcomers.remove(request)
        self.requests[slot] = self.requests[last]
        self.state[:, slot] = self.state[:, last]
        if self.smoothing is not None:
            self.means[slot] = self.means[last]
        self.requests.pop()
        return request, pages

    def context(self, longest: bool) -> float:
        """What a step is priced at: the mean of the requests' contexts, or the longest."""
        size = len(self.requests)
        return float(self.state[CONTEXT, :size].max()) if longest else self.context_total / size

    def view(self, round_s: Floats, lag: int, context_tokens: float = 0.0, kept: Floats = NOTHING) -> EngineView:
        """What a policy may see of this step."""
        size, means = len(self.requests), None
        rows, before = self.state[ROW, :size], [self.state[row, :size] for row in (LAG1, LAG2)[:lag]]
        if self.smoothing is not None and self.replay.gamma:
            means = self._mixed(rows) if lag == 0 else self.means[:size]
            means = np.where(means < 0, 1.0, means).cumprod(axis=1)
        return view_of(self.replay, rows, before, round_s, context_tokens, means, kept)

    def proposing(self) -> int | None:
        """How many of the requests propose anything in this step; None where all always do."""
        return self.replay.proposing(self.state[ROW, : len(self.requests)])

    def _mixed(self, rows: NDArray[np.int64]) -> Floats:
        """The running means of confidences with those of `rows`  # [R, γ]"""
        assert self.replay.confidence is not None
        assert self.smoothing is not None
        now, before = self.replay.confidence.take(rows, axis=0), self.means[: len(rows)]
        return np.where(before < 0, now, self.smoothing * before + (1 - self.smoothing) * now)

    def commit(self, lengths: Lengths, lag: int) -> tuple[int, int]:
        """Advance every request by its accepted tokens and the bonus; returns accepted and committed tokens of the batch."""
        size, state, replay = len(self.requests), self.state, self.replay
        if replay.gamma == 0:
            state[LEFT, :size] -= 1
            state[CONTEXT, :size] += 1
            self.context_total += size
            return 0, size
        rows = state[ROW, :size]
        if self.smoothing is not None:
            self.means[:size] = self._mixed(rows)
        if lag == 2:
            state[LAG2, :size] = state[LAG1, :size]
        if lag:
            state[LAG1, :size] = rows
        accepted = np.minimum(replay.accepted.take(rows), lengths)
        advance = accepted + 1
        rows += advance
        emitted = np.minimum(advance, state[LEFT, :size])
        state[LEFT, :size] -= emitted
        state[CONTEXT, :size] += emitted
        committed = int(np.add.reduce(emitted))
        self.context_total += committed
        for slot in (rows >= state[END, :size]).nonzero()[0].tolist():  # at the end of their recorded text: the next one of their walk
            request = self.requests[slot]
            walk = cast(Walk, request.walk)
            request.visit = (request.visit + 1) % len(walk.first)
            state[ROW, slot], state[END, slot] = walk.first[request.visit], walk.end[request.visit]
        return int(np.add.reduce(accepted)), committed

    def done(self) -> list[int]:
        """Slots whose requests have all their tokens, highest first."""
        finished = self.state[LEFT, : len(self.requests)] <= 0
        return cast(list[int], finished.nonzero()[0][::-1].tolist())
