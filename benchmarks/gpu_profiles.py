"""The profiles that `make gpu` measures: the small real pair, and costs at the true dimensions of Qwen3-4B and Qwen3-8B; the engine and training on
the small pair. Steps of gpu.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import ROOT, Job, models
from benchmarks.gpu_times import pair

PUBLISHED = ROOT / "profiles" / "deepseek-v4-flash" / "published"
PAPER = "DSpark paper (DeepSeek-AI and Peking University, 2026, arXiv 2607.05147)"
DOMAINS = ("math", "code", "chat")
# Table 1: accepted length of DSpark-7 at temperature 1, bonus included, mean of the three benchmarks of each domain
ACCEPTED_LENGTH = {"4b": {"math": 5.567, "code": 5.123, "chat": 3.49}, "8b": {"math": 5.653, "code": 5.283, "chat": 3.503}}
BUDGET_S = {"small": 150.0, "8b": 300.0, "4b": 300.0}  # of a step's ten minutes
SMALL = "smollm2-135m"
COMPARED = ("eagle3", "dspark")  # in the engine


def place_of(name: str, job: Job) -> Path:
    """profiles/<device>-<name>; what is rehearsed stays with its results."""
    return job.results / f"profile-{name}" if job.small else ROOT / "profiles" / f"{job.results.name}-{name}"


def tiers_of(job: Job) -> Any:
    """Those of an engine; few and small ones for a rehearsal, so that it pads as well."""
    from real_runner.layout import Tiers

    return Tiers(tokens=(1, 2, 4, 8, 16), reach=(64, 128)) if job.device == "cpu" else Tiers()


def published_acceptance(size: str) -> Any:
    """DSpark-7's blocks from the published marginals: the conditional acceptance of Figure 2 (Qwen3-4B), each domain moved by so many logits
    that its accepted length is Table 1's; spread, correlation and calibration as the parametric generator assumes."""
    import numpy as np
    import pandas as pd
    from scipy.optimize import brentq

    from simulator.measurements.acceptance import ParametricAcceptance

    rows = pd.read_csv(PUBLISHED / "fig2_conditional_acceptance.csv", comment="#")
    rows = rows[rows["drafter"] == "DSpark"].sort_values("position")
    by_domain = {}
    for domain in DOMAINS:
        published = rows[rows["domain"] == domain]["conditional_acceptance"].to_numpy()
        logit = np.log(published / (1 - published))

        def apart(shift: float, logit: Any = logit, domain: str = domain) -> float:
            return float(1 + np.cumprod(1 / (1 + np.exp(-logit - shift))).sum() - ACCEPTED_LENGTH[size][domain])

        by_domain[domain] = (1 / (1 + np.exp(-logit - brentq(apart, -3, 3)))).tolist()
    return ParametricAcceptance(conditional=by_domain).generate(
        "dspark", "published", f"{PAPER}, Table 1 (level) and Figure 2 (positions, Qwen3-4B); correlation and confidences parametric"
    )


def cost_only(size: str) -> Callable[[Job], dict[str, Any]]:
    """Costs of random weights (they take the time that real ones do), acceptance from the published table."""

    def step(job: Job) -> dict[str, Any]:
        return _cost_only(size, job)

    return step


def _cost_only(size: str, job: Job) -> dict[str, Any]:
    from real_runner.cost_tables import measure_cost_tables
    from real_runner.profile import assemble
    from simulator.progress import Progress

    folder, small, tiers = place_of(f"qwen3-{size}", job), job.small, tiers_of(job)
    if job.small:
        shutil.rmtree(folder, ignore_errors=True)
    elif (folder / "profile.yaml").exists():
        return {"ok": True, "there": f"{folder.name} is measured already; remove it to measure again"}
    target, drafter = pair("small" if small else size, job.device)
    blocks = published_acceptance("4b" if small else size)
    tables = measure_cost_tables(
        target, {"dspark": drafter}, temperature=1.0, max_requests=2 if small else 256, max_context=64 if small else 4096,
        budget_s=8.0 if small else BUDGET_S[size], folder=folder / "work", tiers=tiers, progress=Progress(),
    )  # fmt: skip
    blocks.save(folder / "blocks-dspark.parquet")
    notes = ("costs: measured, random weights of the true dimensions", "acceptance: published, see the drafter's source")
    made = assemble(target, {"dspark": drafter}, {"dspark": blocks}, tables, folder, tiers, f"make gpu (profile_{size})", notes=notes)
    shutil.rmtree(folder / "work", ignore_errors=True)
    return {"ok": True, "profile": made.name, "suspicious": len(made.suspicious), "memory_for_kv": made.kv.memory_bytes if made.kv else None}


def real_pair(job: Job) -> dict[str, Any]:
    """Costs and acceptance of the small real model with its trained drafters; a rehearsal takes the byte-level pair of the tests."""
    from real_runner.profile import Acceptance, CostPlan, measure_profile
    from real_runner.prompts import own_prompt_sets, read_prompt_set
    from real_runner.target import load_target
    from simulator.progress import Progress

    folder, device, small = place_of(SMALL, job), job.device, job.small
    place = ROOT / "tests" / "pair" if small else models()
    if not (place / "target" / "config.json").exists():
        return {"ok": None, "skipped": f"no {place.name}/target: make it with profiles/make_smollm2.py, or name its folder in DSIM_SMOLLM2"}
    if (folder / "profile.yaml").exists() and not small:
        return {"ok": True, "there": f"{folder.name} is measured already; remove it to measure again"}
    if small:
        shutil.rmtree(folder, ignore_errors=True)
    drafts = {name: str(place / name) for name in ("mtp", "dflash", "eagle3", "dspark") if (place / name / "model.safetensors").exists()}
    files = {f.stem: f for f in sorted((place / "prompts").glob("*.jsonl"))} if small else own_prompt_sets()
    sets = [read_prompt_set(file, domain) for domain, file in files.items()]
    target = load_target(str(place / "target"), device, "float32" if small and device == "cpu" else "bfloat16")
    made = measure_profile(
        target, drafts, sets, folder, acceptance=Acceptance(prompts=4 if small else 40, max_tokens=32 if small else 512, at_once=64),
        costs=CostPlan(8.0, 2, 64) if small else CostPlan(BUDGET_S["small"], 256, 4096), tiers=tiers_of(job), progress=Progress(),
        command="make gpu (profile_small)",
    )  # fmt: skip
    return {"ok": True, "profile": made.name, "drafters": sorted(made.drafters), "suspicious": len(made.suspicious)}


def engine_compared(job: Job) -> dict[str, Any]:
    """`dsim validate --engine` on the small pair's profile: two drafters fixed, and scheduled where they have confidences. A rehearsal is too
    short to be within the limits: it shows that every run was served, measured and simulated. Finished runs are kept for the next call."""
    import yaml

    profile, results, device, small = place_of(SMALL, job), job.results, job.device, job.small
    if not (profile / "profile.yaml").exists():
        return {"ok": None, "skipped": "no profile of the small pair: run profile_small first"}
    place = ROOT / "tests" / "pair" if small else models()
    drafters = yaml.safe_load((profile / "profile.yaml").read_text())["drafters"]
    policies: list[dict[str, Any]] = [{"name": "no speculation", "verification": {"kind": "none"}}]
    for name, drafter in [(name, drafters[name]) for name in COMPARED if name in drafters]:
        policies.append({"name": f"{name} {drafter['gamma']}", "drafter": name, "verification": {"kind": "fixed", "length": drafter["gamma"]}})
        if drafter["confidence"]:
            policies.append({"name": f"{name} scheduled", "drafter": name, "verification": {"kind": "confidence_scheduled"}})
    question = {
        "name": "engine", "question": "Does the engine do what the simulator says?", "profile": str(profile), "policies": policies,
        "workload": {
            "arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 64}, "output_tokens": {"kind": "fixed", "tokens": 64},
            "domains": dict.fromkeys(("math",) if small else DOMAINS, 1),
        },
        "load": [1, 2] if small else [1, 16, 64], "run": {"requests": 8},
        "engine": {"max_batch": 2 if small else 64, "prefill": {"kind": "separate"}},
    }  # fmt: skip
    file, out = results / "engine.yaml", results / "engine"
    results.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(question, sort_keys=False))
    if small:
        shutil.rmtree(out, ignore_errors=True)
    words = ["turns=1", "least=2", "max_tokens=8"] if small else ["turns=2", "least=16", "max_tokens=256", "rate=40", "open_requests=200"]
    words += [f"device={device}", f"prompts=math={place / 'prompts' / 'math.jsonl'}"] if small else [f"device={device}"]
    command = [sys.executable, "-c", "from simulator.cli import main; main()", "validate", str(file), "--engine", str(place), "--out", str(out)]
    code = subprocess.run([*command, *(word for setting in words for word in ("--serving", setting))], check=False).returncode
    if code not in (0, 1):
        return {"ok": False, "exit code": code}
    check = json.loads((out / "engine_check.json").read_text())
    loads = len(question["load"]) + (0 if small else 1)  # the last one: arrivals in time
    whole = len(check["runs"]) == len(policies) * loads and all(
        run["requests"] > 0 and run[side]["throughput_tok_s"] > 0 for run in check["runs"] for side in ("measured", "simulated")
    )
    return {"ok": whole and (small or code == 0), "limits": check["rows"], "ranking": check["ranking"]}


def trained(job: Job) -> dict[str, Any]:
    """Drafters trained on the device into the models' folder, with more steps than a CPU can; DSIM_PROMPTS=math=FILE names the questions. Goes on
    when called again. A rehearsal trains two steps for the byte-level pair."""
    from real_runner.prompts import read_prompt_set
    from real_runner.target import load_target
    from real_runner.train import DraftPlan, TextPlan, make_texts, train_draft
    from real_runner.training.loop import Schedule
    from simulator.progress import Progress

    results, device, small, prompts = job.results, job.device, job.small, os.environ.get("DSIM_PROMPTS")
    if small:
        source, out, files = ROOT / "tests" / "pair" / "target", results / "trained", {"math": ROOT / "tests" / "pair" / "prompts" / "math.jsonl"}
        shutil.rmtree(out, ignore_errors=True)
    elif prompts is None or not (models() / "target" / "config.json").exists():
        return {"ok": None, "skipped": "needs the small model in DSIM_SMOLLM2 and training questions in DSIM_PROMPTS=DOMAIN=FILE"}
    else:
        source, out = models() / "target", models()
        domain, _, file = prompts.partition("=")
        files = {domain: Path(file)}
    target = load_target(str(source), device, "float32" if small else "bfloat16")
    sets = [read_prompt_set(file, domain) for domain, file in files.items()]
    texts = TextPlan(0.5, 16, 8, 2) if small else TextPlan(0.5, 256, 512)
    made = make_texts(target, sets, None, texts, 0, out / "work", Progress())
    plan = DraftPlan(("dspark",), 3, 1, 4) if small else DraftPlan(("dspark", "dflash", "eagle3", "mtp"), gamma=5, markov_rank=256)
    schedule = Schedule(steps=2, texts=2, anchors=8, held_out=2) if small else Schedule(steps=6000, texts=16, anchors=256)
    report = train_draft(target, out, made, plan, schedule, progress=Progress())
    return {"ok": True, "held_out": {name: one["held_out"] for name, one in report["drafters"].items()}}
