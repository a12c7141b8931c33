"""Prompts on machines of their own (engine/simulate.py)."""

from __future__ import annotations

from simulator.engine.kernel.compiling import inner
from simulator.engine.kernel.events import push
from simulator.engine.kernel.layout import GRANTED, MOVED, PREFILLED, PROMPT, RELEASED
from simulator.engine.kernel.requests import first_token, prompt_s, settle


@inner
def grant(w):
    """The first request in line gets a free prefill worker, if there are both."""
    g = w.g[0]
    if g.queue_head >= 0 and g.busy < g.workers:
        g.busy += 1
        r = g.queue_head
        g.queue_head = w.requests[r].next
        push(w, g.now, False, GRANTED, r)


@inner
def ask_worker(w, r):
    g = w.g[0]
    w.requests[r].asked_s, w.requests[r].next = g.now, -1
    if g.queue_head < 0:
        g.queue_head = r
    else:
        w.requests[g.queue_tail].next = r
    g.queue_tail = r
    grant(w)


@inner
def process_elsewhere(w, r):
    """A worker takes up the prompt; what must be asked of the driver, or 0."""
    g, request = w.g[0], w.requests[r]
    owed = request.prompt_tokens + request.emitted_tokens - request.prefilled_tokens
    cached = 0 if request.preemptions else min(request.cached_prompt_tokens, owed - 1)
    tokens = owed - cached
    seconds = prompt_s(w, tokens, cached + tokens / 2, -1)
    if seconds < 0:
        return PROMPT
    push(w, g.now + seconds, False, PREFILLED, r)
    return 0


@inner
def processed_elsewhere(w, r):
    """The prompt is done: emit the first token, free the worker, move the cache."""
    g, request = w.g[0], w.requests[r]
    if g.workers:
        g.busy -= 1
        push(w, g.now, False, RELEASED, 0)
    if request.emitted_tokens == 0:
        first_token(w, r)
    request.prefilled_tokens = request.prompt_tokens + request.emitted_tokens
    if request.emitted_tokens >= request.output_tokens:
        request.finish_s = g.now
        settle(w, r)
    else:
        push(w, g.now + g.transfer_s, False, MOVED, r)
