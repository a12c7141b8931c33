"""Order of events: a heap in place of SimPy's queue, by time, urgent before normal, then as they were scheduled."""

from __future__ import annotations

from simulator.engine.kernel.compiling import hot
from simulator.engine.kernel.layout import ARRIVE, NORMAL


@hot
def push(w, time, urgent, kind, arg):
    g, heap = w.g[0], w.events
    g.seq += 1
    key = g.seq if urgent else g.seq + NORMAL
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
def pop(w):
    """Time, kind and argument of the next event."""
    g, heap = w.g[0], w.events
    event = heap[0].time, heap[0].kind, heap[0].arg
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
    return event


@hot
def comes_now(w, at):
    """Is the next arrival, at this time, due? If not, there is an event when it will be."""
    g = w.g[0]
    if at > g.now and not g.due:
        push(w, at, False, ARRIVE, 1)
        return False
    g.due = 0
    return True
