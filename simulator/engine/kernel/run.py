"""The loop over events: what begins, what arrives, and what the driver must provide."""

from __future__ import annotations

from simulator.engine.kernel import layout as k
from simulator.engine.kernel.compiling import entry, hot, inner
from simulator.engine.kernel.elsewhere import ask_worker, grant, process_elsewhere, processed_elsewhere
from simulator.engine.kernel.events import comes_now, pop, push
from simulator.engine.kernel.replica import admit_one, begin_step, end_step, make_room
from simulator.engine.kernel.requests import arrived, ask, count_down, pause_s, route, send, send_turn, settle_entered, through, waited
from simulator.engine.kernel.sessions import arrive_session, start_session


@inner
def arrive(w):
    """Open loop: the next arrival if it is due; returns whether there may be another at this time."""
    g = w.g[0]
    if g.arrived == len(w.arrival_s):
        return False
    if not comes_now(w, w.arrival_s[g.arrived]):
        return False
    if g.in_flight and g.made - g.finished >= g.in_flight:
        g.parked = 1
        return False
    settle_entered(w, send(w, arrived(w)))
    return True


@inner
def begin(w):
    """Everything that is due at time 0, in the order in which SimPy's processes begin."""
    g = w.g[0]
    for p in range(g.replicas):
        push(w, 0.0, True, k.WAKE, p)
    if g.closed:
        g.phase, g.actor = k.START, 0
    else:
        g.phase = k.RESTING
        push(w, 0.0, True, k.ARRIVE, 0)
        push(w, g.limit_s, False, k.LIMIT, 0)


@hot
def short_of_sessions(w):
    """The next session, room for requests that follow at once, or nothing (0)."""
    g = w.g[0]
    wanted = g.next_session if g.under_way else g.started
    if g.loaded <= wanted and (g.under_way or wanted < len(w.starts_s)):
        return k.SESSIONS
    return k.GROW if g.made - g.finished + len(w.pending) > len(w.requests) else 0


@hot
def short_of(w):
    """What the driver must provide before the next event can be taken: nothing (0), room, turns or luck."""
    g, slack = w.g[0], w.g[0].slack
    full = g.out_steps >= len(w.out_steps) or g.out_requests + slack > len(w.out_requests)
    if full or g.out_joins + slack > len(w.out_joins) or g.out_waits >= len(w.out_waits):
        return k.FLUSH
    if g.free < 0 or w.requests[g.free].next < 0 or g.events + slack > len(w.events):
        return k.GROW
    if g.refill:
        return k.TURNS
    if g.replicas > 1 and g.router >= k.POWER_OF_TWO and g.lucks + slack > len(w.luck):
        return k.LUCK
    return short_of_sessions(w) if g.sessions else 0


@entry
def run(w):
    """Go on until the run ends or the driver is needed; says which."""
    g = w.g[0]
    while True:
        short = short_of(w)
        if short:
            return short
        if g.phase == k.ADMIT:
            replica = w.replicas[g.actor]
            if replica.waiting and admit_one(w, g.actor):
                continue
            if replica.batch == 0 and replica.prefilling == 0:
                replica.idle, g.phase = 1, k.RESTING
                continue
            if g.capacity >= 0:
                make_room(w, g.actor)
            g.phase = k.STEP
        if g.phase == k.STEP:
            wanted = begin_step(w, g.actor)
            if wanted:
                return wanted
            g.phase = k.RESTING
        elif g.phase == k.ARRIVING:
            if g.sessions:
                more = arrive_session(w)
            else:
                more = arrive(w)
            if not more:
                g.phase = k.RESTING
        elif g.phase == k.BEGIN:
            begin(w)
        elif g.phase == k.START:
            if g.actor == g.users:
                g.phase = k.RESTING
            else:
                g.actor += 1
                if pause_s(w, g.actor - 1) > 0:
                    push(w, g.now, True, k.THINK, g.actor - 1)
                else:
                    settle_entered(w, send(w, ask(w, g.actor - 1)))
        elif g.phase == k.PROMPTED:
            wanted = process_elsewhere(w, g.actor)
            if wanted:
                return wanted
            g.phase = k.RESTING
        elif g.events == 0:
            return k.STARVED
        else:
            time, kind, arg = pop(w)
            g.now = time
            if kind == k.STEP_ENDS:
                end_step(w, arg)
                g.phase, g.actor = k.ADMIT, arg
            elif kind == k.WAKE:
                g.phase, g.actor = k.ADMIT, arg
            elif kind == k.ARRIVE:
                g.phase, g.due = k.ARRIVING, arg == 1
                if not arg:
                    push(w, g.until_s, False, k.WINDOW, 0)
            elif kind == k.WINDOW:
                count_down(w)
            elif kind == k.THINK:
                push(w, g.now + pause_s(w, arg), False, k.ASK, arg)
            elif kind == k.ASK:
                settle_entered(w, send(w, ask(w, arg)))
            elif kind == k.TURN:
                send_turn(w, arg)
            elif kind == k.SESSION:
                start_session(w, arg, 0.0)
            elif kind == k.THROUGH:
                settle_entered(w, through(w, arg))
            elif kind == k.PREFILL:
                if g.workers:
                    ask_worker(w, arg)
                else:
                    g.phase, g.actor = k.PROMPTED, arg
            elif kind == k.GRANTED:
                waited(w, arg, g.now)
                g.phase, g.actor = k.PROMPTED, arg
            elif kind == k.PREFILLED:
                processed_elsewhere(w, arg)
            elif kind == k.RELEASED:
                grant(w)
            elif kind == k.MOVED:
                settle_entered(w, route(w, arg))
            elif kind == k.STOP or (kind == k.DONE and g.closed):
                return k.ENDED
            elif not g.stopping:  # done, or out of time: SimPy's any_of takes one more event to say so
                g.stopping = 1
                push(w, g.now, False, k.STOP, 0)
