"""vLLM with data parallel ranks, written out by hand for tests of recorded runs: every rank an engine of its own, and requests given to the rank with
the least 4 × waiting + running as of at most 100 ms ago (vllm-project/vllm, v1/engine/core_client.py, `DPLBAsyncMPClient`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED_EVERY_S, CLOCK_S = 0.1, 0.3


class Rank:
    """Continuous batching with chunked prompts; costs are base, token, context token, prompt token, prompt token and attended token."""

    def __init__(self, costs: Any, max_batch: int, budget: int) -> None:
        self.costs, self.max_batch, self.budget = costs, max_batch, budget
        self.inbox: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.running: list[dict[str, Any]] = []
        self.end_s = np.inf
        self.decoding: list[dict[str, Any]] = []
        self.pieces: list[tuple[dict[str, Any], int]] = []

    def begin(self, now: float) -> None:
        for request in self.inbox:
            request["queued"] = now
        self.waiting += self.inbox
        self.inbox = []
        self.decoding = [r for r in self.running if r["read"] == r["prompt"]]
        self.pieces, left = [], self.budget - len(self.decoding)
        for request in [r for r in self.running if r["read"] < r["prompt"]]:
            left = self._take(request, left)
        while self.waiting and left > 0 and len(self.running) < self.max_batch:
            self.running.append(self.waiting.pop(0))
            left = self._take(self.running[-1], left)
        if not self.decoding and not self.pieces:
            self.end_s = np.inf
            return
        base, token, context, prompt, attended = self.costs
        step = base + token * len(self.decoding) + context * sum(r["prompt"] + r["out"] for r in self.decoding)
        self.end_s = now + step + sum(n * (prompt + attended * (r["read"] + n / 2)) for r, n in self.pieces)

    def _take(self, request: dict[str, Any], left: int) -> int:
        tokens = min(max(left, 0), request["prompt"] - request["read"])
        if tokens:
            self.pieces.append((request, tokens))
        return left - tokens

    def finish(self, now: float) -> tuple[int, int]:
        """Prompt tokens of prompts that are done, and output tokens."""
        prompts, done = 0, len(self.decoding)
        for request in self.decoding:
            request["out"] += 1
        for request, tokens in self.pieces:
            request["read"] += tokens
            if request["read"] == request["prompt"]:
                request["out"], request["first"] = 1, now
                prompts, done = prompts + request["prompt"], done + 1
        for request in [r for r in self.running if r["out"] >= r["output"]]:
            request["last"] = now
            self.running.remove(request)
        return prompts, done


def record(folder: Path, arrival: Any, prompt: Any, output: Any, costs: Any, ranks: int, front_end_s: float = 0.0, **stated: Any) -> Path:
    """A folder as LLMServingSim's bench writes it: totals over the ranks in every second; `stated` changes the engine's settings in meta.json."""
    engines = [Rank(costs, 128, 2048) for _ in range(ranks)]
    requests = [{"at": float(a), "prompt": int(p), "output": int(o), "read": 0, "out": 0} for a, p, o in zip(arrival, prompt, output, strict=True)]
    coming, known, published = list(requests), [0] * ranks, -1.0
    rows: list[list[float]] = []
    while coming or any(engine.end_s < np.inf for engine in engines):
        now = min(*(engine.end_s for engine in engines), coming[0]["at"] + front_end_s if coming else np.inf)
        second = int(now + CLOCK_S)
        rows += [[0, 0, 0, 0] for _ in range(second + 1 - len(rows))]
        ended = [engine for engine in engines if engine.end_s == now]
        for engine in ended:
            done = engine.finish(now)
            rows[second] = [rows[second][0] + done[0], rows[second][1] + done[1], 0, 0]
        if not ended:
            if now >= published + PUBLISHED_EVERY_S:
                known, published = [4 * (len(e.waiting) + len(e.inbox)) + len(e.running) for e in engines], now
            least = int(np.argmin(known))
            known[least] += 4
            engines[least].inbox.append(coming.pop(0))
        for engine in engines:
            if engine in ended or engine.end_s == np.inf:
                engine.begin(now)
        rows[second][2:] = [sum(len(e.running) for e in engines), sum(len(e.waiting) for e in engines)]
    folder.mkdir()
    settings = {"tensor_parallel_size": 1, "data_parallel_size": ranks, "max_num_seqs": 128, "max_num_batched_tokens": 2048} | stated
    (folder / "meta.json").write_text(json.dumps({"model": "m", "vllm_version": "0.19.0", "engine_kwargs": settings}))
    with (folder / "requests.jsonl").open("w") as lines:
        for r in requests:
            stamps = {"arrival_time": 1e9 + r["at"], "queued_ts": 1e4 + r["queued"], "first_token_ts": 1e4 + r["first"]}
            lines.write(json.dumps({"input_toks": r["prompt"], "output_toks": r["output"], "last_token_ts": 1e4 + r["last"]} | stamps) + "\n")
    series = "".join(f"{t},{p},{g},{n},{w}\n" for t, (p, g, n, w) in enumerate(rows, 1))
    (folder / "timeseries.csv").write_text("t,prompt_throughput,gen_throughput,running,waiting\n" + series)
    return folder
