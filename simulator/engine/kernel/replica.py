"""A replica: admit, make room, begin a step, end it (engine/replica.py)."""

from __future__ import annotations

import math

import numpy as np

from simulator.engine.kernel.batch import commit, join, leave
from simulator.engine.kernel.choose import choose_lengths, keep_proposed, proposals
from simulator.engine.kernel.compiling import hot, inner
from simulator.engine.kernel.events import push
from simulator.engine.kernel.layout import BELIEVED, CHUNKED, DISAGGREGATED, PREFILL, PRICE, PROMPT, SEPARATE, STEP_ENDS
from simulator.engine.kernel.pages import admit_pages, computed, leave_pages, take
from simulator.engine.kernel.requests import first_token, pages_of, prompt_s, settle


@inner
def admit_one(w, p):
    """One of the waiting requests enters if there are a slot and pages for its context and one round."""
    g, replica = w.g[0], w.replicas[p]
    if replica.batch + replica.prefilling >= g.most:
        return False
    r, before = replica.head, -1
    if g.shortest:
        last, here = -1, replica.head
        while here >= 0:
            if w.requests[here].prompt_tokens < w.requests[r].prompt_tokens:
                r, before = here, last
            last, here = here, w.requests[here].next
    request = w.requests[r]
    pages = pages_of(g, request.prompt_tokens + request.emitted_tokens + g.lookahead)
    if g.caching:
        if not admit_pages(w, p, r, pages):
            return False
    elif g.capacity >= 0 and replica.used + pages > g.capacity:
        return False
    else:
        replica.used += pages
    if before < 0:
        replica.head = request.next
    else:
        w.requests[before].next = request.next
    if replica.tail == r:
        replica.tail = before
    replica.waiting -= 1
    request.pages = pages
    if g.prefill == SEPARATE or g.prefill == CHUNKED:
        if not g.caching:
            request.prefilled_tokens = min(request.cached_prompt_tokens, request.prompt_tokens + request.emitted_tokens - 1)
        w.prefilling[p, (replica.first + replica.prefilling) % g.most] = r
        replica.prefilling += 1
    else:
        start(w, p, r)
    return True


@inner
def start(w, p, r):
    """The context is in the cache: emit the first token if it is still owed, then decode."""
    request = w.requests[r]
    if request.emitted_tokens == 0:
        first_token(w, r)
    if request.emitted_tokens >= request.output_tokens:
        finish(w, p, r)
    else:
        request.waited_s += w.g[0].now - request.left_s
        join(w, p, r)


@inner
def finish(w, p, r):
    leave_pages(w, p, r)
    w.requests[r].finish_s = w.g[0].now
    settle(w, r)


@inner
def make_room(w, p):
    """Take pages for the coming round; while they do not fit, the last to have come is thrown out."""
    g, replica, slots = w.g[0], w.replicas[p], w.slots
    while replica.batch:
        more = 0
        for s in range(replica.batch):
            more += pages_of(g, slots[p, s].context + g.lookahead) - slots[p, s].pages
        if replica.used + more <= g.capacity:
            if g.caching:
                take(w, p, more)
            else:
                replica.used += more
            for s in range(replica.batch):
                slots[p, s].pages = pages_of(g, slots[p, s].context + g.lookahead)
            return
        evict(w, p)


@inner
def evict(w, p):
    g, replica, requests = w.g[0], w.replicas[p], w.requests
    if replica.prefilling:
        replica.prefilling -= 1
        r = w.prefilling[p, (replica.first + replica.prefilling) % g.most]
    else:
        youngest = 0
        for s in range(1, replica.batch):
            mine, best = requests[w.slots[p, s].id], requests[w.slots[p, youngest].id]
            if mine.arrival_s > best.arrival_s or (mine.arrival_s == best.arrival_s and mine.request > best.request):
                youngest = s
        r = w.slots[p, youngest].id
        new = False
        for i in range(replica.newcomers):
            new = new or w.newcomers[p, i] == r
        if not new:
            requests[r].last_emit_s = replica.last_round_s
        leave(w, p, youngest)
        requests[r].left_s = g.now
        if g.caching:
            computed(w, p, r, requests[r].prompt_tokens + requests[r].emitted_tokens - 1)
    request = requests[r]
    leave_pages(w, p, r)
    request.prefilled_tokens = 0
    request.preemptions += 1
    g.preempted += 1
    if g.prefill == DISAGGREGATED:
        request.replica = -1
        push(w, g.now, True, PREFILL, r)
    else:
        request.next = replica.head if replica.waiting else -1
        if not replica.waiting:
            replica.tail = r
        replica.head = r
        replica.waiting += 1


@hot
def share(g, decode_tokens, pending):
    """Prompt tokens of a step, and whether it decodes (policies/prefill.py)."""
    if g.prefill == SEPARATE:
        return min(pending, g.share), pending == 0
    if g.prefill == CHUNKED:
        return min(pending, max(g.share - decode_tokens, 0)), True
    return 0, True


@inner
def longest_context(w, p, size):
    """The longest context in the batch of a replica."""
    longest = 0
    for i in range(size):
        longest = max(longest, w.slots[p, i].context)
    return longest


@hot
def context_key(total, size):
    """Which of CONTEXTS the rounded mean context is (cost.rounded_context)."""
    if total <= 0:
        return 0
    mantissa, exponent = math.frexp(total / size)
    return 1 + exponent * 129 + int(np.rint(mantissa * 256.0)) - 128


@hot
def choose_round(w, p, size, at, believed_at, context):
    """Lengths by the policy, and what the round then costs."""
    g, replica = w.g[0], w.replicas[p]
    saved_s = believed_saved_s = 0.0
    replica.draft_s = w.prices[at]
    if g.proposes:
        proposing = proposals(w, p, size, 0, 1)
        replica.draft_s = w.prices[at - size + proposing]
        saved_s = w.prices[at] - replica.draft_s
        believed_saved_s = w.believed[believed_at] - w.believed[believed_at - size + proposing]
    verified = choose_lengths(w, p, size, believed_at, believed_saved_s, context)
    replica.verified = keep_proposed(w, p, size, verified) if g.proposes else verified
    replica.verify_s = w.prices[at + 1 + replica.verified] - saved_s - replica.draft_s - replica.overhead_s


@hot
def begin_step(w, p):
    """Choose lengths, share the step with prompts and schedule its end; what must be asked of the driver, or 0."""
    g, replica = w.g[0], w.replicas[p]
    size, pending = replica.batch, 0
    for i in range(replica.prefilling):
        request = w.requests[w.prefilling[p, (replica.first + i) % g.most]]
        pending += request.prompt_tokens + request.emitted_tokens - request.prefilled_tokens
    decodes = size > 0 and share(g, 0, pending)[1]
    if not g.answered:
        replica.verified, replica.draft_s, replica.verify_s = 0, 0.0, 0.0
        replica.overhead_s = g.overhead_s + g.scheduling_s if decodes else g.overhead_s
        if decodes:
            context = context_key(longest_context(w, p, size) * size if g.to_longest else replica.context, size)
            at, believed_at = w.price_at[size, context], w.believed_at[size, context]
            if at == 0 or believed_at == 0:
                g.want_size, g.want_context = size, context
                return PRICE if at == 0 else BELIEVED
            choose_round(w, p, size, at, believed_at, context)
    chunk, _ = share(g, size + replica.verified if decodes else 0, pending)
    pieces, prefill_s = 0, 0.0
    if chunk:
        left, attended = chunk, 0.0
        while left:
            request = w.requests[w.prefilling[p, (replica.first + pieces) % g.most]]
            tokens = min(left, request.prompt_tokens + request.emitted_tokens - request.prefilled_tokens)
            w.pieces[p, pieces] = tokens
            attended += tokens * (request.prefilled_tokens + tokens / 2)
            left -= tokens
            pieces += 1
        prefill_s = prompt_s(w, chunk, attended / chunk, size + replica.verified if decodes else 0)
        if prefill_s < 0:
            return PROMPT
    replica.start_s, replica.size, replica.decodes, replica.prefill_s = g.now, size, decodes, prefill_s
    replica.chunk, replica.pieces, replica.context_then = chunk, pieces, replica.context
    replica.waiting_then = replica.waiting + replica.prefilling - pieces
    push(w, g.now + (replica.draft_s + replica.verify_s + replica.overhead_s + prefill_s), False, STEP_ENDS, p)
    return 0


@hot
def note_joins(w, p):
    g, replica = w.g[0], w.replicas[p]
    n = replica.newcomers
    for i in range(n):
        request, row = w.requests[w.newcomers[p, i]], w.out_joins[g.out_joins]
        row.at_s, row.gap_s, row.waited_s, row.replica = g.now, g.now - request.last_emit_s, request.waited_s, p
        request.waited_s = 0.0
        g.out_joins += 1
    replica.newcomers = 0
    return n


@hot
def end_step(w, p):
    """Commit, record, let go of who is done, and of prompts that are."""
    g, replica = w.g[0], w.replicas[p]
    accepted = committed = joined = 0
    size, decodes, pieces = replica.size, replica.decodes, replica.pieces
    if decodes:
        joined = note_joins(w, p)
        replica.last_round_s = g.now
        if g.caching:
            for s in range(size):
                w.known[p, s] = w.slots[p, s].context
        accepted, committed = commit(w, p, size)
    row = w.out_steps[g.out_steps]
    g.out_steps += 1
    row.replica, row.start_s, row.end_s = p, replica.start_s, g.now
    row.requests, row.running, row.joined = size if decodes else 0, size, joined
    row.verified, row.accepted, row.committed = replica.verified, accepted, committed
    row.draft_s, row.verify_s, row.overhead_s, row.prefill_s = replica.draft_s, replica.verify_s, replica.overhead_s, replica.prefill_s
    row.prefill_tokens, row.context_tokens = replica.chunk, replica.context_then
    row.waiting, row.waiting_end = replica.waiting_then, replica.waiting + replica.prefilling - pieces
    if decodes:
        for s in range(size - 1, -1, -1):
            if w.slots[p, s].left <= 0:
                known = w.known[p, s] if g.caching else 0
                r = leave(w, p, s)
                if g.caching and g.answers:
                    computed(w, p, r, known if g.last_round_unnamed else w.requests[r].prompt_tokens + w.requests[r].emitted_tokens - 1)
                finish(w, p, r)
    for i in range(pieces):
        r = w.prefilling[p, (replica.first + i) % g.most]
        w.requests[r].prefilled_tokens += w.pieces[p, i]
        if g.caching:
            computed(w, p, r, w.requests[r].prefilled_tokens)
    while pieces and replica.prefilling:
        r = w.prefilling[p, replica.first]
        if w.requests[r].prompt_tokens + w.requests[r].emitted_tokens > w.requests[r].prefilled_tokens:
            break
        replica.first = (replica.first + 1) % g.most
        replica.prefilling -= 1
        start(w, p, r)
