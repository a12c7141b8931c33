"""Which replica takes a request (policies/routing.py)."""

from __future__ import annotations

import numpy as np

from simulator.engine.kernel.compiling import inner
from simulator.engine.kernel.layout import LEAST_LOADED, POWER_OF_TWO, PREFIX_AWARE, SESSION_AFFINITY
from simulator.engine.kernel.pages import there, used_blocks


@inner
def held_by(w, p):
    replica = w.replicas[p]
    return replica.waiting + replica.prefilling + replica.batch


@inner
def least_loaded(w):
    chosen, fewest = 0, held_by(w, 0)
    for p in range(1, w.g[0].replicas):
        held = held_by(w, p)
        if held < fewest:
            chosen, fewest = p, held
    return chosen


@inner
def mean_held(w):
    total = 0
    for p in range(w.g[0].replicas):
        total += held_by(w, p)
    return total / w.g[0].replicas


@inner
def at_home(w, request):
    """Where the session of a request was, unless that holds too much."""
    g = w.g[0]
    home = w.session_home[request.user] if g.sessions else -1
    if home < 0 or held_by(w, home) > g.most_held * mean_held(w) + 1:
        home = least_loaded(w)
    if g.sessions:
        w.session_home[request.user] = home
    return home


@inner
def longest_match(w, request):
    """Where most of a prompt is, weighed against load; of equals the one that holds the fewest."""
    g = w.g[0]
    fewest, mean = held_by(w, least_loaded(w)), mean_held(w)
    chosen, best, held_there = -1, -np.inf, 0
    for p in range(g.replicas):
        held = held_by(w, p)
        has = used_blocks(g, there(w, p, request)[0]) * g.page if g.caching else 0
        worth = has / request.prompt_tokens - g.load_weight * (held - fewest) / (mean + 1)
        if chosen < 0 or worth > best or (worth == best and held < held_there):
            chosen, best, held_there = p, worth, held
    return chosen


@inner
def choose_replica(w, request):
    """One of several."""
    g = w.g[0]
    if g.router == LEAST_LOADED:
        return least_loaded(w)
    if g.router == SESSION_AFFINITY:
        return at_home(w, request)
    if g.router == PREFIX_AWARE:
        return longest_match(w, request)
    first = w.luck[g.lucks, 0]
    g.lucks += 1
    if g.router != POWER_OF_TWO:
        return first
    second = (first + 1 + w.luck[g.lucks - 1, 1]) % g.replicas
    return first if held_by(w, first) <= held_by(w, second) else second
