"""The whole engine in compiled form: arrays for objects, a heap for SimPy's queue, the same order of events and of every addition.

One file, because numba keeps compiled code by file: a kernel that called one in another file would not notice that it changed.
The plain path (replica.py, batch.py, simulate.py) says what is meant; functions here carry the names of what they stand for.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

_HOW = {"error_model": "numpy", "_nrt": False}  # no counting of references: nothing is allocated in here
inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_HOW)
hot = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True, **_HOW)  # a call copies all of World's fields
entry = numba.njit(cache=True, **_HOW)

# Where the kernel waits for the driver: nothing to do but go on, or what it asks for.
ENDED, STARVED, FLUSH, GROW, TURNS, LUCK, PRICE, BELIEVED, PROMPT = range(9)
# Rules, ways of processing prompts, routers.
BY_ROW, BY_BATCH, SCHEDULED, UNIFORM = range(4)
INSTANT, SEPARATE, CHUNKED, DISAGGREGATED = range(4)
LEAST_LOADED, POWER_OF_TWO, ASSIGNED = range(3)
BRANCHES = {
    "policy": ("rule", ("by_row", "by_batch", "scheduled", "uniform")),
    "prefill": ("prefill", ("instant", "separate", "chunked", "disaggregated")),
    "router": ("router", ("least_loaded", "power_of_two", "assigned")),
    "admission": ("shortest", ("first_come", "shortest_prompt")),
    "cost model": ("linear_prompts", ("asked", "linear")),
}  # what of a fleet: where GLOBAL has its branch, and the branches by number
# What happens; the first kinds are processes of SimPy that begin.
WAKE, STEP_ENDS, ARRIVE, LIMIT, DONE, STOP, THINK, ASK, PREFILL, GRANTED, PREFILLED, RELEASED, MOVED, WINDOW = range(14)
RESTING, BEGIN, START, ARRIVING, ADMIT, STEP, PROMPTED = range(7)

_NORMAL = np.int64(1) << np.int64(60)  # SimPy's urgent events come before the normal ones of the same time
_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
CONTEXTS = 48 * 129 + 1  # contexts that prices are kept at: exponent, and 128 … 256 of its grains

_i, _f = np.int64, np.float64
GLOBAL = np.dtype(
    [(name, _i) for name in (
        "gamma", "lag", "most", "replicas", "prefill", "share", "workers", "capacity", "page", "lookahead", "shortest", "router", "rule",
        "stop_early", "least", "to_longest", "linear_prompts", "closed", "users", "turns", "window", "slack",
        "seq", "events", "free", "made", "phase", "actor", "want_size", "want_context", "want_tokens", "beside", "answered",
        "outstanding", "finished", "routed", "arrived", "due", "done", "stopping", "warm", "refill", "busy", "queue_head", "queue_tail",
        "rejected", "preempted", "lucks", "out_steps", "out_requests", "out_joins", "out_waits",
    )]
    + [("word", np.uint64)]
    + [(name, _f) for name in (
        "now", "overhead_s", "transfer_s", "think_s", "prompt_factor", "prompt_base_s", "prompt_token_s", "prompt_context_s", "warmup_s",
        "until_s", "limit_s",
        "warm_s", "want_attended", "answer_s",
    )]
)  # fmt: skip
REQUEST = np.dtype(
    [(name, _i) for name in (
        "index", "user", "turn", "domain", "prompt", "output", "cached", "emitted", "prefilled", "preemptions", "visit", "visits", "row", "pages",
        "next", "made", "live", "measured", "rejected",
    )]
    + [(name, _f) for name in ("arrival_s", "first_s", "finish_s", "last_emit_s", "left_s", "waited_s", "asked_s")]
)  # fmt: skip
RECORDED = (
    "made",
    "index",
    "user",
    "turn",
    "domain",
    "measured",
    "arrival_s",
    "first_s",
    "finish_s",
    "prompt",
    "output",
    "cached",
    "emitted",
    "preemptions",
    "rejected",
)  # of a request, as RequestRecord has them
REPLICA = np.dtype(
    [(name, _i) for name in (
        "idle", "batch", "prefilling", "first", "head", "tail", "waiting", "used", "context", "newcomers",
        "size", "decodes", "verified", "chunk", "pieces", "context_then", "waiting_then",
    )]
    + [(name, _f) for name in ("last_round_s", "start_s", "draft_s", "verify_s", "prefill_s")]
)  # fmt: skip
SLOT = np.dtype(
    [(name, np.int32) for name in ("id", "length", "row", "end", "lag1", "lag2")] + [("left", _i), ("context", _i), ("pages", _i)],
    align=True,
)
EVENT = np.dtype([("time", _f), ("key", _i), ("kind", np.int32), ("arg", np.int32)])
FEW = 32  # tokens that are sorted as they come
STEP_COLUMNS, REQUEST_COLUMNS = 17, len(RECORDED)


class World(NamedTuple):
    """All state and tables of a run; P replicas, M slots each, N rows of recorded blocks."""

    g: Any  # [1] GLOBAL
    requests: Any  # [live] REQUEST
    replicas: Any  # [P] REPLICA
    slots: Any  # [P, M] SLOT
    prefilling: Any  # [P, M] requests, a ring from `first`
    pieces: Any  # [P, M] prompt tokens of this step, in the ring's order
    newcomers: Any  # [P, M] requests
    events: Any  # heap of EVENT
    accepted: Any  # [N]
    rank: Any  # [N, γ] how many survivals lie below each
    value: Any  # [N γ] all survivals, rising
    survival: Any  # [N, γ]
    by_row: Any  # [N] or [M + 1] lengths that depend on the row, or on the batch, alone
    first_row: Any  # [S]
    length: Any  # [S]
    candidates: Any  # sequences, domain after domain
    domains: Any  # [D, 3] first and number of its candidates, and the shortest
    price_at: Any  # [M + 1, CONTEXTS] where in `prices` a row begins, 0 unknown
    prices: Any  # rows of draft_s, then round_s
    believed_at: Any
    believed: Any
    arrival_s: Any  # [n] open loop
    arrivals: Any  # [n, 5] index, prompt, output, cached, domain
    turns: Any  # [U, window, 4] closed loop: prompt, output, cached, domain of the turns that come next
    turn_from: Any  # [U] the turn at [:, 0]
    turn_now: Any  # [U]
    luck: Any  # [n, 2] replicas drawn
    out_steps: Any
    out_requests: Any
    out_joins: Any
    out_waits: Any
    few: Any  # [FEW] scratch
    keys: Any  # [M γ]
    ranked: Any  # [M γ]
    counts: Any


# --- order of events


@hot
def _push(w, time, urgent, kind, arg):
    g, heap = w.g[0], w.events
    g.seq += 1
    key = g.seq if urgent else g.seq + _NORMAL
    i = g.events
    g.events += 1
    while i > 0:
        up = (i - 1) >> 1
        if heap[up].time < time or (heap[up].time == time and heap[up].key < key):
            break
        heap[i] = heap[up]
        i = up
    heap[i].time, heap[i].key, heap[i].kind, heap[i].arg = time, key, kind, arg


@hot
def _pop(w):
    """Time, kind and argument of the next event."""
    g, heap = w.g[0], w.events
    found = heap[0].time, heap[0].kind, heap[0].arg
    g.events -= 1
    n = g.events
    if n > 0:
        time, key = heap[n].time, heap[n].key
        i = 0
        while True:
            child = 2 * i + 1
            if child >= n:
                break
            right = child + 1
            if right < n and (heap[right].time < heap[child].time or (heap[right].time == heap[child].time and heap[right].key < heap[child].key)):
                child = right
            if time < heap[child].time or (time == heap[child].time and key < heap[child].key):
                break
            heap[i] = heap[child]
            i = child
        heap[i] = heap[n]
    return found


# --- prices


@hot
def _context_key(total, size):
    """Which of CONTEXTS the rounded mean context is (cost.rounded_context)."""
    if total <= 0:
        return 0
    mantissa, exponent = math.frexp(total / size)
    return 1 + exponent * 129 + int(np.rint(mantissa * 256.0)) - 128


@inner
def _prompt_s(w, tokens, attended, beside):
    """Seconds of prompt tokens (RoundCost.prefill_s, or chunk_s where `beside` is 0 or 1); -1 where the driver must be asked."""
    g = w.g[0]
    if g.linear_prompts:
        alone = g.prompt_base_s + tokens * (g.prompt_token_s + g.prompt_context_s * attended)
        if beside == 1:
            alone = max(alone - g.prompt_base_s, 0.0)
        return alone * g.prompt_factor
    if g.answered:
        g.answered = 0
        return g.answer_s
    g.want_tokens, g.want_attended, g.beside = tokens, attended, beside
    return -1.0


# --- how many tokens to verify (policies/verification.py)


@hot
def _rank_down(w, n, top):
    """The first n of `keys` into `ranked`, descending: dealt into as many buckets as keys, then mended by insertion."""
    keys, ranked, counts = w.keys, w.ranked, w.counts
    shift = _shift(n, top)
    buckets = (top >> shift) + 1
    for b in range(buckets):
        counts[b] = 0
    for i in range(n):
        counts[(top - keys[i]) >> shift] += 1
    at = 0
    for b in range(buckets):
        held = counts[b]
        counts[b] = at
        at += held
    for i in range(n):
        key = keys[i]
        b = (top - key) >> shift
        ranked[counts[b]] = key
        counts[b] += 1
    for i in range(1, n):
        key = ranked[i]
        j = i
        while j > 0 and ranked[j - 1] < key:
            ranked[j] = ranked[j - 1]
            j -= 1
        ranked[j] = key


@hot
def _shift(n, top):
    """So many bits less leave about as many buckets as there are keys."""
    shift = 0
    while (top >> shift) >= 2 * n:
        shift += 1
    return shift


@hot
def _kth(w, n, top, k):
    """The k-th largest of the first n `keys`, k counted from 1."""
    keys, ranked, counts = w.keys, w.ranked, w.counts
    shift = _shift(n, top)
    buckets = (top >> shift) + 1
    for b in range(buckets):
        counts[b] = 0
    for i in range(n):
        counts[(top - keys[i]) >> shift] += 1
    before, b = 0, 0
    while before + counts[b] < k:
        before += counts[b]
        b += 1
    found = 0
    for i in range(n):
        key = keys[i]
        if (top - key) >> shift == b:
            j = found
            while j > 0 and ranked[j - 1] < key:
                ranked[j] = ranked[j - 1]
                j -= 1
            ranked[j] = key
            found += 1
    return ranked[k - before - 1]


@hot
def _known_row(slot, lag):
    return slot.row if lag == 0 else (slot.lag1 if lag == 1 else slot.lag2)


@hot
def _gather(w, p, size, lag, least):
    """Ranks of the free tokens, request after request, into `keys`; how many there are."""
    gamma, keys, slots, rank = w.g[0].gamma, w.keys, w.slots, w.rank
    n = 0
    for s in range(size):
        row = _known_row(slots[p, s], lag)
        for k in range(least, gamma):
            keys[n] = rank[row, k]
            n += 1
    return n


@hot
def _sorted_few(w, p, size, lag, least):
    """The survivals of the free tokens of few requests into `few`, descending; how many there are."""
    gamma, few, slots, survival = w.g[0].gamma, w.few, w.slots, w.survival
    n = 0
    for s in range(size):
        row = _known_row(slots[p, s], lag)
        for k in range(least, gamma):
            a = survival[row, k]
            j = n
            while j > 0 and few[j - 1] < a:
                few[j] = few[j - 1]
                j -= 1
            few[j] = a
            n += 1
    return n


@hot
def _budget(w, p, size, at):
    """How many tokens beyond the least to admit: Θ's first fall, or its global maximum, along the ranked survivals."""
    g, price, value, ranked, few = w.g[0], w.believed, w.value, w.ranked, w.few
    least, lag, top = g.least, g.lag, len(w.value) - 1
    committed = float(size)
    if least:
        sure = 0.0
        for s in range(size):
            sure += w.survival[_known_row(w.slots[p, s], lag), 0]
        committed = size + sure
    n = size * (g.gamma - least)
    if n <= FEW:
        _sorted_few(w, p, size, lag, least)
    else:
        _gather(w, p, size, lag, least)
        _rank_down(w, n, top)
    at += 1 + size * least
    best, admitted, total = committed / price[at], 0, 0.0
    for k in range(n):
        survival = few[k] if n <= FEW else value[ranked[k]]
        if survival <= 0:
            break
        total += survival
        gain = (total + committed) / price[at + 1 + k]
        if gain > best:
            best, admitted = gain, k + 1
        elif g.stop_early:
            break
    return admitted


@hot
def _admit_few(w, p, size, admitted, least):
    """_admit_tokens for few tokens, by the survivals themselves."""
    gamma, slots, survival = w.g[0].gamma, w.slots, w.survival
    _sorted_few(w, p, size, 0, least)
    worst = w.few[admitted - 1]
    taken = 0
    for s in range(size):
        length = least
        row = slots[p, s].row
        for k in range(least, gamma):
            length += survival[row, k] >= worst if worst > 0 else survival[row, k] > 0
        slots[p, s].length = length
        taken += length - least
    surplus = taken - admitted
    if surplus > 0:
        taken = admitted
        for k in range(gamma - 1, least - 1, -1):
            for s in range(size - 1, -1, -1):
                if surplus > 0 and survival[slots[p, s].row, k] == worst:
                    slots[p, s].length -= 1
                    surplus -= 1
    return taken + size * least


@hot
def _admit_tokens(w, p, size, admitted, least):
    """Lengths when the `admitted` likeliest present tokens beyond the first `least` are taken; the tokens verified."""
    g, slots, rank, value = w.g[0], w.slots, w.rank, w.value
    gamma = g.gamma
    n = size * (gamma - least)
    if admitted <= 0 or n == 0:
        for s in range(size):
            slots[p, s].length = least
        return size * least
    admitted = min(admitted, n)
    if n <= FEW:
        return _admit_few(w, p, size, admitted, least)
    _gather(w, p, size, 0, least)
    worst = _kth(w, n, len(value) - 1, admitted)
    limit = worst if value[worst] > 0 else worst + 1  # what cannot be accepted is not verified
    taken, at, keys = 0, 0, w.keys
    for s in range(size):
        length = 0
        for _ in range(least, gamma):
            length += keys[at] >= limit
            at += 1
        slots[p, s].length = length + least
        taken += length
    surplus = taken - admitted
    if surplus > 0:
        left = surplus
        for k in range(gamma - 1, least - 1, -1):
            for s in range(size - 1, -1, -1):
                if rank[slots[p, s].row, k] == worst:
                    slots[p, s].length -= 1
                    left -= 1
                    if not left:
                        break
            if not left:
                break
        taken = admitted
    return taken + size * least


@inner
def _uniform(w, p, size, at):
    """The one length that maximises the objective on mean survivals."""
    g = w.g[0]
    best, length, committed = -np.inf, 0, 0.0
    for k in range(g.gamma + 1):
        if k:
            total = 0.0
            for s in range(size):
                total += w.survival[_known_row(w.slots[p, s], g.lag), k - 1]
            mean = total / size
            committed = mean if k == 1 else committed + mean
        gain = (1.0 + committed if k else 1.0) / w.believed[at + 1 + k * size]
        if k >= g.least and (gain > best or k == g.least):
            best, length = gain, k
    return length


@hot
def _choose_lengths(w, p, size, at):
    """Lengths into the slots; the tokens verified. `at`: where the prices begin that the policy believes in."""
    g, slots = w.g[0], w.slots
    rule = g.rule
    if rule == SCHEDULED:
        return _admit_tokens(w, p, size, _budget(w, p, size, at), g.least)
    if rule == BY_ROW:
        verified = 0
        for s in range(size):
            length = w.by_row[slots[p, s].row]
            slots[p, s].length = length
            verified += length
        return verified
    length = w.by_row[size] if rule == BY_BATCH else _uniform(w, p, size, at)
    for s in range(size):
        slots[p, s].length = length
    return length * size


# --- the batch (engine/batch.py)


@inner
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


@inner
def _sequence(w, r):
    """The recorded sequence that request r is in, by its visit (Replay.walk, rng.uniform_at)."""
    request = w.requests[r]
    word = _mix((w.g[0].word + _GOLDEN) ^ _mix(np.uint64(request.index) + _GOLDEN))
    word = _mix((word + _GOLDEN) ^ _mix(np.uint64(request.visit) + _GOLDEN))
    luck = float(word >> np.uint64(11)) * 2.0**-53
    start, count = w.domains[request.domain, 0], w.domains[request.domain, 1]
    return w.candidates[start + int(luck * count)]


@inner
def _join(w, p, r):
    replica, request = w.replicas[p], w.requests[r]
    chosen = _sequence(w, r)
    if request.row < 0:
        request.visits = request.output // max(w.domains[request.domain, 2], 1) + 1
        request.row = w.first_row[chosen]
    slot = w.slots[p, replica.batch]
    unknown = len(w.accepted) - 1
    slot.id, slot.row, slot.lag1, slot.lag2 = r, request.row, unknown, unknown
    slot.end = min(w.first_row[chosen] + w.length[chosen], 2**31 - 1)
    slot.left, slot.context, slot.pages = request.output - request.emitted, request.prompt + request.emitted, request.pages
    replica.batch += 1
    replica.context += slot.context
    w.newcomers[p, replica.newcomers] = r
    replica.newcomers += 1


@inner
def _leave(w, p, s):
    """Take the request out of slot s; returns it."""
    replica, slots = w.replicas[p], w.slots
    slot = slots[p, s]
    r = slot.id
    request = w.requests[r]
    request.row, request.emitted, request.pages = slot.row, request.output - max(slot.left, 0), slot.pages
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
    return r


@hot
def _commit(w, p, size):
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
            chosen = _sequence(w, slot.id)
            row = w.first_row[chosen]
            slot.end = min(row + w.length[chosen], 2**31 - 1)
        slot.row = row
    replica.context += committed
    return total, committed


# --- the replica (engine/replica.py)


@inner
def _held(w, p):
    replica = w.replicas[p]
    return replica.waiting + replica.prefilling + replica.batch


@inner
def _pages(g, tokens):
    return (tokens + g.page - 1) // g.page


@inner
def _submit(w, p, r):
    """A request arrives at replica p; returns it where it can never fit, else -1."""
    g, replica, request = w.g[0], w.replicas[p], w.requests[r]
    if g.capacity >= 0 and _pages(g, request.prompt + request.output + g.lookahead) > g.capacity:
        request.rejected = 1
        return r
    request.next = -1
    if replica.waiting:
        w.requests[replica.tail].next = r
    else:
        replica.head = r
    replica.tail = r
    replica.waiting += 1
    if replica.idle:
        _push(w, g.now, False, WAKE, p)
        replica.idle = 0
    return -1


@inner
def _admit_one(w, p):
    """One of the waiting requests enters if there are a slot and pages for its context and one round."""
    g, replica = w.g[0], w.replicas[p]
    if replica.batch + replica.prefilling >= g.most:
        return False
    r, before = replica.head, -1
    if g.shortest:
        last, here = -1, replica.head
        while here >= 0:
            if w.requests[here].prompt < w.requests[r].prompt:
                r, before = here, last
            last, here = here, w.requests[here].next
    request = w.requests[r]
    pages = _pages(g, request.prompt + request.emitted + g.lookahead)
    if g.capacity >= 0 and replica.used + pages > g.capacity:
        return False
    if before < 0:
        replica.head = request.next
    else:
        w.requests[before].next = request.next
    if replica.tail == r:
        replica.tail = before
    replica.waiting -= 1
    replica.used += pages
    request.pages = pages
    if g.prefill == SEPARATE or g.prefill == CHUNKED:
        request.prefilled = min(request.cached, request.prompt + request.emitted - 1)
        w.prefilling[p, (replica.first + replica.prefilling) % g.most] = r
        replica.prefilling += 1
    else:
        _start(w, p, r)
    return True


@inner
def _first_token(w, r):
    request, now = w.requests[r], w.g[0].now
    request.first_s = request.last_emit_s = request.left_s = now
    request.emitted = 1


@inner
def _start(w, p, r):
    """The context is in the cache: emit the first token if it is still owed, then decode."""
    request = w.requests[r]
    if request.emitted == 0:
        _first_token(w, r)
    if request.emitted >= request.output:
        _finish(w, p, r)
    else:
        request.waited_s += w.g[0].now - request.left_s
        _join(w, p, r)


@inner
def _finish(w, p, r):
    w.replicas[p].used -= w.requests[r].pages
    w.requests[r].finish_s = w.g[0].now
    _settle(w, r)


@inner
def _make_room(w, p):
    """Take pages for the coming round; while they do not fit, the last to have come is thrown out."""
    g, replica, slots = w.g[0], w.replicas[p], w.slots
    while replica.batch:
        more = 0
        for s in range(replica.batch):
            more += _pages(g, slots[p, s].context + g.lookahead) - slots[p, s].pages
        if replica.used + more <= g.capacity:
            replica.used += more
            for s in range(replica.batch):
                slots[p, s].pages = _pages(g, slots[p, s].context + g.lookahead)
            return
        _evict(w, p)


@inner
def _evict(w, p):
    g, replica, requests = w.g[0], w.replicas[p], w.requests
    if replica.prefilling:
        replica.prefilling -= 1
        r = w.prefilling[p, (replica.first + replica.prefilling) % g.most]
    else:
        youngest = 0
        for s in range(1, replica.batch):
            mine, best = requests[w.slots[p, s].id], requests[w.slots[p, youngest].id]
            if mine.arrival_s > best.arrival_s or (mine.arrival_s == best.arrival_s and mine.index > best.index):
                youngest = s
        r = w.slots[p, youngest].id
        new = False
        for i in range(replica.newcomers):
            new = new or w.newcomers[p, i] == r
        if not new:
            requests[r].last_emit_s = replica.last_round_s
        _leave(w, p, youngest)
        requests[r].left_s = g.now
    request = requests[r]
    replica.used -= request.pages
    request.prefilled = 0
    request.preemptions += 1
    g.preempted += 1
    if g.prefill == DISAGGREGATED:
        _push(w, g.now, True, PREFILL, r)
    else:
        request.next = replica.head if replica.waiting else -1
        if not replica.waiting:
            replica.tail = r
        replica.head = r
        replica.waiting += 1


@hot
def _share(g, decode_tokens, pending):
    """Prompt tokens of a step, and whether it decodes (policies/prefill.py)."""
    if g.prefill == SEPARATE:
        return min(pending, g.share), pending == 0
    if g.prefill == CHUNKED:
        return min(pending, max(g.share - decode_tokens, 0)), True
    return 0, True


@inner
def _longest(w, p, size):
    """The longest context in the batch of a replica."""
    found = 0
    for i in range(size):
        found = max(found, w.slots[p, i].context)
    return found


@hot
def _begin_step(w, p):
    """Choose lengths, share the step with prompts and schedule its end; what must be asked of the driver, or 0."""
    g, replica = w.g[0], w.replicas[p]
    size, pending = replica.batch, 0
    for i in range(replica.prefilling):
        request = w.requests[w.prefilling[p, (replica.first + i) % g.most]]
        pending += request.prompt + request.emitted - request.prefilled
    decodes = size > 0 and _share(g, 0, pending)[1]
    if not g.answered:
        replica.verified, replica.draft_s, replica.verify_s = 0, 0.0, 0.0
        if decodes:
            context = _context_key(_longest(w, p, size) * size if g.to_longest else replica.context, size)
            at, believed_at = w.price_at[size, context], w.believed_at[size, context]
            if at == 0 or believed_at == 0:
                g.want_size, g.want_context = size, context
                return PRICE if at == 0 else BELIEVED
            replica.verified = _choose_lengths(w, p, size, believed_at)
            replica.draft_s = w.prices[at]
            replica.verify_s = w.prices[at + 1 + replica.verified] - replica.draft_s - g.overhead_s
    chunk, _ = _share(g, size + replica.verified if decodes else 0, pending)
    pieces, prefill_s = 0, 0.0
    if chunk:
        left, attended = chunk, 0.0
        while left:
            request = w.requests[w.prefilling[p, (replica.first + pieces) % g.most]]
            tokens = min(left, request.prompt + request.emitted - request.prefilled)
            w.pieces[p, pieces] = tokens
            attended += tokens * (request.prefilled + tokens / 2)
            left -= tokens
            pieces += 1
        prefill_s = _prompt_s(w, chunk, attended / chunk, 1 if decodes else 0)
        if prefill_s < 0:
            return PROMPT
    replica.start_s, replica.size, replica.decodes, replica.prefill_s = g.now, size, decodes, prefill_s
    replica.chunk, replica.pieces, replica.context_then = chunk, pieces, replica.context
    replica.waiting_then = replica.waiting + replica.prefilling - pieces
    _push(w, g.now + (replica.draft_s + replica.verify_s + g.overhead_s + prefill_s), False, STEP_ENDS, p)
    return 0


@hot
def _note_joins(w, p):
    g, replica = w.g[0], w.replicas[p]
    n = replica.newcomers
    for i in range(n):
        request, row = w.requests[w.newcomers[p, i]], w.out_joins[g.out_joins]
        row[0], row[1], row[2] = g.now, g.now - request.last_emit_s, request.waited_s
        request.waited_s = 0.0
        g.out_joins += 1
    replica.newcomers = 0
    return n


@hot
def _end_step(w, p):
    """Commit, record, let go of who is done, and of prompts that are."""
    g, replica = w.g[0], w.replicas[p]
    accepted = committed = joined = 0
    size, decodes, pieces = replica.size, replica.decodes, replica.pieces
    if decodes:
        joined = _note_joins(w, p)
        replica.last_round_s = g.now
        accepted, committed = _commit(w, p, size)
    row = w.out_steps[g.out_steps]
    g.out_steps += 1
    row[0], row[1], row[2], row[3], row[4], row[5] = p, replica.start_s, g.now, size if decodes else 0, size, joined
    row[6], row[7], row[8], row[9], row[10] = replica.verified, accepted, committed, replica.draft_s, replica.verify_s
    row[11], row[12], row[13], row[14], row[15] = g.overhead_s, replica.prefill_s, replica.chunk, replica.context_then, replica.waiting_then
    row[16] = replica.waiting + replica.prefilling - pieces
    if decodes:
        for s in range(size - 1, -1, -1):
            if w.slots[p, s].left <= 0:
                _finish(w, p, _leave(w, p, s))
    for i in range(pieces):
        w.requests[w.prefilling[p, (replica.first + i) % g.most]].prefilled += w.pieces[p, i]
    while pieces and replica.prefilling:
        r = w.prefilling[p, replica.first]
        if w.requests[r].prompt + w.requests[r].emitted > w.requests[r].prefilled:
            break
        replica.first = (replica.first + 1) % g.most
        replica.prefilling -= 1
        _start(w, p, r)


# --- the world (engine/simulate.py)


@inner
def _new(w, index, user, turn, arrival_s, prompt, output, cached, domain, measured):
    """A request from the free ones."""
    g = w.g[0]
    r = g.free
    request = w.requests[r]
    g.free = request.next
    request.index, request.user, request.turn, request.domain = index, user, turn, domain
    request.arrival_s, request.prompt, request.output, request.cached, request.measured = arrival_s, prompt, output, cached, measured
    request.emitted = request.prefilled = request.preemptions = request.visit = request.rejected = request.pages = 0
    request.visits, request.row, request.next, request.live, request.made = 1, -1, -1, 1, g.made
    request.first_s = request.finish_s = request.last_emit_s = request.left_s = request.asked_s = np.nan
    request.waited_s = 0.0
    g.made += 1
    return r


@inner
def _ask(w, user):
    """The next request of a user."""
    g = w.g[0]
    turn = w.turn_now[user]
    w.turn_now[user] += 1
    at = turn - w.turn_from[user]
    if at + 1 >= g.window:
        g.refill = 1
    given = w.turns[user, at]
    return _new(w, turn * g.users + user, user, turn, g.now, given[0], given[1], given[2], given[3], 1 <= turn <= g.turns)


@inner
def _enter(w, r):
    """To the prefill machines where there are any, else to a replica; returns the request where it is rejected, else -1."""
    g, request = w.g[0], w.requests[r]
    if g.prefill == DISAGGREGATED and request.prompt + request.emitted - request.prefilled:
        _push(w, g.now, True, PREFILL, r)
        return -1
    return _route(w, r)


@inner
def _route(w, r):
    g = w.g[0]
    chosen, n = 0, g.replicas
    if n > 1:
        if g.router == LEAST_LOADED:
            fewest = _held(w, 0)
            for p in range(1, n):
                held = _held(w, p)
                if held < fewest:
                    chosen, fewest = p, held
        elif g.router == POWER_OF_TWO:
            first = w.luck[g.lucks, 0]
            second = (first + 1 + w.luck[g.lucks, 1]) % n
            g.lucks += 1
            chosen = first if _held(w, first) <= _held(w, second) else second
        else:
            chosen = w.luck[g.lucks, 0]
            g.lucks += 1
    g.routed += 1
    return _submit(w, chosen, r)


@inner
def _count_down(w):
    """One thing less that the run waits for."""
    g = w.g[0]
    g.outstanding -= 1
    if g.outstanding == 0 and not g.done:
        g.done = 1
        _push(w, g.now, False, DONE, 0)


@inner
def _close(w, r):
    """A request is done: write it down, count it; the next one of its user where he asks at once, else -1."""
    g, request = w.g[0], w.requests[r]
    _write_request(w, r, g.out_requests)
    g.out_requests += 1
    user, measured, rejected = request.user, request.measured, request.rejected
    request.live, request.next = 0, g.free
    g.free = r
    g.finished += 1
    if measured:
        g.rejected += rejected
        _count_down(w)
    if not g.closed:
        return -1
    if g.finished == g.users:
        g.warm, g.warm_s = 1, g.now
    if g.finished >= 4 * g.users * (g.turns + 1) and not g.done:
        g.done = 1
        _push(w, g.now, False, DONE, 0)
    if g.done:
        return -1
    if rejected or g.think_s > 0:
        _push(w, g.now, True, THINK, user)
        return -1
    return _ask(w, user)


@inner
def _settle(w, r):
    """Close a request and let in the ones that follow from it at once."""
    while r >= 0:
        r = _close(w, r)
        if r >= 0:
            r = _enter(w, r)


@inner
def _write_request(w, r, at):
    """One row of RequestRecord."""
    request, row = w.requests[r], w.out_requests[at]
    row[0], row[1], row[2], row[3], row[4], row[5] = request.made, request.index, request.user, request.turn, request.domain, request.measured
    row[6], row[7], row[8], row[9], row[10] = request.arrival_s, request.first_s, request.finish_s, request.prompt, request.output
    row[11], row[12], row[13], row[14] = request.cached, request.emitted, request.preemptions, request.rejected


@inner
def _grant(w):
    """The first request in line gets a free prefill worker, if there are both."""
    g = w.g[0]
    if g.queue_head >= 0 and g.busy < g.workers:
        g.busy += 1
        r = g.queue_head
        g.queue_head = w.requests[r].next
        _push(w, g.now, False, GRANTED, r)


@inner
def _ask_worker(w, r):
    g = w.g[0]
    w.requests[r].asked_s, w.requests[r].next = g.now, -1
    if g.queue_head < 0:
        g.queue_head = r
    else:
        w.requests[g.queue_tail].next = r
    g.queue_tail = r
    _grant(w)


@inner
def _granted(w, r):
    g, request, row = w.g[0], w.requests[r], w.out_waits[w.g[0].out_waits]
    row[0], row[1] = request.asked_s, g.now
    request.asked_s = np.nan
    g.out_waits += 1


@inner
def _prefill(w, r):
    """A worker takes up the prompt; what must be asked of the driver, or 0."""
    g, request = w.g[0], w.requests[r]
    owed = request.prompt + request.emitted - request.prefilled
    cached = 0 if request.preemptions else min(request.cached, owed - 1)
    tokens = owed - cached
    seconds = _prompt_s(w, tokens, cached + tokens / 2, -1)
    if seconds < 0:
        return PROMPT
    _push(w, g.now + seconds, False, PREFILLED, r)
    return 0


@inner
def _prefilled(w, r):
    """The prompt is done: emit the first token, free the worker, move the cache."""
    g, request = w.g[0], w.requests[r]
    if g.workers:
        g.busy -= 1
        _push(w, g.now, False, RELEASED, 0)
    if request.emitted == 0:
        _first_token(w, r)
    request.prefilled = request.prompt + request.emitted
    if request.emitted >= request.output:
        request.finish_s = g.now
        _settle(w, r)
    else:
        _push(w, g.now + g.transfer_s, False, MOVED, r)


@inner
def _arrive(w):
    """Open loop: the next arrival if it is due; returns whether there may be another at this time."""
    g = w.g[0]
    if g.arrived == len(w.arrival_s):
        return False
    at = w.arrival_s[g.arrived]
    if at > g.now and not g.due:
        _push(w, at, False, ARRIVE, 1)
        return False
    g.due = 0
    given = w.arrivals[g.arrived]
    g.arrived += 1
    r = _new(w, given[0], -1, -1, at, given[1], given[2], given[3], given[4], g.warmup_s <= at < g.until_s)
    _settle_entered(w, _enter(w, r))
    return True


@inner
def _begin(w):
    """Everything that is due at time 0, in the order in which SimPy's processes begin."""
    g = w.g[0]
    for p in range(g.replicas):
        _push(w, 0.0, True, WAKE, p)
    if g.closed:
        g.phase, g.actor = START, 0
    else:
        g.phase = RESTING
        _push(w, 0.0, True, ARRIVE, 0)
        _push(w, g.limit_s, False, LIMIT, 0)


@inner
def _settle_entered(w, r):
    if r >= 0:
        _settle(w, r)


@hot
def _short_of(w):
    """What the driver must provide before the next event can be taken: nothing (0), room, turns or luck."""
    g, slack = w.g[0], w.g[0].slack
    full = g.out_steps >= len(w.out_steps) or g.out_requests + slack > len(w.out_requests)
    if full or g.out_joins + slack > len(w.out_joins) or g.out_waits >= len(w.out_waits):
        return FLUSH
    if g.free < 0 or w.requests[g.free].next < 0 or g.events + slack > len(w.events):
        return GROW
    if g.refill:
        return TURNS
    if g.replicas > 1 and g.router >= POWER_OF_TWO and g.lucks + slack > len(w.luck):
        return LUCK
    return 0


@entry
def run(w):
    """Go on until the run ends or the driver is needed; says which."""
    g = w.g[0]
    while True:
        short = _short_of(w)
        if short:
            return short
        if g.phase == ADMIT:
            replica = w.replicas[g.actor]
            if replica.waiting and _admit_one(w, g.actor):
                continue
            if replica.batch == 0 and replica.prefilling == 0:
                replica.idle, g.phase = 1, RESTING
                continue
            if g.capacity >= 0:
                _make_room(w, g.actor)
            g.phase = STEP
        if g.phase == STEP:
            wanted = _begin_step(w, g.actor)
            if wanted:
                return wanted
            g.phase = RESTING
        elif g.phase == ARRIVING:
            if not _arrive(w):
                g.phase = RESTING
        elif g.phase == BEGIN:
            _begin(w)
        elif g.phase == START:
            if g.actor == g.users:
                g.phase = RESTING
            else:
                g.actor += 1
                _settle_entered(w, _enter(w, _ask(w, g.actor - 1)))
        elif g.phase == PROMPTED:
            wanted = _prefill(w, g.actor)
            if wanted:
                return wanted
            g.phase = RESTING
        elif g.events == 0:
            return STARVED
        else:
            time, kind, arg = _pop(w)
            g.now = time
            if kind == STEP_ENDS:
                _end_step(w, arg)
                g.phase, g.actor = ADMIT, arg
            elif kind == WAKE:
                g.phase, g.actor = ADMIT, arg
            elif kind == ARRIVE:
                g.phase, g.due = ARRIVING, arg
                if not arg:
                    _push(w, g.until_s, False, WINDOW, 0)
            elif kind == WINDOW:
                _count_down(w)
            elif kind == THINK:
                _push(w, g.now + g.think_s, False, ASK, arg)
            elif kind == ASK:
                _settle_entered(w, _enter(w, _ask(w, arg)))
            elif kind == PREFILL:
                if g.workers:
                    _ask_worker(w, arg)
                else:
                    g.phase, g.actor = PROMPTED, arg
            elif kind == GRANTED:
                _granted(w, arg)
                g.phase, g.actor = PROMPTED, arg
            elif kind == PREFILLED:
                _prefilled(w, arg)
            elif kind == RELEASED:
                _grant(w)
            elif kind == MOVED:
                _settle_entered(w, _route(w, arg))
            elif kind == STOP or (kind == DONE and g.closed):
                return ENDED
            elif not g.stopping:  # done, or out of time: SimPy's any_of takes one more event to say so
                g.stopping = 1
                _push(w, g.now, False, STOP, 0)
