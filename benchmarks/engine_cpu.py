"""The engine on a CPU, side by side in one run: batch 16 against sixteen single runs, speculative against plain decoding at batch 1.

    python benchmarks/engine_cpu.py [--target FOLDER --draft FOLDER ...]

Without arguments the trained golden pairs of the tests are used. Each pair of measurements alternates, so that other work on the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers.utils import logging

from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.prompts import prompts_for
from real_runner.records import ServedRequest
from real_runner.serve import machine
from real_runner.target import load_target
from simulator.files import write_whole
from simulator.policies.verification import FixedLength, NoSpeculation

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def timed(engine: Engine, prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
    """Seconds to answer all prompts, and the answers."""
    before = len(engine.finished)
    begun = time.perf_counter()
    engine.run([ServedRequest(i, prompt, tokens) for i, prompt in enumerate(prompts)])
    spent = time.perf_counter() - begun
    return spent, [r.output for r in sorted(engine.finished[before:], key=lambda r: r.request)]


def side_by_side(one: Engine, many: Engine, prompts: list[list[int]], tokens: int, single: bool, repeats: int) -> dict[str, float]:
    """Ratios of the time of `one` to that of `many` on the same prompts; with `single`, `one` answers them one after the other."""
    ratios, first, second, same = [], [], [], []
    for _ in range(repeats + 1):
        parts = [[prompt] for prompt in prompts] if single else [prompts]
        slow, slow_texts = 0.0, []
        for part in parts:
            spent, texts = timed(one, part, tokens)
            slow, slow_texts = slow + spent, slow_texts + texts
        fast, fast_texts = timed(many, prompts, tokens)
        same += [a == b for a, b in zip(slow_texts, fast_texts, strict=True)]
        ratios.append(slow / fast)
        first.append(slow)
        second.append(fast)
    return {  # the first repeat warms up
        "ratio_median": statistics.median(ratios[1:]),
        "ratio_min": min(ratios[1:]),
        "ratio_max": max(ratios[1:]),
        "first_s": statistics.median(first[1:]),
        "second_s": statistics.median(second[1:]),
        "repeats": repeats,
        "texts_equal": sum(same) / len(same),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=str(GOLDEN / "target"))
    parser.add_argument("--draft", nargs="*", default=[str(GOLDEN / name) for name in ("dspark_vanilla", "dflash", "eagle3")])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine_cpu.json", help="the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    target = load_target(options.target, dtype=options.dtype)
    prompts = prompts_for(target, 16)
    room = max(map(len, prompts)) + options.tokens + 64
    results: dict[str, object] = {"machine": machine(target), "tokens": options.tokens}

    def plain(slots: int) -> Engine:
        return Engine(target, None, NoSpeculation(), slots=slots, length=room, stop_at_eos=False)

    results["plain: sixteen single runs / batch 16"] = side_by_side(plain(1), plain(16), prompts, options.tokens, True, options.repeats)
    for name in options.draft:
        drafter = load_drafter(name, target)
        policy = FixedLength(length=drafter.gamma)

        def speculative(slots: int, drafter=drafter, policy=policy) -> Engine:
            return Engine(target, drafter, policy, slots=slots, length=room, stop_at_eos=False)

        short = Path(name).name
        batch = side_by_side(speculative(1), speculative(16), prompts, options.tokens, True, options.repeats)
        results[f"{short}: sixteen single runs / batch 16"] = batch
        results[f"{short}: plain / speculative at batch 1"] = side_by_side(
            plain(1), speculative(1), prompts[:4], options.tokens, False, options.repeats
        )
    for title, numbers in results.items():
        if isinstance(numbers, dict) and "ratio_median" in numbers:
            print(f"{title:<58}{numbers['ratio_median']:6.2f}x  ({numbers['ratio_min']:.2f} to {numbers['ratio_max']:.2f}, n={numbers['repeats']})")
    write_whole(options.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
