"""A result made up for tests: curves in the shape of a paper's, numbers that nobody measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulator.study.run.metrics import SHARES, Number, Verdict
from simulator.study.run.result import PointRow, RunResult

PARTS = ("draft", "verify_accepted", "verify_rejected", "overhead", "prefill", "waiting")
LOADS = (5, 10, 20, 40, 60, 80, 100, 130, 160, 200, 260, 320, 380)


def step_s(tokens: float) -> float:
    return (12.06 + 0.02667 * tokens + 4.02 * (1 - math.exp(-tokens / 22.9))) / 1000


def around(mean: float, width: float = 0.01) -> dict[str, float]:
    half = abs(mean) * width
    return {"mean": mean, "low": mean - half, "high": mean + half}


def budget_and_length(policy: str, load: float) -> tuple[float, float]:
    """Verification budget and accepted length of a policy at a load."""
    falling = max(2.2, 3.6 - 0.9 * min(load, 200) / 200)
    scheduled = max(1.6, 5.18 - 0.0128 * load + 2.2e-5 * load**2)
    return {"MTP-1": (2.0, 1.85), "DSpark-5": (scheduled, falling), "fixed-5": (6.0, 3.6)}.get(policy, (0.8 * scheduled, falling + 0.25))


def point(policy: str, load: float, open_loop: bool = False) -> dict[str, Any]:
    budget, length = budget_and_length(policy, load)
    step = step_s(budget * load)
    speed = length / step
    waiting = (load / 300) ** 6 if open_loop else 0.0
    per_token = step / length
    shares = {"draft": 0.0 if policy == "MTP-1" else 0.06, "overhead": 0.1, "prefill": 0.03 if open_loop else 0.0, "waiting": 0.0}
    rest = 1 - sum(shares.values())
    shares |= {"verify_accepted": rest * length / budget, "verify_rejected": rest * (1 - length / budget)}
    shares["waiting"] = waiting
    metrics: dict[str, Any] = {
        "tps_per_user_mean": around(speed),
        **{f"tps_per_user_p{q}": around(speed * f) for q, f in ((10, 0.9), (50, 1.0), (90, 1.12))},
        "throughput_tok_s_gpu": around(speed * load, 0.012),
        "verification_budget": around(budget),
        "accepted_length": around(length, 0.004),
        **{f"ttft_p{q}_s": around(step * f + waiting * f) for q, f in ((50, 1.0), (90, 1.6), (99, 2.2))},
        **{f"tpot_p{q}_s": around(per_token * f) for q, f in ((50, 1.0), (90, 1.1), (99, 1.25))},
        **{f"itl_p{q}_s": around(step * f) for q, f in ((50, 1.0), (90, 1.05), (99, 1.1))},
        **{f"e2e_p{q}_s": around(per_token * f * 400 + waiting) for q, f in ((50, 1.0), (90, 2.1), (99, 4.0))},
        "goodput_rps_gpu": around(speed * load / 400),
        "goodput_share": around(0.9),
        "step_p50_s": around(step),
        "waste_fraction": around(1 - length / budget),
        "concurrency_mean": around(load),
        "waiting_mean": around(waiting * load),
        "preemptions": around(0.0),
        "unfinished": around(0.0),
        **{f"user_s_per_token_{part}": around(per_token * shares[part]) for part in PARTS},
    }
    verdict = "overloaded" if open_loop and load > 300 else "backlogged" if open_loop and load > 250 else "stable"
    curves = {name: [centre * (0.8 + 0.1 / (1.05 - share)) for share in SHARES] for name, centre in (("ttft", step + waiting), ("tpot", per_token))}
    return {"policy": policy, "drafter": "dspark", "load": load, "n": 5, "requests": 4000, "verdict": verdict, "metrics": metrics, "curves": curves}


def example(
    policies: Sequence[str] = ("MTP-1", "DSpark-5", "fixed-5", "oracle"), loads: Sequence[float] = LOADS, open_loop: bool = False
) -> dict[str, Any]:
    """A whole result, as result.json holds it."""
    listed = [
        {
            "name": n,
            "drafter": "mtp" if n == "MTP-1" else "dspark",
            "verification": {"kind": "fixed", "length": 1},
            "bound": n == "oracle",
            "peeks": n == "oracle",
        }
        for n in policies
    ]
    frontier = [point(name, load, open_loop) for name in policies for load in loads]
    return {
        "dsim_version": "0.1.0",
        "scenario": {
            "name": "synthetic-flash",
            "question": "Which policy should serve 80 tok/s per user on one replica (made-up numbers)?",
            "file": "scenarios/synthetic flash.yaml",
            "seed": 7,
            "replications": 5,
            "overrides": ["load.values=[5, 10]", "seed=7"],
            "content": {
                "name": "synthetic-flash",
                "profile": "profiles/synthetic",
                "load": {"kind": "concurrency", "values": list(loads)},
                "sla": None,
            },
        },
        "profile": profile(),
        "conditions": ["prefill on separate machines, unlimited; transfer 0 s", "outputs end by themselves; no length limit"],
        "policies": listed,
        "load_kind": "rate_rps" if open_loop else "concurrency",
        "load_unit": "requests per second and replica" if open_loop else "concurrent requests per replica",
        "speed_metric": "tps_per_user_mean",
        "frontier": frontier,
        "gains": gains(policies),
        "published": published(policies),
        "validation": validation(),
        "answer": [
            "Run DSpark-5: at 80 tok/s per user it delivers 16,036 tok/s/GPU, +51 % (49…53) over MTP-1.",
            "At MTP-1's throughput there, 10,612 tok/s/GPU, users see 128 tok/s instead of 80, +60 % (58…62).",
        ],
        "warnings": [
            {
                "severity": "warning",
                "text": "Loads above 260 lie outside the measured step costs (B up to 773).",
                "remedy": "Measure longer steps: dsim profile cost --max-tokens 2048.",
            },
            {
                "severity": "note",
                "text": "The draft cost is not identifiable from the published curves.",
                "remedy": "Give drafting.cost, or measure it.",
            },
        ],
    }


def row(policy: str, load: float, numbers: dict[str, Number], replication: int = 0, verdict: Verdict = "stable") -> PointRow:
    """A row of a sweep that has these numbers alone."""
    head = {"policy": policy, "drafter": "", "load_kind": "concurrency", "load": load, "replication": replication, "requests": 100}
    return PointRow(**head, verdict=verdict, numbers=numbers, path="compiled", why_plain="")


def result(*shape: Any, **more: Any) -> RunResult:
    """The same as the report takes it."""
    return RunResult.from_json(example(*shape, **more))


def profile() -> dict[str, Any]:
    return {
        "name": "synthetic-flash", "hardware": "1× imaginary GPU", "engine": "none: made up for tests", "target": "imaginary 100B-A10B",
        "gpus_per_replica": 1,
        "notes": ["Every number of this profile is invented."],
        "assumed": ["accepted length of MTP-1: 1.85 (1.80…1.90)"],
        "not_identifiable": ["draft cost (0…4 ms trades with conditional acceptance 0.832…0.923)"],
        "provenance": [
            {"table": "verify cost", "provenance": "fitted", "source": "Figure 7", "note": "0.23 % rms over B 9…773"},
            {"table": "acceptance", "provenance": "synthetic", "source": "tests/report/synthetic_result.py", "note": ""},
        ],
    }  # fmt: skip


def gains(policies: Sequence[str]) -> dict[str, Any]:
    at_sla: list[dict[str, Any]] = []
    matched: list[dict[str, Any]] = []
    for sla, base in ((80, 10611.6), (120, 1514.8)):
        for name in policies[1:]:
            up = {"DSpark-5": 0.51, "fixed-5": -0.04}.get(name, 0.62) + (0.0 if sla == 80 else 5.9)
            row = {"sla_tps": sla, "policy": name, "throughput": around(base * (1 + up)), "baseline_throughput": around(base)}
            at_sla.append({**row, "gain": {"mean": up, "low": up - 0.02, "high": up + 0.02}, "note": None})
            speed = {"DSpark-5": 0.60, "fixed-5": 0.42}.get(name, 0.71) + (0.0 if sla == 80 else 0.25)
            row = {
                "throughput": base,
                "because": f"MTP-1 at {sla} tok/s/user",
                "policy": name,
                "sla_tps": sla,
                "tps": around(sla * (1 + speed)),
                "baseline_tps": around(sla),
            }
            matched.append({**row, "gain": {"mean": speed, "low": speed - 0.02, "high": speed + 0.02}, "note": None})
        at_sla.append(
            {"sla_tps": sla, "policy": policies[0], "throughput": around(base), "baseline_throughput": around(base), "gain": None, "note": "baseline"}
        )
    at_sla.append(
        {"sla_tps": 400, "policy": policies[-1], "throughput": None, "baseline_throughput": None, "gain": None, "note": "no load is that fast"}
    )
    return {"baseline": policies[0], "at_sla": at_sla, "at_matched_throughput": matched}


def published(policies: Sequence[str]) -> list[dict[str, Any]]:
    loads = range(10, 380, 10)
    speeds = [(1.87 / step_s(2 * load), load) for load in loads]
    budget = [[r, 5.18435 - 0.0128366 * r + 2.16349e-5 * r * r] for r in range(20, 205, 5)]
    curves = (
        ("MTP-1", "Figure 7", "tps_per_user", "throughput_tok_s_gpu", [[s, s * r] for s, r in speeds]),
        ("MTP-1", "Figure 8", "concurrency", "throughput_tok_s_gpu", [[r, s * r] for s, r in speeds]),
        ("DSpark-5", "Figure 8", "concurrency", "verification_budget", budget),
    )
    return [
        {"label": f"{policy}, published ({source})", "policy": policy, "x": x, "y": y, "points": points, "source": source}
        for policy, source, x, y, points in curves
        if policy in policies
    ]


def validation() -> dict[str, Any]:
    curve = {"what": "per-user speed, rms over the curve", "simulated": None, "published": None, "difference": 0.029, "unit": "", "n": 18}
    point = {
        "what": "throughput at 80 tok/s/user",
        "simulated": 15860.0,
        "published": 16035.8,
        "difference": -0.011,
        "unit": "tok/s/GPU",
        "n": 5,
    }
    return {"rows": [{**curve, "policy": "DSpark-5", "limit": 0.05, "ok": True}, {**point, "policy": "DSpark-5", "limit": 0.01, "ok": False}]}
