"""What vLLM's own counters say of its prefix cache on generated sessions, request by request, beside dsim's cache with the same blocks.

    python -m benchmarks.engines.sessions --out reports/engines/sessions

Sessions take turns: one request at a time, so that nothing depends on speed. Prompts are token ids made up from dsim's names of texts; answers
are the engine's own. A small memory makes it evict. Needs the engine and models of `make engines` (steps setup and models).
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.engines.measure import Machine
from benchmarks.engines.plan import CONTEXT, SERVED, VLLM
from benchmarks.engines.processes import Server, end_with_this_program
from simulator.engine.pages import prefix_cache
from simulator.files import whole
from simulator.policies.prefix_cache import Lru, PrefixCaching, VllmCache
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.request import Request, RequestSpec
from simulator.traffic.sessions import Sessions

PAGE = 32
SMALL, LARGE = 18, 340  # blocks of memory: fewer than all sessions need, and enough
SHORTER = 17 * PAGE  # tokens of the longest request: a small memory has to hold one
LAYERS, OWN_LAYERS = 30, {"eagle3": 1}  # of SmolLM2-135M, and of drafters with keys and values of the same size
BLOCK_BYTES = PAGE * LAYERS * 2 * 3 * 64 * 4  # in float32
POLICIES: dict[str, PrefixCaching] = {
    "none": VllmCache(keeps_copies=True), "ngram3": VllmCache(recomputed_blocks=0, keeps_copies=True), "eagle3": VllmCache(keeps_copies=True),
}  # fmt: skip
FAN = {
    "share": 0.3,
    "calls": 2,
    "new_tokens": {"kind": "fixed", "tokens": 25},
    "output_tokens": {"kind": "uniform", "min_tokens": 5, "max_tokens": 30},
}
SESSIONS = Sessions.model_validate({
    "arrivals": {"kind": "closed_loop"}, "turns": {"kind": "uniform", "least": 2, "most": 5},
    "new_tokens": {"kind": "uniform", "min_tokens": 5, "max_tokens": 70}, "output_tokens": {"kind": "uniform", "min_tokens": 5, "max_tokens": 50},
    "system": {"count": 3, "tokens": {"kind": "uniform", "min_tokens": 60, "max_tokens": 160}}, "fan_out": FAN,
})  # fmt: skip
COUNT, AT_ONCE, SEED = 8, 4, 18


@dataclass
class Said:
    """A request as the engine saw it: token ids of its prompt, those of its answer, how many the last chunk of it had, and tokens asked and found."""

    spec: RequestSpec
    prompt: list[int]
    answer: list[int]
    last: int
    found: int


def turns() -> Iterator[RequestSpec]:
    """All requests of the sessions, some sessions at a time, each in its order."""
    source, draw = SessionSource(SESSIONS, SEED, 0), random.Random(SEED)
    waiting = [list(source.session(number)) for number in range(COUNT)]
    live, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
    while live:
        mine = draw.choice(live)
        yield mine.pop(0)
        if not mine:
            live.remove(mine)
            live += [waiting.pop(0)] if waiting else []


def prompt_ids(spec: RequestSpec, answers: dict[int, list[int]]) -> list[int]:
    """Token ids of a prompt: system prompt and new texts made up by name, and answers (by the name of their first token) as they were given."""
    assert spec.content is not None
    names = spec.content.names(0, spec.prompt_tokens, 1)
    made = [1000 + random.Random(name).randrange(40_000) for name in names]
    for name, ids in answers.items():
        if name in (places := {known: place for place, known in enumerate(names)}):
            start = places[name]
            made[start : start + len(ids)] = ids[: len(made) - start]
    return made


def asked(server: Server, prompt: Sequence[int], tokens: int) -> tuple[list[int], int]:
    """Token ids of the answer, and those of the last chunk."""
    body = {"model": SERVED, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "return_token_ids": True}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer: list[int] = []
    last = 0
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        ids = (json.loads(line[6:]).get("choices") or [{}])[0].get("token_ids") or []
        answer += ids
        last = len(ids) or last
    connection.close()
    return answer, last


def counted(server: Server) -> tuple[int, int]:
    """Tokens that were looked up in the prefix cache, and those found."""
    text = server.metrics()
    values = [re.search(rf"^vllm:prefix_cache_{name}_total\S*\s+(\S+)$", text, re.MULTILINE) for name in ("queries", "hits")]
    asked, found = (int(float(value.group(1))) if value else 0 for value in values)
    return asked, found


def measured(server: Server) -> Iterator[Said]:
    """Every request, one after the other."""
    answers: dict[int, list[int]] = {}
    for spec in turns():
        prompt = prompt_ids(spec, answers)
        before = counted(server)
        answer, last = asked(server, prompt, spec.output_tokens)
        after = counted(server)
        if len(answer) != spec.output_tokens or after[0] - before[0] != len(prompt):
            raise SystemExit(f"{len(answer)} of {spec.output_tokens} tokens, {after[0] - before[0]} of {len(prompt)} looked up")
        assert spec.content is not None
        answers[spec.content.names(len(prompt), len(prompt) + 1, 1)[0]] = answer
        yield Said(spec, prompt, answer, last, after[1] - before[1])


def usable(name: str, blocks: int) -> int:
    """Blocks of a policy in the memory of so many without a drafter's own layers, and one that the engine keeps empty."""
    return (blocks + 1) * LAYERS // (LAYERS + OWN_LAYERS.get(name, 0)) - 1


def simulated(said: Sequence[Said], rule: PrefixCaching, blocks: int, speculates: bool, length: int) -> list[int]:
    """Tokens that dsim's cache finds for the same requests."""
    kv, found = prefix_cache(blocks, PAGE, rule, speculates), []
    for each in said:
        request, total = Request(each.spec), len(each.prompt) + len(each.answer)
        pages = kv.pages(len(each.prompt) + length)
        assert kv.admit(request, pages)
        found.append(request.cached_tokens)
        kv.computed(request, len(each.prompt))
        more = kv.pages(total - 1 + length) - pages
        kv.take(max(more, 0))
        request.emitted_tokens = len(each.answer)
        kv.computed(request, rule.left_tokens(total, total - each.last))
        kv.leave(request, pages + max(more, 0))
    return found


def compared(blocks: int, home: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Every policy with a memory of so many blocks, a row for each request."""
    memory = re.sub(r"--kv-cache-memory-bytes \d+", f"--kv-cache-memory-bytes {(blocks + 1) * BLOCK_BYTES}", VLLM.serve)  # one stays empty
    machine = Machine(
        replace(
            VLLM, serve=memory.replace("--max-num-seqs 32", "--max-num-seqs 4").replace(f"--max-model-len {CONTEXT}", f"--max-model-len {SHORTER}")
        ),
        home,
        out,
    )
    for name, rule in POLICIES.items():
        policy = VLLM.policy(name)
        server = machine.start(name, True)
        said = list(measured(server))
        server.stop()
        mine = simulated(said, rule, usable(name, blocks), bool(policy.drafter), policy.length + 1)
        plain = simulated(said, Lru(), usable(name, blocks), False, policy.length + 1)
        equal = sum(each.found == dsim for each, dsim in zip(said, mine, strict=True))
        found = sum(each.found for each in said), sum(mine), sum(plain)
        asked = sum(len(each.prompt) for each in said)
        print(f"{name}, {blocks} blocks: {equal} of {len(said)} requests equal; of {asked} tokens vLLM, dsim, LRU found {found}", flush=True)
        for number, (each, dsim, lru) in enumerate(zip(said, mine, plain, strict=True)):
            assert each.spec.place is not None
            yield {
                "policy": name, "blocks": blocks, "request": number, "session": each.spec.place.session, "turn": each.spec.place.turn,
                "prompt": len(each.prompt), "output": len(each.answer), "last": each.last, "vllm": each.found, "dsim": dsim, "lru": lru,
            }  # fmt: skip


def main() -> int:
    """Every policy with a large and a small memory; exit code 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".engines"))
    parser.add_argument("--out", type=Path, default=Path("reports/engines/sessions"))
    parser.add_argument("--blocks", type=int, nargs="+", default=[LARGE, SMALL], help="blocks of memory")
    options = parser.parse_args()
    end_with_this_program()
    rows = [row for blocks in options.blocks for row in compared(blocks, options.home.absolute(), options.out.absolute())]
    options.out.mkdir(parents=True, exist_ok=True)
    with whole(options.out / "sessions.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row["vllm"] != row["dsim"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
