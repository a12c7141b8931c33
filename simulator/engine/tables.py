"""What the compiled path is given of sessions and prefix caches: rows of requests as they are needed, names of blocks, and the cache's own tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.engine.given import Fleet, SessionTraffic, Strangers, Traffic
from simulator.engine.kernel import layout as k
from simulator.traffic.content import HashedPrompts
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.recorded_sessions import RecordedSource
from simulator.traffic.request import RequestColumns, within

_LOADED = 64  # sessions at once


def why_not(traffic: Traffic, fleet: Fleet) -> str:
    """Why sessions, a prefix cache or users who leave must go step by step through Python; empty where they need not."""
    if traffic.senders is not None and traffic.senders.leave:
        return "users leave before the end, which is played in Python"
    if isinstance(traffic, SessionTraffic) and not isinstance(traffic.sessions, SessionSource | RecordedSource):
        return f"the sessions are {type(traffic.sessions).__name__}, written in Python"
    if fleet.prefix_cache is None:
        return ""
    if fleet.kv_pages is None or fleet.prefix_cache.keeps_copies:
        return f"a prefix cache {'whose memory has no end' if fleet.kv_pages is None else 'that keeps copies'} is played in Python"
    if not isinstance(traffic, SessionTraffic) and _contents(traffic) is None:
        return "what prompts begin with is told in Python"
    return ""


def _contents(traffic: Strangers) -> Any:
    specs = getattr(traffic, "specs", None)
    return specs.contents if isinstance(specs, RequestColumns) else None


def tables(traffic: Traffic, fleet: Fleet) -> dict[str, NDArray[Any]]:
    """The arrays of a world for them; small ones where there are none."""
    sessions = traffic if isinstance(traffic, SessionTraffic) else None
    contents = None if isinstance(traffic, SessionTraffic) or fleet.prefix_cache is None else _contents(traffic)
    entries = (fleet.kv_pages or 0) + 2 if fleet.prefix_cache is not None else 1
    cached = np.zeros((fleet.replicas, entries), k.CACHED)
    cached["newer"] = np.append(np.arange(1, entries), -1)
    calls = sessions.sessions.most_calls if sessions is not None and isinstance(sessions.sessions, SessionSource | RecordedSource) else 1
    return {
        "rows": np.zeros(1, k.TURN_ROW),
        "lineages": np.zeros((1, 5), np.int64),
        "session_at": np.zeros(1, np.int64),
        "session_left": np.zeros(1, np.int64),
        "session_home": np.zeros(1, np.int64),
        "starts_s": np.zeros(0) if sessions is None else np.asarray(sessions.starts_s, dtype=np.float64),
        "under_way": np.zeros(1) if sessions is None or sessions.under_way is None else np.asarray(sessions.under_way, dtype=np.float64),
        "pending": np.zeros(calls * fleet.settings.max_batch + 2 if sessions else 1, np.int64),
        "ids": np.zeros(1, np.int64) if contents is None else contents.ids.astype(np.int64),
        "hashes": np.zeros((1, 3), np.int64) if contents is None else _hashes(contents),
        "table": np.zeros((fleet.replicas, 1 << (2 * entries).bit_length()), np.int32),
        "cached": cached,
        "known": np.zeros((fleet.replicas, fleet.settings.max_batch), np.int64),
    }


def _hashes(contents: HashedPrompts) -> NDArray[Any]:
    """Of each request: its first id, how many tokens they tell, and the number of its answer."""
    return np.stack([contents.starts, contents.told, 1 + contents.request], axis=-1).astype(np.int64)


def settings(traffic: Traffic, fleet: Fleet) -> dict[str, int]:
    """Numbers of a world for them."""
    numbers = {"hit_unit": fleet.page_tokens}
    if (rule := fleet.prefix_cache) is not None:
        drafts = fleet.policy.drafts
        numbers |= {"caching": 1, "answers": rule.answers, "hit_unit": rule.hit_unit_tokens or fleet.page_tokens}
        numbers |= {"recomputed": rule.recomputed_blocks * drafts, "unnamed": rule.unnamed_tokens * drafts}
        numbers |= {"last_round_unnamed": rule.last_round_unnamed}
        size = getattr(traffic.sessions, "hashed_tokens", 0) if isinstance(traffic, SessionTraffic) else _contents(traffic).hashed_tokens
        numbers |= {"hashed": size > 0, "hashed_tokens": size}
    if isinstance(traffic, SessionTraffic):
        numbers |= {"sessions": 1, "under_way": traffic.under_way is not None, "next_session": len(traffic.starts_s)}
    return numbers


def with_sessions(w: k.World, source: SessionSource | RecordedSource, max_context: int | None) -> k.World:
    """Some sessions more."""
    first = int(w.g[0]["loaded"])
    base = int(w.session_at[first])
    at, columns, lineages = source.drawn(first, _LOADED)
    rows = np.zeros(int(at[-1]), dtype=k.TURN_ROW)
    for name, values in columns.items():
        rows[name] = values
    rows["output"] = within(rows["output"], rows["prompt"], max_context)
    rows["then"] += base + np.repeat(at[:-1], np.diff(at))
    w.g["loaded"] = first + _LOADED
    if isinstance(source, RecordedSource) and w.g[0]["hashed"]:
        named = int(w.g[0]["named_ids"])
        ids, hashes = source.hashes(first, _LOADED, named)
        w.g["named_ids"] = named + len(ids)
        w = w._replace(ids=_longer(w.ids, named, ids), hashes=_longer(w.hashes, base, hashes))
    return w._replace(
        rows=_longer(w.rows, base, rows),
        lineages=_longer(w.lineages, base, lineages),
        session_at=_longer(w.session_at, first + 1, base + at[1:]),
        session_left=_longer(w.session_left, first, np.zeros(_LOADED, np.int64)),
        session_home=_longer(w.session_home, first, np.full(_LOADED, -1)),
    )


def _longer(array: NDArray[Any], used: int, more: NDArray[Any]) -> NDArray[Any]:
    """The first `used` of an array and more, with room for as many again."""
    if used + len(more) > len(array):
        grown = np.zeros((2 * (used + len(more)), *array.shape[1:]), array.dtype)
        grown[:used] = array[:used]
        array = grown
    array[used : used + len(more)] = more
    return array
