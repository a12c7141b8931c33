"""A plan's result made up for tests: as many choices, promises and changes as wanted, numbers that nobody computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.study.planning.result import PlanResult
from tests.report.synthetic_result import around


def plan(labels: Sequence[str], promises: Sequence[float]) -> PlanResult:
    """As result.json holds it; the first choice is the plan."""
    return PlanResult.from_json(
        {
            "dsim_version": "0.1.0",
            "kind": "plan",
            "plan": {"name": "synthetic", "question": "How many?", "file": "plan.yaml", "seed": 1, "content": {"name": "synthetic"}},
            "sla": {"speed": {"tps": promises[0], "share": 0.9}},
            "price": {"gpu_hour": 2.5},
            "load": {"mean_rps": 40, "peak_rps": 60, "mean_prompt_tokens": 500, "mean_output_tokens": 200, "told": "Poisson"},
            "profiles": [{"name": "made up", "hardware": "a GPU", "engine": "none", "target": "100B", "gpus_per_replica": 1, "gpu_hour": 2.5}],
            "cells": [_choice(number, label) for number, label in enumerate(labels)],
            "best": 0,
            "promises": list(promises),
            "by_promise": [{"tps": tps, "best": 0, "cells": [_need(cell, tps) for cell in range(len(labels))]} for tps in promises],
            "day": _day(),
            "what_if": [_change(number) for number in range(12)],
            "gains": [],
            "break_even": [_break_even(label) for label in labels[:2]],
            "conditions": [],
            "trials": 12,
            "answer": [f"{labels[0]} on 6 replicas meets it."],
        }
    )


def _choice(number: int, label: str) -> dict[str, Any]:
    needed = 6 + number
    names = {"profile": "made up", "policy": label, "setting": "", "verification": {"kind": "none"}, "bound": number == 3}
    costs = {"cost_per_hour": 2.5 * needed, "cost_per_mtok": 0.4 * needed, "carried_rps": 70.0, "headroom": 0.1, "fewer": None, "loss": None}
    fleets = [_fleet(needed + more, number) for more in range(-2, 3)]
    counts = {"replicas_needed": needed, "replicas": needed, "gpus": needed, "alone_tps": 200.0, "fluid_bound": 4.0}
    return {"cell": number, "label": label, **names, "outcome": "planned", **counts, **costs, "points": fleets}


def _fleet(replicas: int, number: int) -> dict[str, Any]:
    speed = 60 + 4 * replicas - number
    metrics = {"speed": around(speed), "ttft": around(0.3), "throughput_tok_s_gpu": around(12000 / replicas)}
    metrics |= {"accepted_length": around(2.0), "verification_budget": around(2.0), "concurrency_mean": around(8.0)}
    head = {"replicas": replicas, "gpus": replicas, "rps_per_replica": 60 / replicas, "cost_per_mtok": 0.4 * replicas, "n": 4}
    return {**head, "kept": "kept", "verdict": "backlogged" if replicas < 6 else "stable", "sure_speed": speed - 2, "metrics": metrics}


def _need(cell: int, tps: float) -> dict[str, Any]:
    replicas = 4 + cell + round(tps / 20)
    return {
        "cell": cell, "replicas": replicas, "gpus": replicas, "cost_per_mtok": 0.4 * replicas, "throughput": 9000 / replicas, "speed": tps,
        "exact": bool(cell % 2),
    }  # fmt: skip


def _change(number: int) -> dict[str, Any]:
    moved = around((number - 6) / 40 or 0.01, 0.2)
    label = f"conditional acceptance of every position {5 * number} % lower than measured"
    head = {"name": f"change-{number}", "label": label, "pair": "", "replicas": 6 + number, "gpus": 6 + number, "keeps_unchanged": True}
    return {**head, "speed": around(80), "speed_change": moved, "ttft": around(0.3), "overloads": False}


def _day() -> dict[str, Any]:
    needed = [3, 5, 8, 6, 4, 3]
    three = {"fixed": 48.0, "forecast": 36.0, "reactive": 32.0}
    return {
        "cell": 0, "span_s": 86400, "slot_s": 14400, "rate_rps": [10, 20, 60, 40, 20, 10], "needed": needed, "paid": [4, 8, 8, 8, 6, 4],
        "reactive": needed, "fixed": 8, "start_up_s": 120, "carries_rps": {"8": 60.0}, "replica_hours": three, "cost_per_mtok": three,
        "reactive_short_share": 0.02,
    }  # fmt: skip


def _break_even(drafter: str) -> dict[str, Any]:
    batch = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    curves = [{"acceptance": a, "best_length": [3] * 9, "gain": [a * (1 - i / 8) for i in range(9)], "stops_at": 256} for a in (0.5, 0.75, 1.0, 1.25)]
    return {"profile": "made up", "drafter": drafter, "batch": batch, "tps_without": [100.0] * 9, "curves": curves}
