"""The profiles that `make gpu` measures: the small real pair, and costs at the true dimensions of Qwen3-4B and Qwen3-8B. Imported by gpu.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "profiles" / "deepseek-v4-flash" / "published"
PAPER = "DSpark paper (DeepSeek-AI and Peking University, 2026, arXiv 2607.05147)"
DOMAINS = ("math", "code", "chat")
# Table 1: accepted length of DSpark-7 at temperature 1, bonus included, mean of the three benchmarks of each domain
ACCEPTED_LENGTH = {"4b": {"math": 5.567, "code": 5.123, "chat": 3.49}, "8b": {"math": 5.653, "code": 5.283, "chat": 3.503}}
BUDGET_S = 360.0  # of a step's ten minutes


def place_of(name: str, device: str, results: Path) -> Path:
    """profiles/<device>-<name>; what a CPU rehearses stays with its results."""
    return results / f"profile-{name}" if device == "cpu" else ROOT / "profiles" / f"{results.name}-{name}"


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


def cost_only(size: str, pair: tuple[Any, Any], folder: Path, device: str, small: bool) -> dict[str, Any]:
    """Costs of random weights (they take the time that real ones do), acceptance from the published table."""
    from real_runner.cost_tables import measure_cost_tables
    from real_runner.layout import Tiers
    from real_runner.profile import assemble
    from simulator.progress import Progress

    target, drafter = pair
    tiers = Tiers() if device != "cpu" else None
    blocks = published_acceptance("4b" if small else size)
    tables = measure_cost_tables(
        target, {"dspark": drafter}, temperature=1.0, max_requests=2 if small else 256, max_context=64 if small else 4096,
        budget_s=8.0 if small else BUDGET_S, folder=folder / "work", tiers=tiers, progress=Progress(),
    )  # fmt: skip
    blocks.save(folder / "blocks-dspark.parquet")
    notes = ("costs: measured, random weights of the true dimensions", "acceptance: published, see the drafter's source")
    made = assemble(target, {"dspark": drafter}, {"dspark": blocks}, tables, folder, tiers, f"make gpu (profile_{size})", notes=notes)
    shutil.rmtree(folder / "work", ignore_errors=True)
    return {"ok": True, "profile": made.name, "suspicious": len(made.suspicious), "memory_for_kv": made.kv.memory_bytes if made.kv else None}


def real_pair(models: Path, folder: Path, device: str, small: bool) -> dict[str, Any]:
    """Costs and acceptance of the small real model with its trained drafters; a rehearsal takes the byte-level pair of the tests."""
    from real_runner.layout import Tiers
    from real_runner.profile import Acceptance, CostPlan, measure_profile
    from real_runner.prompts import own_prompt_sets, read_prompt_set
    from real_runner.target import load_target
    from simulator.progress import Progress

    if small:
        models = ROOT / "tests" / "pair"
    elif not (models / "target" / "config.json").exists():
        return {"ok": True, "skipped": f"no {models.name}/target: make it with profiles/make_smollm2.py, or name its folder in DSIM_SMOLLM2"}
    if (folder / "profile.yaml").exists() and device != "cpu":
        return {"ok": True, "there": f"{folder.name} is measured already; remove it to measure again"}
    if device == "cpu":
        shutil.rmtree(folder, ignore_errors=True)
    drafts = {name: str(models / name) for name in ("mtp", "dflash", "eagle3", "dspark") if (models / name / "model.safetensors").exists()}
    files = {f.stem: f for f in sorted((models / "prompts").glob("*.jsonl"))} if small else own_prompt_sets()
    sets = [read_prompt_set(file, domain) for domain, file in files.items()]
    target = load_target(str(models / "target"), device, "float32" if small and device == "cpu" else "bfloat16")
    made = measure_profile(
        target, drafts, sets, folder, acceptance=Acceptance(prompts=4 if small else 40, max_tokens=32 if small else 512, at_once=64),
        costs=CostPlan(8.0, 2, 64) if small else CostPlan(BUDGET_S, 256, 4096), tiers=Tiers() if device != "cpu" else None, progress=Progress(),
        command="make gpu (profile_small)",
    )  # fmt: skip
    return {"ok": True, "profile": made.name, "drafters": sorted(made.drafters), "suspicious": len(made.suspicious)}


def engine_compared(models: Path, profile: Path, results: Path, device: str, small: bool) -> dict[str, Any]:
    """`dsim validate --engine` on the small pair's profile: every drafter fixed, and scheduled where it has confidences. A rehearsal is too
    short to be within the limits: it shows that every run was served, measured and simulated."""
    import yaml

    if not (profile / "profile.yaml").exists():
        return {"ok": True, "skipped": "no profile of the small pair: run profile_small first"}
    models = ROOT / "tests" / "pair" if small else models
    drafters = yaml.safe_load((profile / "profile.yaml").read_text())["drafters"]
    policies: list[dict[str, Any]] = [{"name": "no speculation", "verification": {"kind": "none"}}]
    for name, drafter in drafters.items():
        policies.append({"name": f"{name} {drafter['gamma']}", "drafter": name, "verification": {"kind": "fixed", "length": drafter["gamma"]}})
        if drafter["confidence"]:
            policies.append({"name": f"{name} scheduled", "drafter": name, "verification": {"kind": "confidence_scheduled"}})
    question = {
        "name": "engine", "question": "Does the engine do what the simulator says?", "profile": str(profile), "policies": policies,
        "workload": {
            "arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 64}, "output_tokens": {"kind": "fixed", "tokens": 64},
            "domains": dict.fromkeys(("math",) if small else DOMAINS, 1),
        },
        "load": [1, 2] if small else [1, 8, 32, 64, 128], "run": {"requests": 8},
        "engine": {"max_batch": 2 if small else 128, "prefill": {"kind": "separate"}},
    }  # fmt: skip
    file, out = results / "engine.yaml", results / "engine"
    results.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(question, sort_keys=False))
    shutil.rmtree(out, ignore_errors=True)
    words = ["turns=1", "least=2", "max_tokens=8"] if small else ["turns=2", "least=16", "max_tokens=256", "rate=40", "open_requests=200"]
    words += [f"device={device}", f"prompts=math={models / 'prompts' / 'math.jsonl'}"] if small else [f"device={device}"]
    command = [sys.executable, "-c", "from simulator.cli import main; main()", "validate", str(file), "--engine", str(models), "--out", str(out)]
    code = subprocess.run([*command, *(word for setting in words for word in ("--serving", setting))], check=False).returncode
    if code not in (0, 1):
        return {"ok": False, "exit code": code}
    check = json.loads((out / "engine_check.json").read_text())
    loads = len(question["load"]) + (0 if small else 1)  # the last one: arrivals in time
    whole = len(check["runs"]) == len(policies) * loads and all(
        run["requests"] > 0 and run[side]["throughput_tok_s"] > 0 for run in check["runs"] for side in ("measured", "simulated")
    )
    return {"ok": whole and (small or code == 0), "limits": check["rows"], "ranking": check["ranking"]}


def trained(models: Path, prompts: str | None, results: Path, device: str, small: bool) -> dict[str, Any]:
    """Drafters trained on the device into the models' folder; a rehearsal trains two steps for the byte-level pair."""
    from real_runner.prompts import read_prompt_set
    from real_runner.target import load_target
    from real_runner.train import DraftPlan, TextPlan, make_texts, train_draft
    from real_runner.training.loop import Schedule
    from simulator.progress import Progress

    if small:
        source, out, files = ROOT / "tests" / "pair" / "target", results / "trained", {"math": ROOT / "tests" / "pair" / "prompts" / "math.jsonl"}
        shutil.rmtree(out, ignore_errors=True)
    elif prompts is None or not (models / "target" / "config.json").exists():
        return {"ok": True, "skipped": "needs the small model in DSIM_SMOLLM2 and training questions in DSIM_PROMPTS=DOMAIN=FILE"}
    else:
        source, out = models / "target", models
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
