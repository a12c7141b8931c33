"""The questions of gpu_checks.py: each a function of a Lab that gives an Answer. Its docstring is the doubt."""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_steps import GOLDEN
from benchmarks.gpu_times import fastest, pair
from real_runner.cost_cells import CellBench
from real_runner.cost_grid import CostCell
from real_runner.engine import Engine
from real_runner.environment import RESERVE, _gpu_facts, copy_rate
from real_runner.failures import OutOfMemory, memory_of
from real_runner.graphs import Captured
from real_runner.layout import Tiers, ship
from real_runner.prompts import random_prompts
from real_runner.records import ServedRequest
from real_runner.sampling import draw
from real_runner.target import load_target
from real_runner.texts import Text
from real_runner.timing import repeated
from real_runner.training.checkpoints import Shape, new_drafter
from real_runner.training.corpus import build_corpus
from real_runner.training.loop import Schedule, Trainer
from simulator.policies.verification import FixedLength, NoSpeculation
from simulator.progress import Progress

FLOOR = 1.15  # a verify step of one token over reading its weights
STEADY = 0.05  # times that should be equal differ by no more
Repeat = Callable[[], Any]


@dataclass
class Answer:
    """Of a check: does it hold, what was seen, the numbers of it."""

    ok: bool
    seen: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Lab:
    """What checks share: a device, and on it a target and a drafter of Qwen3-4B's dimensions with random weights (tiny ones if `small`)."""

    device: str
    small: bool

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    @cached_property
    def pair(self) -> tuple[Any, Any]:
        """Target and drafter."""
        return pair("small" if self.small else "4b", self.device)

    @cached_property
    def tiers(self) -> Tiers:
        return Tiers(tokens=(1, 2, 4, 8, 16), reach=(64, 128)) if self.small else Tiers()

    @cached_property
    def bench(self) -> CellBench:
        """Cells of its cost tables."""
        return CellBench(self.pair[0], {"dspark": self.pair[1]}, self.tiers, 1.0, 0)

    def seconds(self, run: Repeat, repeats: int = 10) -> float:
        """The shortest of some repeats."""
        return fastest(run, self.device, repeats)

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.place)

    def served(self, drafter: Any, length: int, prompts: list[int], tokens: int, device: Any = None) -> Engine:
        """An engine that has served prompts of so many tokens each."""
        target = self.pair[0]
        policy = FixedLength(length=length) if length else NoSpeculation()
        room = max(prompts) + 2 * tokens + 64
        engine = Engine(target, drafter, policy, slots=len(prompts), length=room, tiers=self.tiers, stop_at_eos=False, device=device)
        engine.run([ServedRequest(i, ids, tokens) for i, ids in enumerate(random_prompts(target, prompts, 0))])
        return engine


def draws(lab: Lab) -> Answer:
    """Is a token of weight zero ever drawn? A running sum that a GPU adds as a tree may step at one."""
    width, rows = (2048, 16) if lab.small else (151936, 256)
    weights = torch.zeros(rows, width, device=lab.device)
    weights[:, :: width // 50] = torch.rand(rows, len(range(0, width, width // 50)), device=lab.device)
    bad = single = 0
    turns = 20 if lab.small else 1000
    for _ in range(turns):
        uniform = torch.rand(rows, device=lab.device)
        at = draw(weights, uniform).unsqueeze(1)
        bad += (weights.gather(1, at) == 0).sum()
        running = weights.cumsum(-1)  # in float32, as it would be without care
        at = torch.searchsorted(running, uniform.unsqueeze(1) * running[:, -1:] * (1 - 1e-7), right=True).clamp_(max=width - 1)
        single += (weights.gather(1, at) == 0).sum()
    count = rows * turns
    return Answer(
        int(bad) == 0, f"{int(bad)} of {count} draws took a token of weight zero ({int(single)} in float32)", {"bad": int(bad), "of": count}
    )


def training(lab: Lab) -> Answer:
    """Does a training step of every family run where the target is?"""
    target, losses = load_target(str(GOLDEN / "target"), lab.device), {}
    texts = [Text(ids[:6], ids[6:]) for ids in random_prompts(target, [24] * 3, 1)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = build_corpus(target, (0, 1, 2), texts, Path(folder), Progress(quiet=True))
        for family in ("dspark", "dflash", "eagle3", "mtp"):
            shape = Shape(family, 1 if family == "mtp" else 3, (0, 1, 2), layers=1, markov_rank=4, mask_token=target.vocabulary - 1)
            drafter = new_drafter(shape, target, Path(folder), None, seed=0)
            losses[family] = Trainer(drafter, target, corpus, Schedule(steps=1, texts=2, anchors=8, held_out=1))._step()[0]
    ok = all(np.isfinite(loss) for loss in losses.values())
    return Answer(ok, "losses " + ", ".join(f"{family} {loss:.2f}" for family, loss in losses.items()), losses)


def attention(lab: Lab) -> Answer:
    """Which attention kernel runs with a mask, also where a reach is not aligned, and what another one would take?"""
    torch.backends.cuda.enable_cudnn_sdp(False)  # as targets have it
    rows, width, reaches = (4, 8, (64, 100)) if lab.small else (64, 32, (256, 371, 512, 594, 2048))
    shape, dtype, numbers = (rows + 1, 8, max(reaches), 128), torch.bfloat16, {}
    query = torch.randn(rows, 8, width, 128, device=lab.device, dtype=dtype)
    keys, values = torch.randn(shape, device=lab.device, dtype=dtype), torch.randn(shape, device=lab.device, dtype=dtype)
    for reach in reaches:
        k, v = keys[:rows, :, :reach], values[:rows, :, :reach]
        added = torch.zeros(rows, 1, width, reach, device=lab.device, dtype=dtype)

        def attend(mask: Any = added, k: Any = k, v: Any = v) -> Any:
            return functional.scaled_dot_product_attention(query, k, v, attn_mask=mask)

        seen = added == 0
        row = {"kernel": SDPBackend(torch._fused_sdp_choice(query, k, v, added)).name, "ms": 1e3 * lab.seconds(attend)}
        row["bool mask ms"] = 1e3 * lab.seconds(lambda attend=attend, seen=seen: attend(seen))
        if lab.device != "cpu":
            with contextlib.suppress(RuntimeError), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                row["cuDNN ms"] = 1e3 * lab.seconds(attend)
        numbers[reach] = row
    kernels = {row["kernel"] for row in numbers.values()}
    slower = max(row["ms"] / row["cuDNN ms"] for row in numbers.values()) if all("cuDNN ms" in row for row in numbers.values()) else None
    ok = "MATH" not in kernels and "ERROR" not in kernels and (slower is None or slower < 1.3)
    times = ", ".join(f"{row['ms']:.3g} ms at {reach}" for reach, row in numbers.items())
    beside = "" if slower is None else f"; at most {slower:.2f} of cuDNN's time"
    return Answer(ok, f"{', '.join(sorted(kernels))}: {times}{beside}", numbers)


def launch_share(lab: Lab) -> Answer:
    """How far is a verify step of one token above reading the weights once? Above FLOOR, speculation looks better here than in serving engines."""
    target, context = lab.pair[0], 16 if lab.small else 240
    once = lab.bench.prepare(CostCell("verify", requests=1, tokens=1, context=context), 1)
    step_s = repeated(once, 0.5, 0.2).p50_s
    tied = target.embedding.weight is target.head.weight
    weights = sum(p.numel() for p in target.model.parameters()) - (0 if tied else target.embedding.weight.numel())
    floor_s = weights * target.dtype.itemsize / copy_rate(lab.place)
    lab.bench.release()
    numbers = {"step_s": step_s, "floor_s": floor_s, "over_floor": step_s / floor_s}
    return Answer(step_s <= FLOOR * floor_s, f"{1e3 * step_s:.3g} ms, {step_s / floor_s:.2f} × the {1e3 * floor_s:.3g} ms of reading", numbers)


def drafting_apart(lab: Lab) -> Answer:
    """Do backbone and sequential head, timed apart in the cost tables, add up to a drafting of the engine?"""
    bench, requests, context = lab.bench, 2 if lab.small else 8, 16 if lab.small else 240
    cell, gamma = CostCell("backbone", "dspark", requests, context=context), lab.pair[1].gamma
    parts = [repeated(bench.prepare(one, requests), 0.3, 0.1).p50_s for one in (cell, replace(cell, kind="head", slots=gamma))]
    device, _, batch, where = bench._drafting(cell, requests)
    whole_s = repeated(bench._timed(lambda: device.draft(batch.layout, where, gamma), bench._flushed), 0.3, 0.1).p50_s
    bench.release()
    seen = f"{1e6 * sum(parts):.0f} µs apart, {1e6 * whole_s:.0f} µs at once ({sum(parts) / whole_s - 1:+.0%})"
    return Answer(abs(sum(parts) / whole_s - 1) < 0.1, seen, {"backbone_s": parts[0], "head_s": parts[1], "at_once_s": whole_s})


def prefill_together(lab: Lab) -> Answer:
    """Do several prompts in one step take as long as one of as many tokens, which is all that the cost table has?"""
    each, count = (16, 2) if lab.small else (256, 8)
    seconds = {}
    for name, prompts in (("one", [each * count]), ("several", [each] * count)):
        first = lab.served(None, 0, prompts, 2)
        again = lab.served(None, 0, prompts, 2, first.device)
        seconds[name] = sum(step.prefill_s for step in again.steps)
    ratio = seconds["several"] / seconds["one"]
    seen = f"{count} prompts of {each} tokens take {1e3 * seconds['several']:.3g} ms, one of {each * count} takes {1e3 * seconds['one']:.3g} ms"
    return Answer(abs(ratio - 1) < 0.15, seen, {**seconds, "ratio": ratio})


def clock_ramp(lab: Lab) -> Answer:
    """Is the first cell after an idle second as fast as the same one later? Clocks of an idle GPU are low."""
    side = 256 if lab.small else 4096
    a = torch.randn(side, side, device=lab.device, dtype=torch.bfloat16)

    def once() -> float:
        return lab.seconds(lambda: a @ a, 1)

    time.sleep(1.0)
    first = repeated(once, 0.05, 0.0125, steady=0.0)  # the least share of a cell, as cost_tables has it
    later = repeated(once, 1.0, 0.5, steady=0.0)
    ratio = first.p50_s / later.p50_s
    seen = f"{1e6 * first.p50_s:.0f} µs at first, {1e6 * later.p50_s:.0f} µs later ({ratio - 1:+.1%})"
    return Answer(abs(ratio - 1) < STEADY, seen, {"first_s": first.p50_s, "later_s": later.p50_s, "ratio": ratio})


def sustained(lab: Lab) -> Answer:
    """Is a burst of products, as a cell is, as fast as products without end, which meet the power limit? And how fast are products of zeros?"""
    side, seconds = (256, 0.5) if lab.small else (8192, 12.0)
    a = torch.randn(side, side, device=lab.device, dtype=torch.bfloat16)

    def rate(matrix: Any, seconds: float) -> float:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            for _ in range(10):
                torch.mm(matrix, matrix)
            lab.wait()
            count += 10
        return 2 * side**3 * count / (time.perf_counter() - begun)

    rate(a, 0.05)
    time.sleep(0.5)
    numbers = {"burst": rate(a, 0.2), "zeros": rate(torch.zeros_like(a), 0.2)}
    rate(a, 0.75 * seconds)
    numbers["sustained"] = rate(a, 0.25 * seconds)
    ratio = numbers["sustained"] / numbers["burst"]
    rates = ", ".join(f"{name} {one / 1e12:.3g} TFLOP/s" for name, one in numbers.items())
    return Answer(ratio > 1 - STEADY, f"{rates} (sustained {ratio - 1:+.1%})", {**numbers, "ratio": ratio})


def driver(lab: Lab) -> Answer:
    """Does the driver tell clocks and power while the GPU works?"""
    facts = _gpu_facts(lab.place)
    wanted = ("driver", "clock_sm_mhz", "clock_sm_most_mhz", "clock_memory_mhz", "power_w", "power_limit_w")
    absent = [name for name in wanted if name not in facts]
    seen = ", ".join(f"{name} {facts[name]}" for name in wanted if name in facts)
    return Answer(not absent, seen + (f"; not told: {', '.join(absent)}" if absent else ""), facts)


def captures(lab: Lab) -> Answer:
    """What do graphs take to capture, in seconds and memory, and does that fit in what a profile keeps free for them?"""
    _, drafter = lab.pair
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    prompts = [16] * (3 if lab.small else 24)
    engine = lab.served(drafter, 3, prompts, 24)
    again = lab.served(drafter, 3, prompts, 24, engine.device)
    graphs = engine.device.runner.captured
    caches = sum(t.numel() * t.element_size() for cache in (engine.target.kv, drafter.kv) for pair in cache._layers.values() for t in pair)
    torch.cuda.empty_cache()
    mib = (free - torch.cuda.mem_get_info()[0] - caches) / graphs / 2**20
    normal_s = statistics.median(step.end_s - step.start_s for step in again.steps)
    stalled = [step for step in engine.steps if step.captured_graphs]
    each_s = sum(step.end_s - step.start_s - normal_s for step in stalled) / sum(step.captured_graphs for step in stalled)
    most, kept = 3 * len(lab.tiers.tokens), RESERVE * total / 2**20  # draft, verify and take in of every tier, at one reach
    ok = not any(step.captured_graphs for step in again.steps) and most * mib < kept
    seen = f"{graphs} graphs, {each_s:.2f} s and {mib:.1f} MiB each: {most} would take {most * mib:.0f} of the {kept:.0f} MiB that a profile leaves"
    return Answer(ok, seen, {"graphs": graphs, "seconds_each": each_s, "mib_each": mib, "most": most})


def collecting(lab: Lab) -> Answer:
    """Does a capture survive garbage with graphs in it? Collected while another captures, they would break it."""
    threshold, runs = gc.get_threshold(), 20
    a = torch.randn(64, 64, device=lab.device)
    gc.set_threshold(1)
    try:
        for _ in range(runs):
            runner, ring = Captured(), []
            runner.run("key", lambda a: (a @ a,), a)
            ring.append((ring, runner))  # a cycle: only the collector frees it
        out = runner.run("key", lambda a: (a @ a,), a)[0]
    finally:
        gc.set_threshold(*threshold)
    worst = float((out - a @ a).abs().max())
    return Answer(worst < 1e-3, f"{runs} captures amid garbage, replay off by {worst:.1e}", {"worst": worst})


def shipping(lab: Lab) -> Answer:
    """What does the first copy to the device after a capture take? Since torch 2.9 a capture empties the cache of pinned memory."""
    array = np.arange(65536)

    def once() -> float:
        lab.wait()
        begun = time.perf_counter()
        ship(array, lab.place)
        return time.perf_counter() - begun

    usual_s = statistics.median(once() for _ in range(20))
    Captured().run("key", lambda a: (a + 1,), torch.zeros(8, device=lab.device))
    first_s = once()
    return Answer(first_s - usual_s < 2e-3, f"{1e6 * first_s:.0f} µs, else {1e6 * usual_s:.0f} µs", {"first_s": first_s, "usual_s": usual_s})


def memory(lab: Lab) -> Answer:
    """Is a cache that does not fit refused as such, is its memory free again, and does the next cell run?"""
    cell = CostCell("verify", requests=1, tokens=1, context=16 if lab.small else 4000)
    lab.bench.release()
    before = torch.cuda.memory_allocated()
    slots = 2 * torch.cuda.mem_get_info()[1] // (cell.context * 32768)
    refused = False
    try:
        with memory_of("the cache"):
            lab.bench.prepare(cell, slots)
    except OutOfMemory:
        refused = True
    lab.bench.release()
    kept = torch.cuda.memory_allocated() - before
    step_s = lab.bench.prepare(cell, 1)()
    lab.bench.release()
    seen = f"{'refused' if refused else 'NOT refused'}, {kept / 2**20:.1f} MiB kept, the next cell took {1e3 * step_s:.3g} ms"
    return Answer(refused and kept < 2**20, seen, {"refused": refused, "kept_bytes": kept})


def fewer_kernels(lab: Lab) -> Answer:
    """Would compiled norms pay? `wrong` says that a replayed norm of one token takes half as long or less when compiled: worth doing then."""
    norm = lab.pair[0].decoder.layers[0].input_layernorm
    hidden = torch.randn(1, 1, lab.pair[0].hidden, device=lab.device, dtype=lab.pair[0].dtype)

    def replayed(function: Any) -> float:
        runner = Captured()

        def many(hidden: Any) -> tuple[Any, ...]:
            for _ in range(100):
                out = function(hidden)
            return (out,)

        runner.run("key", many, hidden)
        return lab.seconds(lambda: runner.run("key", many, hidden)) / 100

    with torch.no_grad():
        eager_s, compiled_s = replayed(norm), replayed(torch.compile(norm, dynamic=True))
    return Answer(
        compiled_s > eager_s / 2, f"{1e6 * eager_s:.1f} µs eager, {1e6 * compiled_s:.1f} µs compiled", {"eager_s": eager_s, "compiled_s": compiled_s}
    )
