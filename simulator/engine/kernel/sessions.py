"""Sessions under way (engine/live_sessions.py): which request follows when others are done."""

from __future__ import annotations

import math

from simulator.engine.kernel.compiling import inner
from simulator.engine.kernel.events import comes_now, push
from simulator.engine.kernel.layout import TURN
from simulator.engine.kernel.requests import send_turn


@inner
def start_session(w, number, share):
    """A session begins; one that is under way at a turn, and at a time of the pause before it, by the share of it that is over."""
    g = w.g[0]
    base, end = w.session_at[number], w.session_at[number + 1]
    turns = 0
    for row in range(base, end):
        turns += 1 - w.rows[row].call
    at = math.floor(share * turns)
    over = share * turns - at
    first = base
    while w.rows[first].call or at > 0:
        at -= 1 - w.rows[first].call
        first += 1
    w.session_left[number] = end - first
    pause_s = w.rows[first].pause_s * (1 - over) if first > base else 0.0
    if pause_s <= 0:
        send_turn(w, first)
    else:
        push(w, g.now + pause_s, False, TURN, first)


@inner
def arrive_session(w):
    """The next session if it is due; returns whether there may be another at this time."""
    g = w.g[0]
    if g.started == len(w.starts_s):
        return False
    if not comes_now(w, w.starts_s[g.started]):
        return False
    g.started += 1
    start_session(w, g.started - 1, w.under_way[g.started - 1] if g.under_way else 0.0)
    return True
