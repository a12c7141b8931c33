"""The state of a run as the kernel and its driver share it: codes, records and the tables around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from simulator.engine.records import RequestRecord, StepRecord

# Where the kernel waits for the driver: nothing to do but go on, or what it asks for.
ENDED, STARVED, FLUSH, GROW, TURNS, LUCK, PRICE, BELIEVED, PROMPT, SESSIONS = range(10)
# What kinds lower to.
BY_ROW, BY_BATCH, SCHEDULED, UNIFORM, SMOOTHED, BY_CONTEXT = range(6)
INSTANT, SEPARATE, CHUNKED, DISAGGREGATED = range(4)
LEAST_LOADED, SESSION_AFFINITY, PREFIX_AWARE, POWER_OF_TWO, ASSIGNED = range(5)  # the last ones draw
BRANCHES = {
    "policy": ("rule", ("by_row", "by_batch", "scheduled", "uniform", "smoothed", "by_context")),
    "prefill": ("prefill", ("instant", "separate", "chunked", "disaggregated")),
    "router": ("router", ("least_loaded", "session_affinity", "prefix_aware", "power_of_two", "assigned")),
    "admission": ("shortest", ("first_come", "shortest_prompt")),
    "cost model": ("linear_prompts", ("asked", "linear")),
}  # of a fleet's part: where GLOBAL has its branch, and the branches by number
# What happens; the first kinds are processes of SimPy that begin.
WAKE, STEP_ENDS, ARRIVE, LIMIT, DONE, STOP, THINK, ASK, PREFILL, GRANTED, PREFILLED, RELEASED, MOVED, WINDOW, THROUGH, TURN, SESSION = range(17)
RESTING, BEGIN, START, ARRIVING, ADMIT, STEP, PROMPTED = range(7)

NORMAL = np.int64(1) << np.int64(60)  # SimPy's urgent events come before the normal ones of the same time
GOLDEN, M1, M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
CONTEXTS = 48 * 129 + 1  # contexts that prices are kept at: exponent, and 128 … 256 of its grains
REFUSED_S = 1.0  # until the next session of a closed loop begins where one was refused, so that time goes on
FEW = 32  # tokens that are sorted as they come

_i, _f = np.int64, np.float64


def _row(names: tuple[str, ...]) -> np.dtype[Any]:
    """A row of an output, all of it float64."""
    return np.dtype([(name, _f) for name in names])


STEP_ROW, JOIN_ROW, WAIT_ROW = _row(StepRecord._fields), _row(("at_s", "gap_s", "waited_s", "replica")), _row(("from_s", "to_s"))
REQUEST = np.dtype(
    [(name, _f if name.endswith("_s") else _i) for name in RequestRecord._fields]
    + [(name, _i) for name in ("prefilled_tokens", "visit", "visits", "row", "pages", "next", "live", "content", "named", "admitted")]
    + [(name, _f) for name in ("last_emit_s", "left_s", "waited_s", "asked_s")]
)
GLOBAL = np.dtype(
    [(name, _i) for name in (
        "gamma", "proposes", "lag", "most", "replicas", "prefill", "share", "workers", "capacity", "page", "lookahead", "shortest", "router", "rule",
        "stop_early", "least", "contexts", "to_longest", "linear_prompts", "closed", "users", "turns", "window", "slack",
        "seq", "events", "free", "made", "phase", "actor", "want_size", "want_context", "want_tokens", "beside", "answered",
        "outstanding", "finished", "routed", "arrived", "due", "done", "stopping", "warm", "refill", "busy", "queue_head", "queue_tail",
        "rejected", "preempted", "lucks", "sent",
        "caching", "hashed", "hashed_tokens", "answers", "hit_unit", "recomputed", "unnamed", "last_round_unnamed",
        "sessions", "under_way", "started", "next_session", "loaded", "pending", "named_ids",
        "most_finished", "in_flight", "parked", "max_context", "out_steps", "out_requests", "out_joins", "out_waits",
    )]
    + [("word", np.uint64)]
    + [(name, _f) for name in (
        "now", "smoothing", "overhead_s", "scheduling_s", "transfer_s", "prompt_factor", "prompt_base_s", "prompt_token_s", "prompt_context_s",
        "warmup_s",
        "until_s", "limit_s",
        "warm_s", "want_attended", "answer_s", "front_end_s", "most_held", "load_weight",
    )]
)  # fmt: skip
REPLICA = np.dtype(
    [(name, _i) for name in (
        "idle", "batch", "prefilling", "first", "head", "tail", "waiting", "used", "context", "newcomers",
        "size", "decodes", "verified", "chunk", "pieces", "context_then", "waiting_then", "kept", "oldest", "newest", "spare",
    )]
    + [(name, _f) for name in ("last_round_s", "start_s", "draft_s", "verify_s", "overhead_s", "prefill_s", "front_end_free_s")]
)  # fmt: skip
SLOT = np.dtype(
    [(name, np.int32) for name in ("id", "length", "row", "end", "lag1", "lag2")] + [("left", _i), ("context", _i), ("pages", _i)],
    align=True,
)
# A named block; `parent` is the entry of the one before it, which is there for as long as it is; `newer` is the next spare entry where it is none.
CACHED = np.dtype([(name, _i) for name in ("name", "users", "parent", "newer", "older")])
TURN_ROW = np.dtype(
    [(name, _i) for name in ("request", "session", "turn", "prompt", "output", "domain", "then", "count", "waits", "said", "call")]
    + [("pause_s", _f)]
)
EVENT = np.dtype([("time", _f), ("key", _i), ("kind", np.int32), ("arg", np.int32)])


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
    proposed: Any  # [N], or [1] where the drafter always proposes γ
    rank: Any  # [N, γ] how many survivals lie below each
    value: Any  # [N γ] all survivals, rising
    survival: Any  # [N, γ]
    confidence: Any  # [N, γ] conditional, for running means
    means: Any  # [P, M, γ] running means of each request's confidences, below 0: none yet
    heap: Any  # [M γ] scratch
    by_row: Any  # [N] or [M + 1] lengths that depend on the row, or on the batch, alone; by context: see by_context
    first_row: Any  # [S]
    length: Any  # [S]
    candidates: Any  # sequences, domain after domain
    domains: Any  # [D, 3] first and number of its candidates, and the shortest
    pull: Any  # beside `candidates`: the level of a request that began there (measurements/levels.py)
    bounds: Any  # level up to which a request goes on in each text of `by_level`
    by_level: Any  # sequences of each domain, the hardest first
    levels: Any  # [D, 2] drift and luck
    normals: Any
    price_at: Any  # [M + 1, CONTEXTS] where in `prices` a row begins, 0 unknown
    prices: Any  # rows of draft_s, then round_s; before them draft_s where 0 .. requests - 1 propose, if some may propose nothing
    believed_at: Any
    believed: Any
    arrival_s: Any  # [n] open loop
    arrivals: Any  # [n, 5] index, prompt, output, cached, domain
    turns: Any  # [U, window, 4] closed loop: prompt, output, cached, domain of the turns that come next
    pauses: Any  # [U, window] seconds before each of them
    turn_from: Any  # [U] the turn at [:, 0]
    turn_now: Any  # [U]
    rows: Any  # [n] TURN_ROW, the requests of sessions, session after session
    lineages: Any  # [n, 5] of each row: three texts, and the tokens up to which the first two go, 0 where there is none
    session_at: Any  # [s + 1] where in `rows` a session begins
    session_left: Any  # [s] requests of it that are not done, 0 where it is over
    session_home: Any  # [s] the replica that had it last, -1 for none
    starts_s: Any  # [s] when sessions come
    under_way: Any  # [s] how far each is at the start
    pending: Any  # [n] rows to be sent at once
    ids: Any  # [m] recorded names of blocks of prompts
    hashes: Any  # [n, 3] of each request of an open loop, or row of a session: its first id, how many tokens they tell, and a number of its own
    table: Any  # [P, 2^h] entries of the prefix cache by name, 0 for none
    cached: Any  # [P, E] CACHED
    known: Any  # [P, M] tokens of requests before a round
    luck: Any  # [n, 2] replicas drawn
    out_steps: Any  # [n] STEP_ROW
    out_requests: Any  # [n] REQUEST, as they were closed
    out_joins: Any  # [n] JOIN_ROW
    out_waits: Any  # [n] WAIT_ROW
    few: Any  # [FEW] scratch
    keys: Any  # [M γ]
    ranked: Any  # [M γ]
    counts: Any
