"""A fitted surface as the parts of a profile: step costs, drafters, and what is not known of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from simulator.arrays import Floats
from simulator.errors import DsimError
from simulator.measurements.cost import Costs, LinearDraft, LinearPrefill
from simulator.measurements.surface_model import Model
from simulator.measurements.uncertainty import Uncertainty
from simulator.quantities import TINY
from simulator.schema import validate

STRAIGHT = 1e-3  # of a step: bends that change it by less are left out
LEAST_STRAY = 0.01  # of a drafter's time: where it strays by less at all its sizes, it is not said to
BEYOND = 4.0  # `growth` is told of steps of so many times the tokens that were measured
FEW_SLOTS = 3  # drafted tokens that `verified` is told of, where no point drafts
WIDE, WIDE_DRAFT = 0.3, 0.05  # sd of a factor's logarithm, and of drafting against a step, above which points did not tell
ELSEWHERE = "taken as in other systems, its spread is carried as uncertainty"


@dataclass(frozen=True)
class DrafterFit:
    """A drafter's cost and acceptance. `conditional` [γ]: over rounds that proposed, a share `proposing` of all; `counted` by the engine, else
    fitted to speeds."""

    gamma: int
    draft: LinearDraft
    conditional: list[float]
    proposing: float
    counted: bool


def costs_of(model: Model, z: Floats, source: str, note: str) -> Costs:
    """The step costs at these unknowns. Raises DsimError where a number is beyond what a profile can hold."""
    by_token, by_request = model.slopes(z)
    edges = np.concatenate(([0.0], model.knots))
    ends = model.base_s(z) + model.curve(by_token, edges) + model.curve(by_request, edges)
    token_s, token_bends = _hinges(edges, by_token, ends, "tokens")
    request_s, request_bends = _hinges(edges, by_request, ends, "requests")
    verify = {
        "provenance": "fitted", "source": source, "note": note, "kind": "curve",
        "base_s": rounded(model.base_s(z)), "per_token_s": token_s, "per_request_s": request_s,
        "per_token_cell_s": rounded(model.cell_s(z)) if model.shared else 0.0,
        "cliffs": [] if model.limit is None else [{"tokens": int(model.limit), "add_s": rounded(model.cliff_s(z))}],
        "bends": token_bends + request_bends, "measured_tokens": tuple(rounded(x) for x in model.measured),
    }  # fmt: skip
    prefill = None
    if model.prompts:
        base, token = model.prefill_parts(z)
        prefill = LinearPrefill(provenance="fitted", source=source, note="chunks beside decoding", base_s=rounded(base), per_token_s=rounded(token))
    overhead = {"provenance": "fitted", "source": source, "note": "within the step cost; operating points cannot tell it apart"}
    content = {"verify": verify, "prefill": prefill, "overhead": overhead}
    if model.scheduled:
        content["scheduling"] = {"provenance": "fitted", "source": source, "seconds": rounded(model.scheduling_s(z))}
    return validate(Costs, content, "the fitted costs", DsimError)


def drafter_of(model: Model, z: Floats, name: str, source: str) -> DrafterFit:
    """A drafter at these unknowns. Raises DsimError where a number is beyond what a profile can hold."""
    known = model.acceptance[name]
    base, request, slot, slot_request = (rounded(part) for part in model.draft_parts(z, name))
    prompt_s = rounded(model.prompt_s(z, name)) if model.prompts else 0.0
    at, parts = model.drafting_strays(z, name)
    strays = [{"requests": rounded(float(requests)), "part": rounded(float(part))} for requests, part in zip(at, parts, strict=True)]
    content = {
        "provenance": "fitted", "source": source, "base_s": base, "per_request_s": request, "per_slot_s": slot, "per_slot_request_s": slot_request,
        "strays": strays if np.abs(parts).max() > LEAST_STRAY else [],
        "per_prompt_token_s": prompt_s or None, "ahead": known.ahead or None, "every_step_s": rounded(model.every_step_s(z, name)),
    }  # fmt: skip
    draft = validate(LinearDraft, content, f"the fitted cost of {name}", DsimError)
    conditional = [float(min(max(c, 1e-6), 1 - 1e-6)) for c in model.conditional(z, name)]
    return DrafterFit(len(conditional), draft, conditional, known.proposing, known.counted)


def uncertainty_of(model: Model, z: Floats, cov: Floats, points: int) -> Uncertainty:
    """Standard deviations and correlation of what the fit does not know, in the units of `Uncertainty`."""
    known = _derived(model)
    jacobian = np.array([_gradient(value, z) for _, _, value, _ in known])
    spread = jacobian @ cov @ jacobian.T
    sd = np.sqrt(np.maximum(np.diag(spread), 1e-12))
    sd[0] = np.hypot(sd[0], model.strays(z) / 2)  # in the middle between measured sizes steps stray as much, at them not at all
    correlation = np.clip(spread / np.outer(sd, sd), -1, 1)
    np.fill_diagonal(correlation, 1.0)
    parameters = [
        {"parameter": what, "drafter": name, "sd": float(min(s, 10.0)), "note": note} for (what, name, _, note), s in zip(known, sd, strict=True)
    ]
    content = {"kind": "fitted", "points": points, "parameters": parameters, "correlation": correlation.round(4).tolist()}
    return validate(Uncertainty, content, "the fit's uncertainty", DsimError)


def untold(model: Model, uncertainty: Uncertainty) -> list[str]:
    """Sentences on what the points do not tell apart, and what was taken in its place."""
    sd = {(known.parameter, known.drafter): known.sd for known in uncertainty.parameters}
    said = []
    if sd["verified", None] > WIDE:
        said.append(f"cost per verified token as opposed to cost per request: {ELSEWHERE}")
    for name, known in model.acceptance.items():
        if sd["draft", name] > WIDE_DRAFT:
            said.append(f"draft cost of {name} as opposed to acceptance and the step: {ELSEWHERE}")
        if sd.get(("prefill", name), 0.0) > WIDE:
            said.append(f"what a prompt's token costs {name}: {ELSEWHERE}; give TTFT with and without it at one user")
        if not known.counted:
            said.append(f"acceptance of {name}: counted in none of the points, its level is what their speeds ask for")
    if sd.get(("prefill", None), 0.0) > WIDE:
        said.append(f"cost of a prompt's token as opposed to cost per request: {ELSEWHERE}; give TTFT")
    return said


def _derived(model: Model) -> list[tuple[str, str | None, Callable[[Floats], float], str]]:
    """Parameter, drafter, its value at unknowns, and why it is not known."""
    low, high = model.measured
    middle = np.array([np.sqrt(max(low, 1.0) * max(high, 1.0))])
    slots = max((len(known.logits) for known in model.acceptance.values()), default=FEW_SLOTS)
    least = max(high / (1 + slots), 1.0)

    def tokens_s(z: Floats, start: float, end: float) -> float:
        by_token, _ = model.slopes(z)
        start_s, end_s = model.curve(by_token, np.array([start, end]))
        return float(np.log(max(end_s - start_s, TINY)))

    def one_s(z: Floats) -> float:
        return float(model.verify_s(z, np.ones(1), np.ones(1))[0])

    def unknown(name: str, z: Floats) -> float:
        return model.value(z, name)

    def draft(name: str, z: Floats) -> float:
        base, request, slot, slot_request = model.draft_parts(z, name)
        return (base + request + len(model.acceptance[name].logits) * (slot + slot_request) + model.every_step_s(z, name)) / one_s(z)

    def prompts(name: str, z: Floats) -> float:
        return float(np.log(model.prompt_s(z, name)))

    out: list[tuple[str, str | None, Callable[[Floats], float], str]] = [
        ("step", None, lambda z: float(np.log(model.verify_s(z, middle, middle)[0])), "noise of the points"),
        ("verified", None, lambda z: tokens_s(z, least, max(high, 2 * least)), "points under another length tell tokens from requests"),
        ("growth", None, lambda z: tokens_s(z, high, BEYOND * high), "a point with more tokens in a step tells"),
    ]
    for name in model.acceptance:
        out.append(("draft", name, partial(draft, name), "a point at one user with counted acceptance tells"))
        if model.prompts and model.prompt_s(np.zeros(len(model.names)), name):
            out.append(("prefill", name, partial(prompts, name), "TTFT with the drafter, beside that without it, tells"))
        out.append(("level", name, partial(unknown, f"level {name}"), "counters of the engine tell"))
        out.append(("tilt", name, partial(unknown, f"tilt {name}"), "counters by position tell"))
    if model.scheduled:
        out.append(("scheduling", None, lambda z: model.scheduling_s(z) / one_s(z), "an adaptive point at one user tells"))
    if model.prompts:
        out.append(("prefill", None, lambda z: float(np.log(model.prefill_parts(z)[1])), "TTFT at one user tells"))
    return out


def _gradient(value: Callable[[Floats], float], z: Floats) -> Floats:
    step = 1e-4
    return np.array([(value(z + step * e) - value(z - step * e)) / (2 * step) for e in np.eye(len(z))])


def _hinges(edges: Floats, slopes: Floats, seconds: Floats, of: str) -> tuple[float, list[dict[str, object]]]:
    """The first slope, and where it changes: a piecewise linear curve with as few bends as move no step by more than STRAIGHT."""
    at = np.concatenate(([0.0], np.cumsum(slopes * np.diff(edges))))
    kept = _kept(edges, at, STRAIGHT * seconds, 0, len(edges) - 1)
    if at[kept[1]] < 0 and kept[1] > 1:
        kept.insert(1, 1)  # the first segment strays from nothing: it rises
    chords = np.diff(at[kept]) / np.diff(edges[kept])
    bends = [
        {"of": of, "above": rounded(float(edges[i])), "add_s": change}
        for i, change in zip(kept[1:], map(rounded, np.diff(chords)), strict=False)
        if change
    ]
    return rounded(float(chords[0])), bends


def _kept(x: Floats, y: Floats, tolerance: Floats, first: int, last: int) -> list[int]:
    """Corners of a polyline that stays within `tolerance` [n] of the points (Douglas and Peucker)."""
    inner = np.arange(first + 1, last)
    off = np.abs(y[inner] - np.interp(x[inner], [x[first], x[last]], [y[first], y[last]])) / tolerance[inner]
    if not len(inner) or off.max() <= 1:
        return [first, last]
    middle = int(inner[off.argmax()])
    return _kept(x, y, tolerance, first, middle)[:-1] + _kept(x, y, tolerance, middle, last)


def rounded(value: float) -> float:
    """Five significant digits: more than a fit can claim."""
    return float(f"{value:.5g}") if abs(value) >= TINY else 0.0
