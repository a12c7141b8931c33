"""Scenarios and profiles that are legal and may be absurd: every number anywhere in its bounds, for a look at whether any of them breaks a run."""

from __future__ import annotations

import types
from math import exp, log
from random import Random
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from simulator.engine.given import Failures
from simulator.measurements.cost import DraftCost, FittedCurve, LinearPrefill, Overhead
from simulator.measurements.profile import KvMemory
from simulator.policies.verification import Verification
from simulator.quantities import Gpus, MeanTokens, Spread, Tokens, Weight, Within
from simulator.study.run.settings import EngineSettings, RunPlan
from simulator.traffic.arrivals import Arrivals
from simulator.traffic.goodput import Goodput
from tests.conftest import PROFILE, SCENARIO

Content = dict[str, Any]
_FILES = {"empirical", "table"}  # kinds that read one


def number(luck: Random, within: Within, whole: bool) -> float:
    """Mostly usual, else at an end or anywhere between."""
    least, most = within.least, within.most
    low, high = max(least, 1e-9), max(most, 1e-9)
    usual = exp(luck.uniform(log(max(low, min(1e-3, high))), log(max(low, min(high, 200)))))
    value = luck.choices([usual, least, most, exp(luck.uniform(log(low), log(high)))], [12, 1, 1, 2])[0]
    return min(max(round(value) if whole else value, least), most)


def value(luck: Random, annotation: Any) -> Any:  # noqa: PLR0911
    """Something that an annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        within = next((one for one in inner[1:] if isinstance(one, Within)), None)
        return number(luck, within, inner[0] is int) if within else value(luck, inner[0])
    if origin in (Union, types.UnionType):
        kinds = [one for one in inner if not (isinstance(one, type) and getattr(one, "model_fields", {}).get("kind", _NONE).default in _FILES)]
        return value(luck, luck.choice(kinds))
    if origin is Literal:
        return luck.choice(inner)
    if origin is list or (origin is tuple and inner[-1] is ...):
        return [value(luck, inner[0]) for _ in range(luck.randint(1, 3))]
    if origin is tuple:
        return [value(luck, one) for one in inner]
    if annotation is bool:
        return luck.random() < 0.5
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return model(luck, annotation)
    return None


_NONE = FieldInfo(default=None)


def model(luck: Random, kind: type[BaseModel]) -> Content:
    """The content of a model, optional keys left out more often than not."""
    content: Content = {}
    for name, field in kind.model_fields.items():
        if name == "kind":
            content[name] = field.default
        elif field.is_required() or luck.random() < 0.4:
            one = value(luck, Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
            if one is not None:
                content[name] = one
    return content


def lengths(luck: Random, deep: bool = True) -> Content:
    """Lengths whose statistics agree."""
    kind = luck.choice(["fixed", "lognormal", "mixture"] if deep else ["fixed", "lognormal"])
    if kind == "mixture":
        return {"kind": kind, "parts": [{"weight": value(luck, Weight), "lengths": lengths(luck, deep=False)} for _ in range(luck.randint(1, 3))]}
    if kind == "fixed":
        return {"kind": kind, "tokens": value(luck, Tokens)}
    low, high = sorted(value(luck, Tokens) for _ in range(2))
    return {"kind": kind, "mean_tokens": value(luck, MeanTokens), "cv": value(luck, Spread), "min_tokens": low, "max_tokens": high}


def arrivals(luck: Random) -> Content:
    """Arrivals whose curve, if they have one, rises in time."""
    content: Content = value(luck, Arrivals)
    if content["kind"] == "benchmark":
        content = {"kind": "benchmark", "client": content["client"], "num_prompts": luck.randint(1, 300), "burstiness": 1.0}
        content |= {"load_flag": luck.choice(["max_concurrency", "request_rate"]), "num_warmups": luck.randint(0, 9)}
    if "points" in content:
        times = sorted({at for at, _ in content["points"]})
        content["points"] = [[at, rate] for at, (_, rate) in zip(times, content["points"], strict=False)]
        content["points"][0][1] = content["points"][0][1] or 1.0
        if "period_s" in content:
            content["period_s"] = max(content["period_s"], times[-1] * 1.5)
    return content


def policy(luck: Random) -> Content:
    """A rule that the drafter with a head can follow."""
    rule: Content = value(luck, Verification)
    if rule["kind"] == "fixed":
        rule["length"] = luck.randint(0, 3)
    if rule["kind"] == "by_batch":
        rule["table"] = [[1, 2, luck.randint(0, 3)], [3, luck.randint(3, 10**9), luck.randint(0, 3)]]
    return {"name": "p", "verification": rule} | ({} if rule["kind"] == "none" else {"drafter": "head"})


def scenario(luck: Random) -> Content:
    """A scenario of the tiny profile with little work, if its numbers are taken as usual."""
    came, engine = {"kind": "closed_loop"} if luck.random() < 0.3 else arrivals(luck), model(luck, EngineSettings)
    engine.pop("scheduler_profile", None)
    if "graph_sizes" in engine:
        engine["graph_sizes"] = sorted(set(engine["graph_sizes"]))
    run = model(luck, RunPlan) | {"replications": 1, "requests": luck.randint(1, 40)}
    if came["kind"] != "closed_loop":
        run |= {"duration_s": luck.choice([0.5, 5.0, 300.0])}
    content = SCENARIO | {
        "workload": {"arrivals": came, "prompt_tokens": lengths(luck), "output_tokens": lengths(luck)},
        "engine": engine,
        "run": run,
        "load": [luck.choice([1, 2, 7, 30])],
        "policies": [policy(luck), SCENARIO["policies"][0]],
        "sla": {"goodput": model(luck, Goodput) | {"tpot_s": 0.05}} if luck.random() < 0.3 else {},
    }
    if luck.random() < 0.3:
        failures = {"failures": model(luck, Failures)} if luck.random() < 0.5 and came["kind"] not in ("closed_loop", "benchmark") else {}
        content["fleet"] = {"replicas": luck.choice([1, 2, 5, 40]), **failures}
    return content


def profile(luck: Random) -> Content:
    """A profile with other numbers."""
    sourced = {"provenance": "synthetic"}
    verify = model(luck, FittedCurve)
    verify["base_s"] = luck.choice([1e-6, 0.01, 5.0])
    verify["per_token_s"] = luck.choice([1e-4, 0.0, 1e-9, 4.0])
    verify["measured_tokens"] = sorted(verify["measured_tokens"])
    draft = value(luck, DraftCost)
    costs = {"verify": verify | sourced, "prefill": model(luck, LinearPrefill) | sourced, "overhead": model(luck, Overhead) | sourced}
    if luck.random() < 0.5:
        costs["contexts"] = "longest"
    drafters = {name: drafter | {"draft": draft | sourced} for name, drafter in PROFILE["drafters"].items()}
    content = PROFILE | {"costs": costs, "drafters": drafters, "gpus_per_replica": value(luck, Gpus)}
    memory = model(luck, KvMemory) | sourced
    memory["memory_bytes"] = min(memory["bytes_per_token"] * luck.choice([300, 1e5, 1e10]), 1e16)
    return content | ({"kv": memory} if luck.random() < 0.5 else {})
