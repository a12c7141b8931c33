"""The rows of a file of sessions as sessions: which turn follows which, after what pause, and with what of its prompt said before."""

from __future__ import annotations

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_SECONDS, MOST_TOKENS
from simulator.traffic.request import REQUESTS
from simulator.traffic.session_hashes import with_hashes
from simulator.traffic.session_rows import KEY, Deviation, Reading, Recorded, Rows

_ROUNDING_S = 1e-6  # of times that were written with some digits


def sessions_of(rows: Rows, reading: Reading) -> Recorded:
    """The sessions of the rows. Raises TraceError for the first that contradicts itself, and for deviations that are not accepted."""
    notes: dict[str, int] = {}
    _fill_empty(rows, reading, notes)
    parent = _parents(rows, reading, notes)
    call, joins = _calls(rows, parent)
    order, at = _in_sessions(rows, parent, call)
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    above, joined = (np.where(to[order] < 0, -1, place[to[order]]) for to in (parent, joins))  # rows in the new order from here on
    output, call = rows.tokens["output_tokens"][order], call[order]
    pause_s = _pauses_s(rows, reading, parent, joins, notes)[order]
    begin = np.repeat(at[:-1], np.diff(at))
    waits = np.bincount(joined[joined >= 0], minlength=len(rows))  # so many calls of its agent
    held_up = waits > 0
    by = np.where(held_up, -1, above)  # whom a row waits for that waits for no calls
    waits[by >= 0] = 1
    count = np.bincount(by[by >= 0], minlength=len(rows)) + (joined >= 0)
    turn, then = (np.zeros(len(rows), dtype=np.int64) for _ in range(2))
    heir = np.full(len(rows), -1)  # the row that goes on with a row's text
    for row, up in enumerate(above.tolist()):
        if joined[row] >= 0:
            then[row] = joined[row] - begin[row]
        if up >= 0:
            turn[row] = turn[up] + 1 - call[row]
            if not then[up] and not held_up[row]:
                then[up] = row - begin[row]
            if heir[up] < 0 and call[row] == call[up]:
                heir[up] = row
    prompt = _prompts(rows, order, above, output, call)
    if (long := prompt > MOST_TOKENS).any():
        what = f"the prompt has {prompt[long][0]:,} tokens with all before it, expected at most {MOST_TOKENS:,}"
        raise rows.error(int(order[np.argmax(long)]), "new_tokens", what, "fix the row, or split the session")
    said, texts, until = _texts(rows, reading, order, above, prompt, output, begin, heir, call, notes)
    starts_s = rows.numbers["arrival_s"][order[at[:-1]]] if "arrival_s" in rows.numbers else np.full(len(at) - 1, np.nan)
    if (span_s := starts_s[-1] - starts_s[0]) > MOST_SECONDS:
        raise rows.error(int(order[at[-2]]), "arrival_s", f"comes {span_s:.3g} s after the first", f"set {KEY}.unit, or fix the row")
    forked = np.flatnonzero(np.bincount(above[(above >= 0) & (call == call[above])], minlength=len(rows)) > 1)
    found = Recorded(
        at, None if np.isnan(starts_s).any() else starts_s - starts_s[0], prompt, output, pause_s, turn, call, waits, then, count, said, texts, until,
        reading.form.title, rows.file.where(int(order[forked[0]])) if len(forked) else "",
        tuple(f"{number:,} {what}" for what, number in notes.items()),
    )  # fmt: skip
    return with_hashes(found, rows, reading, order, above, heir) if rows.blocks is not None else found


def _parents(rows: Rows, reading: Reading, notes: dict[str, int]) -> Integers:
    """The row whose answer each waits for, -1 for none. # [n]"""
    parent, orphans = _named(rows, reading) if {"request", "parent"} <= rows.columns.keys() else _in_turn(rows, reading)
    if orphans:
        notes["turns whose parent is missing begin a session"] = orphans
    return parent


def _named(rows: Rows, reading: Reading) -> tuple[Integers, int]:
    """Parents that have names, and how many are missing. # [n]"""
    known: dict[str, int] = {}
    for row, name in enumerate(rows.names["request"]):
        if name is None or known.setdefault(name, row) != row:
            raise rows.error(row, "request", "missing value" if name is None else f"two requests are called {name}")
    begun: dict[str, int] = {}
    for row, (name, parent) in enumerate(zip(rows.names.get("session", ()), rows.names["parent"], strict=False)):
        if parent is None and name is not None and begun.setdefault(name, row) != row:
            raise rows.error(row, "parent", f"missing value, and session {name} has begun", f"name the turn before it, or set {KEY}.columns")
    orphans = [row for row, name in enumerate(rows.names["parent"]) if name is not None and name not in known]
    if orphans:
        what = f"follows request {rows.names['parent'][orphans[0]]}, which is not there"
        _accepted(rows, reading, "orphans", orphans[0], "parent", what, "to begin a session there")
    return np.array([-1 if name is None else known.get(name, -1) for name in rows.names["parent"]], dtype=np.int64), len(orphans)


def _in_turn(rows: Rows, reading: Reading) -> tuple[Integers, int]:
    """Parents that are the turns before, by number, else by arrival where all have one, else as the file has them; and how many are missing."""
    turns, arrivals = rows.numbers.get("turn"), rows.numbers.get("arrival_s", np.array([np.nan]))
    by = turns if turns is not None else arrivals if not np.isnan(arrivals).any() else np.zeros(len(rows))
    parent, orphans = np.full(len(rows), -1, dtype=np.int64), 0
    last: dict[str, int] = {}
    for row in np.argsort(by, kind="stable").tolist():
        name = rows.names["session"][row]
        if name is None or np.isnan(by[row]):
            fix = f"write {KEY}.columns: {{session: trace_id}} to take every trace for a session"
            remedy = fix if name is None and "trace_id" in rows.file.names else "fix or drop the row"
            raise rows.error(row, "session" if name is None else "turn", "missing value", remedy)
        before = last.get(name, -1)
        if turns is not None:
            if before >= 0 and turns[row] == turns[before]:
                raise rows.error(row, "turn", f"session {name} has turn {turns[row]:g} twice")
            if turns[row] not in ({turns[before] + 1} if before >= 0 else {0.0, 1.0}):
                orphans += 1
                what = f"turn {turns[row]:g} of session {name} follows turn {turns[row] - 1:g}, which is not there"
                _accepted(rows, reading, "orphans", row, "turn", what, "to begin a session there")
                before = -1
        parent[row], last[name] = before, row
    return parent, orphans


def _accepted(rows: Rows, reading: Reading, what: Deviation, row: int, ours: str, problem: str, effect: str) -> None:
    """Raise TraceError unless such a deviation is accepted."""
    if what not in reading.accept:
        raise rows.error(row, ours, problem, f"write {KEY}.accept: [{what}] {effect}, or fix the row")


def _fill_empty(rows: Rows, reading: Reading, notes: dict[str, int]) -> None:
    """Prompts and answers without a token, where they are accepted, get one."""
    empty = {ours: column < 1 for ours, column in rows.tokens.items()}
    for ours, none in empty.items():
        if none.any():
            _accepted(rows, reading, "empty", int(np.argmax(none)), ours, "must be at least 1 (got 0)", "to count 1")
            rows.tokens[ours] = np.maximum(rows.tokens[ours], 1)
    if count := sum(int(none.sum()) for none in empty.values()):
        notes["prompts and answers without a token count 1"] = count


def _calls(rows: Rows, parent: Integers) -> tuple[Integers, Integers]:
    """Which rows are calls of an agent, 1 or 0, and the turn that each one holds up, -1 for none. # [n], [n]"""
    given = np.nan_to_num(rows.numbers.get("call", np.zeros(len(rows))))
    if (bad := (given != 0) & (given != 1)).any():
        raise rows.error(int(np.argmax(bad)), "call", f"expected 0 or 1, got {given[bad][0]:g}")
    call, joins, agent = given.astype(np.int64), np.full(len(rows), -1), parent.copy()
    known = {name: row for row, name in enumerate(rows.names.get("request", ()))}
    followed = np.bincount(parent[parent >= 0], minlength=len(rows)) > 0
    for _ in range(len(rows).bit_length()):  # all calls of a chain are of the turn that made the first; those that run in a circle are refused later
        inner = np.flatnonzero((agent >= 0) & (call == 1) & (call[agent] == 1))
        agent[inner] = agent[agent[inner]]
    if (alone := (call == 1) & (parent < 0)).any():
        raise rows.error(int(np.argmax(alone)), "parent", "a call follows no turn", "fix the row, or let it begin a session with call: 0")
    if (after := (call == 0) & (parent >= 0) & (call[parent] == 1)).any():
        raise rows.error(int(np.argmax(after)), "parent", "a turn follows a call", "name the turn before it, and let the call join it")
    for row, name in enumerate(rows.names.get("joins", ())):
        if name is None:
            continue
        joins[row] = known.get(name, -1)
        if not call[row] or joins[row] < 0 or call[joins[row]] or parent[joins[row]] != agent[row] or followed[row]:
            what = f"{name} is not the turn after the one that made the call, or another call follows this one"
            raise rows.error(row, "joins", what, "name the turn that waits for the last of the calls")
    calls, held_up = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    calls[agent[call == 1]], held_up[joins[joins >= 0]] = True, True
    if (early := (call == 0) & (parent >= 0) & calls[parent] & ~held_up).any():
        what = "no call joins the turn, though the turn before it made some"
        raise rows.error(int(np.argmax(early)), "joins", what, "let the last of them join it")
    return call, joins


def _in_sessions(rows: Rows, parent: Integers, call: Integers) -> tuple[Integers, Integers]:
    """The rows session after session, in order of arrival where that is known, in each a turn before its calls and those before the turns that
    follow it, with those side by side that wait for the same row; and where each session begins. # [n], [S + 1]"""
    arrivals = rows.numbers.get("arrival_s")
    order = np.arange(len(rows)) if arrivals is None else np.argsort(np.where(np.isnan(arrivals), np.inf, arrivals), kind="stable")
    after: dict[int, list[int]] = {}
    for row in order.tolist():
        after.setdefault(int(parent[row]), []).append(row)
    line: list[int] = []
    at = [0]
    for root in after.get(-1, ()):
        session = [root]
        for row in session:  # which grows
            follow = after.get(row, ()) if not call[row] else ()
            calls = [each for each in follow if call[each]]
            for each in calls:  # which grows
                calls += after.get(each, ())
            session += calls + [each for each in follow if not call[each]]
        if len(session) > REQUESTS:
            raise rows.error(root, "session", f"the session has {len(session):,} requests, expected at most {REQUESTS:,}", "drop or split it")
        line += session
        at.append(len(line))
    if len(line) < len(rows):
        seen = np.zeros(len(rows), dtype=bool)
        seen[line] = True
        raise rows.error(int(np.argmin(seen)), "parent", "its parents lead back to itself")
    return np.array(line, dtype=np.int64), np.array(at, dtype=np.int64)


def _pauses_s(rows: Rows, reading: Reading, parent: Integers, joins: Integers, notes: dict[str, int]) -> Floats:
    """Seconds from the last answer that a row waits for until it is sent; 0 of the first turns, which wait for none. # [n], as in the file"""
    nan = np.full(len(rows), np.nan)
    start, end, pause_s = (rows.numbers.get(name, nan) for name in ("arrival_s", "end_s", "pause_s"))
    if (bad := end < start).any():
        raise rows.error(int(np.argmax(bad)), "end_s", "the answer ends before the request is sent")
    waits = parent >= 0
    if reading.answers_tps is not None:
        guessed = np.isnan(pause_s) & np.isnan(end[parent]) & ~np.isnan(start) & ~np.isnan(start[parent]) & waits
        if guessed.any():
            notes[f"pauses with answers at {reading.answers_tps:g} tokens per second"] = int(guessed.sum())
        end = np.where(np.isnan(end), start + rows.tokens["output_tokens"] / reading.answers_tps, end)
    before = end[parent]
    with np.errstate(invalid="ignore"):  # of ends that the file does not have
        np.maximum.at(before, joins[joins >= 0], end[joins >= 0])
    pause_s = np.where(waits, np.where(np.isnan(pause_s), start - before, pause_s), 0.0)
    unknown = np.isnan(pause_s)
    if unknown.any() and not reading.drawn:
        row = int(np.argmax(unknown))
        remedy = f"write {KEY}.answers_tps: tokens per second of the recorded service, or {KEY}.think_s: seconds, or add end_s or pause_s"
        raise rows.error(row, "pause_s", "the file does not say how long after the answer before it the turn comes", remedy)
    if reading.drawn:
        if not unknown.any():
            raise TraceError("the file says all pauses", where=rows.file.path, key=f"{KEY}.think_s", remedy="drop it")
        notes[f"pauses are drawn ({reading.drawn})"] = int(unknown.sum())
    early = np.flatnonzero(pause_s < -_ROUNDING_S)
    if len(early):
        row = int(early[0])
        ours = "pause_s" if "pause_s" in rows.numbers and not np.isnan(rows.numbers["pause_s"][row]) else "arrival_s"
        what = f"comes {-pause_s[row]:.6g} s before the answer that it waits for has ended"
        _accepted(rows, reading, "overlaps", row, ours, what, "to send it at once")
        notes["turns that came before the answer to their parent ended follow at once"] = len(early)
    if (late := pause_s > MOST_SECONDS).any():
        what = f"comes {pause_s[late][0]:.3g} s after the answer before it"
        raise rows.error(int(np.argmax(late)), "arrival_s", what, f"set {KEY}.unit, or fix the row")
    return np.maximum(pause_s, 0.0)


def _prompts(rows: Rows, order: Integers, above: Integers, output: Integers, call: Integers) -> Integers:
    """Tokens of whole prompts; calls hold nothing of what their agent said. # [n]"""
    if "prompt_tokens" in rows.tokens:
        return rows.tokens["prompt_tokens"][order]
    prompt = rows.tokens["new_tokens"][order].copy()
    for row, up in enumerate(above.tolist()):
        if up >= 0 and call[row] == call[up]:
            prompt[row] += prompt[up] + output[up]
    return prompt


def _texts(
    rows: Rows,
    reading: Reading,
    order: Integers,
    above: Integers,
    prompt: Integers,
    output: Integers,
    begin: Integers,
    heir: Integers,
    call: Integers,
    notes: dict[str, int],
) -> tuple[Integers, Integers, Integers]:
    """Tokens of each prompt that were said before, and the texts that it consists of. # [n], [n, 3], [n, 2]"""
    n = len(prompt)
    said = np.where(above < 0, 0, np.minimum((prompt + output)[above], prompt))
    texts, until = np.full((n, 3), -1), np.zeros((n, 2), dtype=np.int64)
    if rows.blocks is not None:
        return said, texts, until
    shorter = 0
    for row, up in enumerate(above.tolist()):
        own = row - begin[row]
        if up < 0 or call[row] > call[up]:
            texts[row, 0], said[row] = own, 0
        elif prompt[row] < prompt[up] + output[up]:
            shorter += 1
            what = f"a prompt of {prompt[row]:,} tokens, and the session holds {prompt[up] + output[up]:,} (prompt and answer before it)"
            _accepted(rows, reading, "shorter", int(order[row]), "prompt_tokens", what, "to take all of it for new text")
            texts[row, 0], said[row] = own, 0
        else:
            texts[row], until[row] = texts[up], until[up]
            if heir[up] != row:  # another follows it in the text that it had
                last = int((texts[up] >= 0).sum())
                if last == 3:
                    raise rows.error(int(order[row]), "parent", "turns fork more than twice in a row", "drop the row, or give hash_ids")
                texts[row, last], until[row, last - 1] = own, prompt[up] + output[up]
    if shorter:
        notes["prompts shorter than what their session held are new text"] = shorter
    return said, texts, until
