"""A request outside the batch: made, priced, routed to a replica's queue, closed, and followed by its user's next (engine/simulate.py)."""

from __future__ import annotations

import numpy as np

from simulator.engine.kernel.compiling import inner
from simulator.engine.kernel.events import push
from simulator.engine.kernel.layout import (
    ARRIVE,
    DISAGGREGATED,
    DONE,
    PREFILL,
    REFUSED_S,
    SESSION,
    THINK,
    THROUGH,
    TURN,
    WAKE,
)
from simulator.engine.kernel.routing import choose_replica


@inner
def new_request(w, index, user, turn, arrival_s, prompt, output, cached, domain, measured):
    """A request from the free ones."""
    g = w.g[0]
    r = g.free
    request = w.requests[r]
    g.free = request.next
    request.request, request.user, request.turn, request.domain = index, user, turn, domain
    request.arrival_s, request.measured = arrival_s, measured
    request.prompt_tokens, request.output_tokens, request.cached_prompt_tokens = prompt, output, cached
    request.emitted_tokens = request.prefilled_tokens = request.preemptions = request.visit = request.rejected = request.pages = 0
    request.visits, request.row, request.next, request.live, request.made = 1, -1, -1, 1, g.made
    request.first_token_s = request.finish_s = request.ended_s = request.last_emit_s = request.left_s = request.asked_s = np.nan
    request.waited_s, request.sent_s = 0.0, g.now
    request.content = request.replica = -1
    request.named = request.admitted = request.said_tokens = request.withheld_tokens = 0
    g.made += 1
    return r


@inner
def arrived(w):
    """The next request of an open loop."""
    g = w.g[0]
    at, row = w.arrival_s[g.arrived], w.arrivals[g.arrived]
    g.arrived += 1
    r = new_request(w, row[0], -1, -1, at, row[1], row[2], row[3], row[4], g.warmup_s <= at < g.until_s)
    w.requests[r].content = g.arrived - 1
    return r


@inner
def new_turn(w, row):
    """The request of a session's row, sent now."""
    g, turn = w.g[0], w.rows[row]
    measured = g.warmup_s <= g.now < g.until_s
    g.outstanding += measured
    r = new_request(w, turn.request, turn.session, turn.turn, g.now, turn.prompt, turn.output, 0, turn.domain, measured)
    request = w.requests[r]
    request.content, request.said_tokens = row, turn.said
    return r


@inner
def followed(w, row, rejected):
    """A request of a session is done: what waited for it alone is to be sent. A session of which one is refused is over."""
    g, turn = w.g[0], w.rows[row]
    number = turn.session
    if w.session_left[number] <= 0:
        return
    w.session_left[number] -= 1
    if rejected or w.session_left[number] == 0:
        w.session_left[number], w.session_home[number] = 0, -1
        if g.under_way:
            push(w, g.now + (REFUSED_S if rejected else 0.0), False, SESSION, g.next_session)
            g.next_session += 1
        return
    for after in range(turn.then, turn.then + turn.count):
        w.rows[after].waits -= 1
        if w.rows[after].waits == 0:
            if w.rows[after].pause_s <= 0:
                w.pending[g.pending] = after
                g.pending += 1
            else:
                push(w, g.now + w.rows[after].pause_s, False, TURN, after)


@inner
def send_next(w, rejected):
    """What a client sends in the place of a request that has ended, -1 for none; after a refusal it is woken up instead."""
    g = w.g[0]
    r = -1 if rejected else arrived(w)
    if rejected or g.arrived == len(w.arrival_s) or w.arrival_s[g.arrived] > g.now:
        g.parked = 0
        push(w, g.now, False, ARRIVE, 2)
    return r


@inner
def ask(w, user):
    """The next request of a user."""
    g = w.g[0]
    turn = w.turn_now[user]
    w.turn_now[user] += 1
    at = turn - w.turn_from[user]
    if at + 1 >= g.window:
        g.refill = 1
    drawn = w.turns[user, at]
    return new_request(w, turn * g.users + user, user, turn, g.now, drawn[0], drawn[1], drawn[2], drawn[3], 1 <= turn <= g.turns)


@inner
def pause_s(w, user):
    """Seconds before the next request of a user."""
    return w.pauses[user, w.turn_now[user] - w.turn_from[user]]


@inner
def pages_of(g, tokens):
    return (tokens + g.page - 1) // g.page


@inner
def submit(w, p, r):
    """A request arrives at replica p; returns it where it can never fit, else -1."""
    g, replica, request = w.g[0], w.replicas[p], w.requests[r]
    request.replica = p
    if g.capacity >= 0 and pages_of(g, request.prompt_tokens + request.output_tokens + g.lookahead) > g.capacity:
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
        push(w, g.now, False, WAKE, p)
        replica.idle = 0
    return -1


@inner
def route(w, r):
    g = w.g[0]
    chosen = choose_replica(w, w.requests[r]) if g.replicas > 1 else 0
    g.routed += 1
    return submit(w, chosen, r)


@inner
def enter(w, r):
    """To the prefill machines where there are any, else to a replica; returns the request where it is rejected, else -1."""
    g, request = w.g[0], w.requests[r]
    if g.max_context and request.prompt_tokens >= g.max_context:
        request.rejected = 1
        return r
    if g.prefill == DISAGGREGATED and request.prompt_tokens + request.emitted_tokens - request.prefilled_tokens:
        push(w, g.now, True, PREFILL, r)
        return -1
    return route(w, r)


@inner
def send(w, r):
    """Through the next front end in turn, where that takes time, to the engine; returns the request where it is rejected, else -1."""
    g = w.g[0]
    if not g.front_end_s:
        return enter(w, r)
    mine = w.replicas[g.sent % g.replicas]
    g.sent += 1
    if mine.front_end_free_s > g.now:
        w.requests[r].asked_s = g.now
    mine.front_end_free_s = max(mine.front_end_free_s, g.now) + g.front_end_s
    push(w, mine.front_end_free_s, False, THROUGH, r)
    return -1


@inner
def waited(w, r, until_s):
    """A request has waited for a front end or a prefill worker: write it down."""
    g, request, row = w.g[0], w.requests[r], w.out_waits[w.g[0].out_waits]
    row.from_s, row.to_s = request.asked_s, until_s
    request.asked_s = np.nan
    g.out_waits += 1


@inner
def through(w, r):
    """The front end is done with a request; returns it where it is rejected, else -1."""
    g = w.g[0]
    if not np.isnan(w.requests[r].asked_s):
        waited(w, r, g.now - g.front_end_s)
    return enter(w, r)


@inner
def count_down(w):
    """One thing less that the run waits for."""
    g = w.g[0]
    g.outstanding -= 1
    if g.outstanding == 0 and not g.done:
        g.done = 1
        push(w, g.now, False, DONE, 0)


@inner
def close(w, r):
    """A request is done: write it down, count it; the next one of its user where he asks at once, else -1."""
    g, request = w.g[0], w.requests[r]
    w.out_requests[g.out_requests] = request
    g.out_requests += 1
    user, measured, rejected, row = request.user, request.measured, request.rejected, request.content
    request.live, request.next = 0, g.free
    g.free = r
    g.finished += 1
    if measured:
        g.rejected += rejected
        count_down(w)
    if g.sessions:
        followed(w, row, rejected)
        return -1
    if not g.closed:
        return send_next(w, rejected) if g.parked else -1
    if g.finished == g.users:
        g.warm, g.warm_s = 1, g.now
    if g.finished >= g.most_finished and not g.done:
        g.done = 1
        push(w, g.now, False, DONE, 0)
    if g.done:
        return -1
    if rejected or pause_s(w, user) > 0:
        push(w, g.now, True, THINK, user)
        return -1
    return ask(w, user)


@inner
def settle(w, r):
    """Close a request and let in the ones that follow from it at once."""
    g, sent = w.g[0], 0
    while r >= 0 or sent < g.pending:
        if r >= 0:
            r = close(w, r)
            if r >= 0:
                r = send(w, r)
        else:  # requests of sessions that follow at once
            row = w.pending[sent]
            sent += 1
            if w.session_left[w.rows[row].session] > 0:
                r = send(w, new_turn(w, row))
    g.pending = 0


@inner
def first_token(w, r):
    request, now = w.requests[r], w.g[0].now
    request.first_token_s = request.last_emit_s = request.left_s = now
    request.emitted_tokens = 1


@inner
def settle_entered(w, r):
    """The same for one that may not be: asking first keeps `settle` from being inlined, which costs 5 % of a run of short steps."""
    if r >= 0:
        settle(w, r)


@inner
def send_turn(w, row):
    """A request of a session, unless that has ended with one that was refused."""
    if w.session_left[w.rows[row].session] > 0:
        settle_entered(w, send(w, new_turn(w, row)))


@inner
def prompt_s(w, tokens, attended, beside):
    """Seconds of prompt tokens (RoundCost.prefill_s, or chunk_s where `beside` is at least 0); -1 where the driver must be asked."""
    g = w.g[0]
    if g.linear_prompts:
        alone = g.prompt_base_s + tokens * (g.prompt_token_s + g.prompt_context_s * attended)
        if beside >= 1:
            alone = max(alone - g.prompt_base_s, 0.0)
        return alone * g.prompt_factor
    if g.answered:
        g.answered = 0
        return g.answer_s
    g.want_tokens, g.want_attended, g.beside = tokens, attended, beside
    return -1.0
