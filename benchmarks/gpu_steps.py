"""Steps of the GPU battery that say whether real_runner is right there, and what stands behind the others. Run by gpu.py.

A step takes a Job and returns what goes into its JSON, with `ok`: true, false, or none where it was `skipped`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")


@dataclass(frozen=True)
class Job:
    """What a step runs on, and where its results go."""

    step: str
    device: str
    small: bool
    results: Path

    def keep(self, result: dict[str, Any]) -> None:
        """Writes the step's JSON, whole: also what there is of it so far (`ok` none), so that whoever is stopped loses little."""
        self.results.mkdir(parents=True, exist_ok=True)
        half = self.results / f".{self.step}.json"
        half.write_text(json.dumps({"step": self.step, "device": self.device, "small": self.small, **result}, indent=2) + "\n")
        half.rename(self.results / f"{self.step}.json")


def checks(job: Job) -> dict[str, Any]:
    """What only a GPU can answer: gpu_checks.py. A wrong answer is for whoever reads the numbers; the other steps go on."""
    import torch

    from benchmarks.gpu_checks import Lab, ask

    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        job.keep({"ok": None, "lines": lines})

    answers = ask(Lab(job.device, job.small), say)
    ok = all(answer["verdict"] != "wrong" for answer in answers.values())
    return {"ok": ok, "lines": lines, "torch": torch.__version__, "checks": answers}


def tests(job: Job) -> dict[str, Any]:
    """The tests marked `cuda`, every one of them. On a CPU all are skipped: the rehearsal shows that they can be collected."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "tests/real_runner/test_cuda.py", "-rfEs", f"--junitxml={folder}/tests.xml"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        counts = junit_counts(Path(folder) / "tests.xml")
    expected_skips = counts["tests"] if job.device == "cpu" else 0
    ok = run.returncode == 0 and counts["tests"] > 0 and counts["skipped"] == expected_skips
    skipped = {"ok": None, "skipped": "needs a CUDA device"} if ok and job.device == "cpu" else {}
    return {"ok": ok, **skipped, "counts": counts, "output": run.stdout.strip().splitlines()[-25:]}


def junit_counts(file: Path) -> dict[str, int]:
    """How many tests there were, and how many of them were skipped; none where pytest wrote no file."""
    suite = ElementTree.parse(file).getroot().find("testsuite") if file.exists() else None
    return {name: 0 if suite is None else int(suite.attrib[name]) for name in ("tests", "skipped")}


def parity(job: Job) -> dict[str, Any]:
    """Golden checkpoints in float32 and bfloat16: worst differences. Float32 must hold; bfloat16 is reported."""
    import torch

    from real_runner.drafters.loading import load_drafter
    from real_runner.expect import compare
    from real_runner.target import load_target

    torch.backends.cuda.matmul.allow_tf32 = False
    results: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        target = load_target(str(GOLDEN / "target"), job.device, dtype)
        for name in TRAINED[:2] if job.small else TRAINED:
            differences = compare(GOLDEN / name, target, load_drafter(str(GOLDEN / name), target))
            results[f"{name} {dtype}"] = {d.what: {"holds": d.holds, "worst": d.worst} for d in differences}
    held = all(d["holds"] for title, each in results.items() if title.endswith("float32") for d in each.values())
    return {"ok": held, "differences": results}


def graphs(job: Job) -> dict[str, Any]:
    """Eager against captured: the same texts, and how much of a round was Python. On a CPU tiers are padded to, nothing is captured."""
    import statistics

    from real_runner.drafters.loading import load_drafter
    from real_runner.engine import Engine
    from real_runner.layout import Tiers
    from real_runner.records import ServedRequest
    from real_runner.target import load_target
    from simulator.policies.verification import FixedLength

    target = load_target(str(GOLDEN / "target"), job.device)
    results: dict[str, Any] = {}
    for name in TRAINED[:1] if job.small else TRAINED:
        drafter = load_drafter(str(GOLDEN / name), target)
        prompts = [one["prompt"] for one in json.loads((GOLDEN / name / "greedy_decode.json").read_text())]
        texts, round_s = {}, {}
        for way, tiers in (("eager", None), ("captured", Tiers(reach=(256,)))):
            device = None
            for _ in range(2):  # the first run warms up and captures
                policy = FixedLength(length=drafter.gamma)
                engine = Engine(target, drafter, policy, slots=6, length=256, tiers=tiers, stop_at_eos=False, device=device)
                done, device = engine.run([ServedRequest(i, prompt, 96) for i, prompt in enumerate(prompts)]), engine.device
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
    captured = job.device == "cpu" or all(each["graphs"] > 0 for each in results.values())
    return {"ok": captured and all(each["same_texts"] for each in results.values()), "drafters": results}


def models() -> Path:
    """Where profiles/make_smollm2.py put the small real model."""
    return Path(os.environ.get("DSIM_SMOLLM2", ROOT / "models" / "smollm2"))
