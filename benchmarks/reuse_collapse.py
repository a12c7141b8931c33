"""A prefix cache that collapses under speculation (sglang issue 32459), with one number fitted.

The issue: multi-turn agents on GLM-DSA (TP8, sglang 0.5.16). Of prompts of 20,000 tokens and more 97 % are in the cache without speculation, 53 %
with EAGLE of 5 steps and 6 drafted tokens, 40 % with 3 and 4; 43,981 input tokens per second become 12,881 and 16,811, and the median TTFT of 0.54 s
becomes 2.15 s and 2.68 s. It states neither the memory, nor how many sessions run, nor how long turns and pauses are. Here sessions are assumed
(below), the cache is the preset `sglang` with its own numbers (two rounds of room, one unnamed token; pages of 16 tokens, for speed), a draft layer's
KV is one of GLM's 79, and the costs are those of Qwen3-8B on one H200. Only the memory is fitted, so that 53 % of deep prompts are cached with 5
steps; all else is predicted.

    PYTHONPATH=. .venv/bin/python -m benchmarks.reuse_collapse

What comes out, with 163,000 tokens and 16 sessions: this does not reproduce the issue. The two rounds of room and the draft layer take some 2 % of
such a memory; that speculation ends requests sooner, so that fewer run at once, outweighs it, and more is cached with it than without.

| | cached of deep prompts | input tok/s, of no speculation | TTFT p50, s |
|---|---:|---:|---:|
| none | 40% (measured 97%) | 1.00 (measured 1.00) | 1.42 (measured 0.54) |
| steps 5 | 59% (measured 53%) | 1.46 (measured 0.29) | 0.36 (measured 2.15) |
| steps 3 | 51% (measured 40%) | 1.36 (measured 0.38) | 0.40 (measured 2.68) |

So either the issue's memory, load and pauses are such that all of the working set is just inside without speculation, which it does not say, or its
engine loses more than the preset has: the author took it for prompts that are computed again although they are in the cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.study.run.point import Point, run_point
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import validate_scenario

LAYERS, DRAFT_LAYERS = 78, 1  # of GLM's target and of its draft
DEEP_TURN = 8  # from which on prompts have 20,000 tokens and more
SESSIONS = 16
MEASURED = {"none": (0.97, 43_981, 0.54), "steps 5": (0.53, 12_881, 2.15), "steps 3": (0.40, 16_811, 2.68)}
STEPS = {"none": 0, "steps 5": 5, "steps 3": 3}
ROOT = Path(__file__).resolve().parents[1]


def played(name: str, memory_tokens: int) -> PointRow:
    """One run of a policy with so much memory, in tokens without a draft layer."""
    steps = STEPS[name]
    beside = DRAFT_LAYERS / LAYERS if steps else 0.0
    policy: dict[str, Any] = {"name": name, "verification": {"kind": "none"}}
    if steps:
        policy = {"name": name, "drafter": "eagle3-7", "verification": {"kind": "fixed", "length": steps}}
    content = {
        "name": "reuse-collapse", "profile": str(ROOT / "profiles" / "qwen3-8b-h200_sxm"), "policies": [policy], "load": [SESSIONS],
        "workload": {
            "sessions": {
                "arrivals": {"kind": "closed_loop"}, "turns": {"kind": "uniform", "least": 12, "most": 20},
                "system": {"count": 1, "tokens": {"kind": "fixed", "tokens": 8000}},
                "new_tokens": {"kind": "lognormal", "mean_tokens": 1500, "p50_tokens": 900, "max_tokens": 8000},
                "output_tokens": {"kind": "lognormal", "mean_tokens": 200, "p50_tokens": 130, "max_tokens": 1500},
                "think_s": {"kind": "exponential", "mean_s": 5},
            },
            "domains": {"HumanEval": 1},
        },
        "engine": {
            "max_batch": 64, "prefill": {"kind": "chunked", "token_budget": 8192}, "page_tokens": 16, "prefix_cache": {"kind": "sglang"},
            "kv_tokens": int(memory_tokens / (1 + beside)),
        },
        "run": {"replications": 1, "warmup_s": 90, "duration_s": 90},
    }  # fmt: skip
    return run_point(validate_scenario(content, ROOT / "scenarios" / "reuse-collapse.yaml"), Point(0, float(SESSIONS), 0))


def deep(row: PointRow) -> float:
    """The cached share of prompts of late turns."""
    late = [group for group in row.reuse if group.by == "turn" and group.start >= DEEP_TURN]
    return sum(group.cached for group in late) / sum(group.prompt for group in late)


def main() -> None:
    """Fit the memory, then print all beside what was measured."""
    low, high = 100_000, 800_000  # by halves: more memory, more of it cached
    while high / low > 1.03:
        middle = round((low * high) ** 0.5)
        if deep(played("steps 5", middle)) < MEASURED["steps 5"][0]:
            low = middle
        else:
            high = middle
        print(f"{low:,} to {high:,} tokens", flush=True)
    print(f"\nmemory of {high:,} tokens, {SESSIONS} sessions\n")
    print("| | cached of deep prompts | input tok/s, of no speculation | TTFT p50, s |\n|---|---:|---:|---:|")
    rows = {name: played(name, high) for name in MEASURED}
    rate = {name: sum(group.prompt for group in row.reuse if group.by == "turn") for name, row in rows.items()}
    for name, (hit, tokens, ttft) in MEASURED.items():
        told = f"{deep(rows[name]):.0%} (measured {hit:.0%}) | {rate[name] / rate['none']:.2f} (measured {tokens / MEASURED['none'][1]:.2f})"
        print(f"| {name} | {told} | {rows[name]['ttft_p50_s']:.2f} (measured {ttft}) |")


if __name__ == "__main__":
    main()
