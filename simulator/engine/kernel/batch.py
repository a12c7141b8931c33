"""The running requests of a replica (engine/batch.py)."""

from __future__ import annotations

import numpy as np

from simulator.engine.kernel.compiling import hot, inner
from simulator.engine.kernel.layout import GOLDEN, M1, M2, SMOOTHED
from simulator.measurements.levels import LEVEL


@inner
def mix(x):
    x = (x ^ (x >> np.uint64(30))) * M1
    x = (x ^ (x >> np.uint64(27))) * M2
    return x ^ (x >> np.uint64(31))


@inner
def uniform(w, request, visit):
    """A request's luck at a visit (rng.uniform_at)."""
    word = mix((w.g[0].word + GOLDEN) ^ mix(np.uint64(request.request) + GOLDEN))
    word = mix((word + GOLDEN) ^ mix(np.uint64(visit) + GOLDEN))
    return float(word >> np.uint64(11)) * 2.0**-53


@inner
def sequence(w, r):
    """The recorded sequence that request r is in, by its visit (Replay.walk, Levels.then)."""
    request = w.requests[r]
    domain = request.domain
    start, count = w.domains[domain, 0], w.domains[domain, 1]
    began = start + int(uniform(w, request, 0) * count)
    if request.visit == 0:
        return w.candidates[began]
    size = len(w.normals)
    eta = w.normals[int(uniform(w, request, LEVEL) * size)]
    epsilon = w.normals[int(uniform(w, request, request.visit) * size)]
    wanted = (w.pull[began] + w.levels[domain, 0] * eta) + w.levels[domain, 1] * epsilon
    low, high = 0, count - 1  # the first bound that is not below it; the last is infinite
    while low < high:
        middle = (low + high) // 2
        if w.bounds[start + middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return w.by_level[start + low]


@inner
def join(w, p, r):
    replica, request = w.replicas[p], w.requests[r]
    chosen = sequence(w, r)
    if request.row < 0:
        request.visits = request.output_tokens // max(w.domains[request.domain, 2], 1) + 1
        request.row = w.first_row[chosen]
    slot = w.slots[p, replica.batch]
    unknown = len(w.accepted) - 1
    slot.id, slot.row, slot.lag1, slot.lag2 = r, request.row, unknown, unknown
    slot.end = min(w.first_row[chosen] + w.length[chosen], 2**31 - 1)
    slot.left, slot.pages = request.output_tokens - request.emitted_tokens, request.pages
    slot.context = request.prompt_tokens + request.emitted_tokens
    if w.g[0].rule == SMOOTHED:
        for k in range(w.g[0].gamma):
            w.means[p, replica.batch, k] = -1.0
    replica.batch += 1
    replica.context += slot.context
    w.newcomers[p, replica.newcomers] = r
    replica.newcomers += 1


@inner
def leave(w, p, s):
    """Take the request out of slot s; returns it."""
    replica, slots = w.replicas[p], w.slots
    slot = slots[p, s]
    r = slot.id
    request = w.requests[r]
    request.row, request.emitted_tokens, request.pages = slot.row, request.output_tokens - max(slot.left, 0), slot.pages
    replica.context -= slot.context
    n = replica.newcomers
    for i in range(n):
        if w.newcomers[p, i] == r:
            for j in range(i, n - 1):
                w.newcomers[p, j] = w.newcomers[p, j + 1]
            replica.newcomers = n - 1
            break
    replica.batch -= 1
    if s != replica.batch:
        slots[p, s] = slots[p, replica.batch]
        if w.g[0].rule == SMOOTHED:
            for k in range(w.g[0].gamma):
                w.means[p, s, k] = w.means[p, replica.batch, k]
    return r


@hot
def mix_means(w, p, s, row):
    """The confidences of a row into the running means of the request in slot s."""
    weight = w.g[0].smoothing
    for k in range(w.g[0].gamma):
        before, now = w.means[p, s, k], w.confidence[row, k]
        w.means[p, s, k] = now if before < 0 else weight * before + (1 - weight) * now


@hot
def commit(w, p, size):
    """Advance every request by its accepted tokens and the bonus; accepted and committed tokens of the batch."""
    g, replica, slots, accepted = w.g[0], w.replicas[p], w.slots, w.accepted
    if g.gamma == 0:
        for s in range(size):
            slots[p, s].left -= 1
            slots[p, s].context += 1
        replica.context += size
        return 0, size
    lag, total, committed = g.lag, 0, 0
    for s in range(size):
        slot = slots[p, s]
        row = slot.row
        if g.rule == SMOOTHED:
            mix_means(w, p, s, row)
        if lag == 2:
            slot.lag2 = slot.lag1
        if lag:
            slot.lag1 = row
        taken = min(accepted[row], slot.length)
        total += taken
        row += taken + 1
        emitted = min(taken + 1, slot.left)
        slot.left -= emitted
        slot.context += emitted
        committed += emitted
        if row >= slot.end:
            request = w.requests[slot.id]
            request.visit = (request.visit + 1) % request.visits
            chosen = sequence(w, slot.id)
            row = w.first_row[chosen]
            slot.end = min(row + w.length[chosen], 2**31 - 1)
        slot.row = row
    replica.context += committed
    return total, committed
