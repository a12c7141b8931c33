"""The rows of a file of sessions as sessions: which turn follows which, after what pause, and with what of its prompt said before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_SECONDS
from simulator.traffic.prefix_blocks import block_tokens
from simulator.traffic.request import REQUESTS
from simulator.traffic.session_rows import KEY, Deviation, Reading, Rows

_ROUNDING_S = 1e-6  # of times that were written with some digits


@dataclass(frozen=True)
class Recorded:
    """The sessions of a file as columns, those of session s being rows at[s] : at[s + 1], a turn before those that follow it. # [n] each

    `starts_s` # [S] are when sessions begin, from the first, None where the file does not say. Of each row: tokens, seconds after the answer that it
    waits for (NaN where they are drawn), its number of turns before, and the `count` rows from number `then` of the session on that wait for it.
    Prompts are known by up to three `texts`, numbers of the rows that began them, -1 for none, of which all but the last end at `until` # [n, 3],
    [n, 2]; or in files with hash_ids by ids[first : first + blocks], of `hashed_tokens` each, up to `told` tokens. `shared` # [K] ids are in several
    sessions.
    """

    at: Integers
    starts_s: Floats | None
    prompt_tokens: Integers
    output_tokens: Integers
    pause_s: Floats
    turn: Integers
    then: Integers
    count: Integers
    said_tokens: Integers
    texts: Integers
    until: Integers
    form: str  # how the file writes them
    forks: str  # the first place where several turns follow one, if any
    notes: tuple[str, ...]
    hashed_tokens: int = 0
    ids: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    blocks: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    told: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shared: Flags = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __len__(self) -> int:
        return len(self.at) - 1


def sessions_of(rows: Rows, reading: Reading) -> Recorded:
    """The sessions of the rows. Raises TraceError for the first that contradicts itself, and for deviations that are not accepted."""
    notes: dict[str, int] = {}
    _fill_empty(rows, reading, notes)
    parent = _parents(rows, reading, notes)
    order, at = _in_sessions(rows, parent)
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    above = np.where(parent[order] < 0, -1, place[parent[order]])  # rows in the new order from here on
    output = rows.tokens["output_tokens"][order]
    pause_s = _pauses_s(rows, reading, parent, notes)[order]
    begin = np.repeat(at[:-1], np.diff(at))
    count = np.bincount(above[above >= 0], minlength=len(rows))
    then = np.zeros(len(rows), dtype=np.int64)
    turn = np.zeros(len(rows), dtype=np.int64)
    for row, up in enumerate(above.tolist()):
        if up >= 0:
            turn[row] = turn[up] + 1
            if not then[up]:
                then[up] = row - begin[row]
    prompt = _prompts(rows, order, above, output)
    said, texts, until = _texts(rows, reading, order, above, prompt, output, begin, then, notes)
    starts_s = rows.numbers["arrival_s"][order[at[:-1]]] if "arrival_s" in rows.numbers else np.full(len(at) - 1, np.nan)
    if (span_s := starts_s[-1] - starts_s[0]) > MOST_SECONDS:
        raise rows.error(int(order[at[-2]]), "arrival_s", f"comes {span_s:.3g} s after the first", f"set {KEY}.unit, or fix the row")
    forked = np.flatnonzero(count > 1)
    found = Recorded(
        at, None if np.isnan(starts_s).any() else starts_s - starts_s[0], prompt, output, pause_s, turn, then, count, said, texts, until,
        reading.form.title, rows.file.where(int(order[forked[0]])) if len(forked) else "",
        tuple(f"{number:,} {what}" for what, number in notes.items()),
    )  # fmt: skip
    return _with_hashes(found, rows, reading, order, above) if rows.blocks is not None else found


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


def _in_sessions(rows: Rows, parent: Integers) -> tuple[Integers, Integers]:
    """The rows session after session, in order of arrival where that is known, in each a turn before those that follow it and those side by side;
    and where each session begins. # [n], [S + 1]"""
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
            session += after.get(row, ())
        if len(session) > REQUESTS:
            raise rows.error(root, "session", f"the session has {len(session):,} requests, expected at most {REQUESTS:,}", "drop or split it")
        line += session
        at.append(len(line))
    if len(line) < len(rows):
        seen = np.zeros(len(rows), dtype=bool)
        seen[line] = True
        raise rows.error(int(np.argmin(seen)), "parent", "its parents lead back to itself")
    return np.array(line, dtype=np.int64), np.array(at, dtype=np.int64)


def _pauses_s(rows: Rows, reading: Reading, parent: Integers, notes: dict[str, int]) -> Floats:
    """Seconds from the answer that a row waits for until it is sent; 0 of the first turns, which wait for none. # [n], as in the file"""
    nan = np.full(len(rows), np.nan)
    start, end, pause_s = (rows.numbers.get(name, nan) for name in ("arrival_s", "end_s", "pause_s"))
    if (bad := end < start).any():
        raise rows.error(int(np.argmax(bad)), "end_s", "the answer ends before the request is sent")
    waits = parent >= 0
    if reading.answers_tps is not None:
        guessed = np.isnan(pause_s) & np.isnan(end[parent]) & waits
        if guessed.any():
            notes[f"pauses with answers at {reading.answers_tps:g} tokens per second"] = int(guessed.sum())
        end = np.where(np.isnan(end), start + rows.tokens["output_tokens"] / reading.answers_tps, end)
    pause_s = np.where(waits, np.where(np.isnan(pause_s), start - end[parent], pause_s), 0.0)
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


def _prompts(rows: Rows, order: Integers, above: Integers, output: Integers) -> Integers:
    """Tokens of whole prompts. # [n]"""
    if "prompt_tokens" in rows.tokens:
        return rows.tokens["prompt_tokens"][order]
    prompt = rows.tokens["new_tokens"][order].copy()
    for row, up in enumerate(above.tolist()):
        if up >= 0:
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
    then: Integers,
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
        if up < 0:
            texts[row, 0] = own
        elif prompt[row] < prompt[up] + output[up]:
            shorter += 1
            what = f"a prompt of {prompt[row]:,} tokens, and the session holds {prompt[up] + output[up]:,} (prompt and answer before it)"
            _accepted(rows, reading, "shorter", int(order[row]), "prompt_tokens", what, "to take all of it for new text")
            texts[row, 0], said[row] = own, 0
        else:
            texts[row], until[row] = texts[up], until[up]
            if then[up] != own:  # another follows it in the text that it had
                last = int((texts[up] >= 0).sum())
                if last == 3:
                    raise rows.error(int(order[row]), "parent", "turns fork more than twice in a row", "drop the row, or give hash_ids")
                texts[row, last], until[row, last - 1] = own, prompt[up] + output[up]
    if shorter:
        notes["prompts shorter than what their session held are new text"] = shorter
    return said, texts, until


def _with_hashes(found: Recorded, rows: Rows, reading: Reading, order: Integers, above: Integers) -> Recorded:
    """With prompts known by their hash_ids. What an answer was is known by the turn after it, where that begins with all of it."""
    assert rows.blocks is not None
    assert rows.ids is not None
    prompt = found.prompt_tokens
    given = np.empty_like(prompt)
    given[order] = prompt
    size = block_tokens(
        rows.file, rows.columns["hash_ids"], rows.blocks, given, np.arange(len(given)), reading.form.block_tokens, reading.block_tokens, KEY
    )
    distinct, ids = np.unique(rows.ids, return_inverse=True)
    first, blocks = (np.cumsum(rows.blocks) - rows.blocks)[order].copy(), rows.blocks[order].copy()
    told = np.minimum(prompt, blocks * size)
    session = np.repeat(np.arange(len(found)), np.diff(found.at))
    of_id = np.repeat(session, rows.blocks[order])
    in_order = _joined(ids, first, blocks)
    lowest, highest = np.full(len(distinct), len(found)), np.full(len(distinct), -1)
    np.minimum.at(lowest, in_order, of_id)
    np.maximum.at(highest, in_order, of_id)
    said = found.said_tokens.copy()
    own_first, own_blocks = first.copy(), blocks.copy()
    for row in range(len(prompt) - 1, -1, -1):
        up = int(above[row])
        if up < 0:
            continue
        whole = min(int(prompt[up]) // size, int(own_blocks[up]))
        same = _begins_alike(ids, own_first[up], own_first[row], min(whole, int(own_blocks[row])))
        held = int(prompt[up] + found.output_tokens[up])
        if same == whole and prompt[row] > held and blocks[row] * size >= told[up]:
            if found.then[up] == row - found.at[session[row]]:
                first[up], blocks[up], told[up] = first[row], blocks[row], min(held, int(blocks[row]) * size)
        else:
            said[row] = min(same * size, int(prompt[row]))
    return replace(found, said_tokens=said, hashed_tokens=size, ids=ids, first=first, blocks=blocks, told=told, shared=lowest < highest)


def _joined(ids: Integers, first: Integers, blocks: Integers) -> Integers:
    """ids[first : first + blocks] of one row after another. # [m]"""
    starts = np.cumsum(blocks) - blocks
    return np.asarray(ids[np.arange(int(blocks.sum())) + np.repeat(first - starts, blocks)])


def _begins_alike(ids: Integers, one: int, other: int, most: int) -> int:
    """Leading ids, of at most so many, that two rows have in common."""
    differ = np.flatnonzero(ids[one : one + most] != ids[other : other + most])
    return int(differ[0]) if len(differ) else most
