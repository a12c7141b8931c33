"""The GPU battery: everything that waits for a CUDA device, in steps of under ten minutes, each leaving JSON under benchmarks/results/<device>/.

    python benchmarks/gpu.py                        all steps, on the GPU
    python benchmarks/gpu.py --step times_4b        one of them
    python benchmarks/gpu.py --device cpu --small   the rehearsal, for machines without a GPU

Each step runs in its own process with a limit, so that one that fails or hangs leaves the others alone. Needs torch, transformers, pytest and
this checkout; no network. A later step is one more function in STEPS.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
RESULTS = ROOT / "benchmarks" / "results"
LIMIT_S = 590
TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")


def tests(device: str, small: bool) -> dict[str, Any]:
    """The tests marked `cuda`, every one of them. On a CPU all are skipped: the rehearsal shows that they can be collected."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "tests/real_runner/test_cuda.py", "-rfEs", f"--junitxml={folder}/tests.xml"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        counts = junit_counts(Path(folder) / "tests.xml")
    expected_skips = counts["tests"] if device == "cpu" else 0
    ok = run.returncode == 0 and counts["tests"] > 0 and counts["skipped"] == expected_skips
    skipped = {"skipped": "needs a CUDA device"} if device == "cpu" else {}
    return {"ok": ok, **skipped, "counts": counts, "output": run.stdout.strip().splitlines()[-25:]}


def junit_counts(file: Path) -> dict[str, int]:
    """How many tests there were, and how many of them were skipped; none where pytest wrote no file."""
    suite = ElementTree.parse(file).getroot().find("testsuite") if file.exists() else None
    return {name: 0 if suite is None else int(suite.attrib[name]) for name in ("tests", "skipped")}


def parity(device: str, small: bool) -> dict[str, Any]:
    """Golden checkpoints in float32 and bfloat16: worst differences. Float32 must hold; bfloat16 is reported."""
    import torch

    from real_runner.drafters.loading import load_drafter
    from real_runner.expect import compare
    from real_runner.target import load_target

    torch.backends.cuda.matmul.allow_tf32 = False
    results: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        target = load_target(str(GOLDEN / "target"), device, dtype)
        for name in TRAINED[:2] if small else TRAINED:
            differences = compare(GOLDEN / name, target, load_drafter(str(GOLDEN / name), target))
            results[f"{name} {dtype}"] = {d.what: {"holds": d.holds, "worst": d.worst} for d in differences}
    held = all(d["holds"] for title, each in results.items() if title.endswith("float32") for d in each.values())
    return {"ok": held, "differences": results}


def graphs(device: str, small: bool) -> dict[str, Any]:
    """Eager against captured: the same texts, and how much of a round was Python. On a CPU tiers are padded to, nothing is captured."""
    import statistics

    from real_runner.drafters.loading import load_drafter
    from real_runner.engine import Engine
    from real_runner.layout import Tiers
    from real_runner.records import ServedRequest
    from real_runner.target import load_target
    from simulator.policies.verification import FixedLength

    target = load_target(str(GOLDEN / "target"), device)
    results: dict[str, Any] = {}
    for name in TRAINED[:1] if small else TRAINED:
        drafter = load_drafter(str(GOLDEN / name), target)
        prompts = [one["prompt"] for one in json.loads((GOLDEN / name / "greedy_decode.json").read_text())]
        texts, round_s = {}, {}
        for way, tiers in (("eager", None), ("captured", Tiers(reach=(256,)))):
            for _ in range(2):  # the first run warms up and captures
                engine = Engine(target, drafter, FixedLength(length=drafter.gamma), slots=6, length=256, tiers=tiers, stop_at_eos=False)
                done = engine.run([ServedRequest(i, prompt, 96) for i, prompt in enumerate(prompts)])
                if way == "captured":
                    engine.begin()
                    engine.finished.clear()
                    engine.steps.clear()
                    done = engine.run([ServedRequest(i, prompt, 96) for i, prompt in enumerate(prompts)])
            texts[way] = {r.request: r.output for r in done}
            full = [s.end_s - s.start_s for s in engine.steps if len(s.rounds) == 6 and not s.captured_graphs and not s.prefill_tokens]
            round_s[way] = statistics.median(full)
        same = texts["eager"] == texts["captured"]
        results[name] = {
            "same_texts": same,
            "round_s": round_s,
            "graphs": engine.device.runner.captured,
            "ratio": round_s["eager"] / round_s["captured"],
        }
    captured = device == "cpu" or all(each["graphs"] > 0 for each in results.values())
    return {"ok": captured and all(each["same_texts"] for each in results.values()), "drafters": results}


LAYERS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36}
SMALL_LAYERS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 4}
QWEN3 = {
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, **LAYERS},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, **LAYERS},
    "small": {"hidden_size": 64, "intermediate_size": 192, **SMALL_LAYERS},
}
TAPS = {"4b": (1, 9, 17, 25, 33), "8b": (1, 9, 17, 25, 33), "small": (0, 1, 2)}


def pair(size: str, device: str) -> tuple[Any, Any]:
    """A Qwen3 target and its DSpark drafter of true dimensions with random weights."""
    from transformers import AutoConfig

    from real_runner.drafters.loading import random_drafter
    from real_runner.target import random_target
    from simulator.measurements.drafters.spec import DraftSpec

    vocabulary = 512 if size == "small" else 151936
    shape = {
        **QWEN3[size],
        "vocab_size": vocabulary,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    }
    config = AutoConfig.for_model("qwen3", **shape, tie_word_embeddings=size == "4b")
    target = random_target(config, f"qwen3-{size}, random weights", device, "bfloat16")
    layers = {**shape, "model_type": "qwen3", "num_hidden_layers": 2 if size == "small" else 5}
    spec = DraftSpec(
        Path(f"dspark-{size}, random weights"),
        "deepspec",
        "dspark",
        layers,
        TAPS[size],
        block=7,
        first_slot=0,
        gamma=7,
        mask_token=vocabulary - 267,
        markov_rank=8 if size == "small" else 256,
        markov_kind="vanilla",
        confidence="hidden+token",
    )
    return target, random_drafter(spec, target)


def reached(device: str, small: bool) -> dict[str, float]:
    """What this device reaches by itself: bytes/s of a large copy, FLOP/s of a large bfloat16 product."""
    import torch

    size, side = (1 << 22, 256) if small else (1 << 30, 8192)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    into, a = torch.empty_like(source), torch.randn(side, side, device=device, dtype=torch.bfloat16)
    copy_s = fastest(lambda: into.copy_(source), device)
    product_s = fastest(lambda: a @ a, device)
    return {"bytes_per_s": 2 * size / copy_s, "flop_per_s": 2 * side**3 / product_s}


def fastest(run: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Shortest of some repeats, seconds."""
    import torch

    best = float("inf")
    for _ in range(repeats + 2):
        if device != "cpu":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best


def times(size: str) -> Callable[[str, bool], dict[str, Any]]:
    """Round times by batch and verified length at true dimensions, beside what bandwidth and arithmetic alone would take."""

    def step(device: str, small: bool) -> dict[str, Any]:
        import torch

        from real_runner.layout import Tiers
        from real_runner.serve import machine

        name = "small" if small else size
        target, drafter = pair(name, device)
        context, rounds, batches = (24, 4, (1, 2)) if small else (512, 16, (1, 2, 4, 8, 16, 32, 64))
        tiers = Tiers() if device != "cpu" else Tiers(tokens=(1, 2, 4, 8, 16), reach=(64,))
        limits, rows, parts = reached(device, small), [], []
        for batch in batches:
            rows += [_round(target, drafter, batch, verified, context, rounds, tiers, limits) for verified in (0, 1, 3, 7)]
            parts.append(_draft_parts(target, drafter, batch, context, tiers, device))
        peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
        return {
            "ok": all(row["n"] > 0 for row in rows),
            "dimensions": name,
            "context_tokens_each": context,
            "reached": limits,
            "machine": machine(target),
            "peak_bytes": peak,
            "rounds": rows,
            "draft_parts": parts,
        }

    return step


def _round(target: Any, drafter: Any, batch: int, verified: int, context: int, rounds: int, tiers: Any, machine: dict[str, float]) -> dict[str, Any]:
    """Medians over full rounds of `batch` requests, and the bounds."""
    import statistics

    from real_runner.engine import Engine
    from real_runner.prompts import random_prompts
    from real_runner.records import ServedRequest
    from simulator.policies.verification import FixedLength, NoSpeculation

    policy = FixedLength(length=verified) if verified else NoSpeculation()
    admissions = 1 + batch * context // 8192
    tokens = (rounds + admissions + 6) * (1 if not verified else 2)
    length = context + tokens + 32
    engine = Engine(target, drafter, policy, slots=batch, length=length, tiers=tiers, stop_at_eos=False)
    engine.run([ServedRequest(i, ids, tokens) for i, ids in enumerate(random_prompts(target, [context] * batch, 0))])
    kept = [s for s in engine.steps if len(s.rounds) == batch and not s.captured_graphs and not s.prefill_tokens][1 : rounds + 1]
    median = {part: statistics.median(getattr(s, part) for s in kept) if kept else None for part in ("verify_s", "draft_s", "overhead_s")}
    bound = _bounds(target, drafter, batch, verified, context, machine)
    return {
        "requests": batch,
        "verified": verified,
        "tokens": batch * (verified + 1),
        "n": len(kept),
        **median,
        "round_s": statistics.median(s.end_s - s.start_s for s in kept) if kept else None,
        "accepted_length": statistics.mean(p.accepted + 1 for s in kept for p in s.rounds) if kept else None,
        **bound,
    }


def _bounds(target: Any, drafter: Any, batch: int, verified: int, context: int, machine: dict[str, float]) -> dict[str, float]:
    """Seconds that reading weights and caches once, and the products, take at what the device reaches."""

    def weights(module: Any, without: Any) -> int:
        return sum(p.numel() for p in module.parameters() if p is not without)

    tokens, head = batch * (verified + 1), target.head.weight.numel()
    streamed = weights(target.model, target.embedding.weight) + (head if target.head.weight is target.embedding.weight else 0)
    verify_bytes = 2 * streamed + batch * context * target.kv.bytes_per_token
    own = weights(drafter, target.embedding.weight) - (0 if target.head.weight is target.embedding.weight else head)
    first = drafter.markov_head.markov_w1.weight.numel()  # gathered, not streamed
    second = drafter.markov_head.markov_w2.weight.numel()
    draft = own - first + head
    draft_bytes = 2 * (draft + 6 * second) + batch * context * (drafter.kv.bytes_per_token if drafter.kv else 0)
    bounds = {
        "verify_bandwidth_s": verify_bytes / machine["bytes_per_s"],
        "verify_arithmetic_s": 2 * streamed * tokens / machine["flop_per_s"],
    }
    if verified:
        bounds |= {"draft_bandwidth_s": draft_bytes / machine["bytes_per_s"], "draft_arithmetic_s": 2 * draft * 7 * batch / machine["flop_per_s"]}
    return bounds


def _draft_parts(target: Any, drafter: Any, batch: int, context: int, tiers: Any, device: str) -> dict[str, float]:
    """Backbone and sequential head apart, each from its own graph."""
    import numpy as np
    import torch

    from real_runner.drafters.drafter import DraftBatch
    from real_runner.graphs import Captured, Eager
    from real_runner.layout import ship

    runner = Captured() if device != "cpu" else Eager()
    drafter.allocate(batch, context + 64)
    slots = np.arange(batch)
    padded = tiers.pad(batch)
    layout = drafter.lay_out(slots, context, cache=(batch, context + 64), tiers=tiers, requests=padded)
    ints, where = ship(layout.ints, target.device), ship(np.append(slots, np.full(padded - batch, batch)), target.device)
    start = torch.full((batch + 1,), context, device=target.device)
    start[-1] = 0
    anchor = torch.zeros_like(start)
    drafting = DraftBatch(ints, layout, where, start, anchor)
    hidden = drafter.begin(drafting)
    luck = torch.zeros(len(where), drafter.gamma, device=target.device)

    def backbone(ints: torch.Tensor) -> tuple[Any, ...]:
        return (drafter.begin(replace(drafting, ints=ints)),)

    def head(hidden: torch.Tensor) -> tuple[Any, ...]:
        made = drafter.sample(hidden, drafting, 0.0, luck)
        return made.tokens, made.confidence

    return {
        "requests": batch,
        "backbone_s": fastest(lambda: runner.run("backbone", backbone, ints), device),
        "sequential_head_s": fastest(lambda: runner.run("head", head, hidden), device),
    }


def profiles(size: str) -> Callable[[str, bool], dict[str, Any]]:
    """A profile for `profiles/`: the small real pair, or costs at true dimensions with published acceptance."""

    def step(device: str, small: bool) -> dict[str, Any]:
        import gpu_profiles

        name = "smollm2-135m" if size == "small" else f"qwen3-{size}"
        folder = gpu_profiles.place_of(name, device, folder_of(device))
        if size == "small":
            return gpu_profiles.real_pair(models(), folder, device, small)
        return gpu_profiles.cost_only(size, pair("small" if small else size, device), folder, device, small)

    return step


def train_small(device: str, small: bool) -> dict[str, Any]:
    """Drafters for the small real model, with more steps than a CPU can; DSIM_PROMPTS=math=FILE names the questions. Goes on when called again."""
    import gpu_profiles

    return gpu_profiles.trained(models(), os.environ.get("DSIM_PROMPTS"), folder_of(device), device, small)


def engine_small(device: str, small: bool) -> dict[str, Any]:
    """The simulator held against the engine on the small pair, under the profile that profile_small measured."""
    import gpu_profiles

    return gpu_profiles.engine_compared(models(), gpu_profiles.place_of("smollm2-135m", device, folder_of(device)), folder_of(device), device, small)


def models() -> Path:
    """Where profiles/make_smollm2.py put the small real model."""
    return Path(os.environ.get("DSIM_SMOLLM2", ROOT / "models" / "smollm2"))


STEPS: dict[str, Callable[[str, bool], dict[str, Any]]] = {
    "tests": tests,
    "parity": parity,
    "graphs": graphs,
    "times_4b": times("4b"),
    "times_8b": times("8b"),
    "profile_4b": profiles("4b"),
    "profile_8b": profiles("8b"),
    "train_small": train_small,
    "profile_small": profiles("small"),
    "engine_small": engine_small,
}


def folder_of(device: str) -> Path:
    """Where a device's results go, by its name."""
    if device == "cpu":
        return RESULTS / "cpu-rehearsal"
    import torch

    return RESULTS / re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def run_here(name: str, device: str, small: bool) -> int:
    """One step in this process."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if device == "cpu":
        torch.set_num_threads(1)
    begun = time.perf_counter()
    result = STEPS[name](device, small)
    result = {"step": name, "device": device, "small": small, "wall_s": time.perf_counter() - begun, **result}
    folder = folder_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{name}.json"
    half.write_text(json.dumps(result, indent=2) + "\n")
    half.rename(folder / f"{name}.json")
    return 0 if result["ok"] else 1


def spawned(name: str, device: str, small: bool) -> int:
    """The exit code of one step in a process of its own. Raises subprocess.TimeoutExpired."""
    command = [sys.executable, __file__, "--device", device, "--step", name, "--here", *(["--small"] if small else [])]
    return subprocess.run(command, timeout=LIMIT_S, check=False).returncode


def forked(name: str, device: str, small: bool) -> int:
    """The same as a copy of this process, which imports what takes seconds once for all steps. A CUDA device allows no copies."""
    for module in ("real_runner.drafters.loading", "real_runner.engine", "transformers.models.qwen3.modeling_qwen3"):
        importlib.import_module(module)

    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(run_here(name, device, small)))
    child.start()
    child.join(LIMIT_S)
    if child.is_alive():
        child.kill()
        raise subprocess.TimeoutExpired(name, LIMIT_S)
    return child.exitcode or 0


def outcome_of(code: int, file: Path) -> str:
    """One word or two about a step that ended with this code and wrote this file."""
    if code == 0:
        return "skipped" if "skipped" in json.loads(file.read_text()) else "ok"
    return "does NOT hold" if code == 1 else f"failed with {code}"


def main() -> int:
    """Run the named steps, each in its own process. Exit code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny dimensions")
    parser.add_argument("--step", choices=STEPS, action="append", help="only these")
    parser.add_argument("--here", action="store_true", help="in this process: for one step")
    options = parser.parse_args()
    import torch

    if ":" in options.device and torch.cuda.is_available():  # graphs, streams and events are made on the current device
        torch.cuda.set_device(torch.device(options.device))
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device is visible: nothing to run here; rehearse with --device cpu --small", file=sys.stderr)
        return 2
    if options.here:
        return run_here(options.step[0], options.device, options.small)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    sys.path.insert(0, str(ROOT))
    worst = 0
    for name in options.step or STEPS:
        begun, folder = time.perf_counter(), folder_of(options.device)
        (folder / f"{name}.json").unlink(missing_ok=True)  # what an earlier run left must not stand for this one
        try:
            code = (forked if options.device == "cpu" else spawned)(name, options.device, options.small)
            outcome = outcome_of(code, folder / f"{name}.json")
        except subprocess.TimeoutExpired:
            code, outcome = 1, f"stopped after {LIMIT_S} s"
        worst = max(worst, min(abs(code), 1))
        print(f"{name:<15}{outcome:<24}{time.perf_counter() - begun:7.1f} s   {(folder / f'{name}.json').relative_to(ROOT)}", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
