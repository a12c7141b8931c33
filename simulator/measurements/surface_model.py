"""The time of a step over tokens and requests as a few unknowns with weak priors: what `surface.py` fits to operating points.

A step of R requests with B tokens takes T(B, R) = base + f(B) + h(R), jumps at graph limits beside. f and h are piecewise linear, and what points
without speculation show is f + h along B = R alone. Its slope is split: h gets a share of what of the slope stays to the end (reading caches, host
time: rising with every request), f the rest (weights touched by more tokens, arithmetic: what falls off is its own). Slopes walk in their logarithm
from one segment to the next, so that few points give a smooth curve and many their own. Kernels work in tiles and change with the number of tokens,
so that a step may cost less than a smaller one: at every knot between the least and the most measured tokens f strays from the smooth curve by a part
of the step (its stair). A round adds drafting, which is a small step of the same shape, and scheduling. Users commit τ tokens of a round; others'
prompts stretch it (Model.speed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.marginals import sigmoid
from simulator.measurements.surface_priors import (
    ALONE,
    CELL,
    CLIFF,
    DRAFTING,
    FALLS_ON,
    GROWTH_TOKENS,
    LOOKS_BACK,
    PREFILL,
    PREFILL_BASE,
    PROMPTED_SHARE,
    REQUEST_SHARE,
    RISING_SHARE,
    SCHEDULING,
    STAIR,
    DraftKind,
)


@dataclass(frozen=True)
class Acceptance:
    """What is known of a drafter's acceptance before speeds are looked at: logits by slot [γ], sd of level and tilt; `counted` by the engine?"""

    logits: Floats
    level_sd: float
    tilt_sd: float
    counted: bool
    proposing: float = 1.0
    kind: DraftKind = "unknown"
    ahead: bool = False  # drafts for a request in the step in which its prompt ends


@dataclass(frozen=True)
class Rows:
    """Operating points as arrays [n]; NaN where a file does not say it."""

    requests: Floats  # decoding when a user of theirs decodes
    budget: Floats  # tokens verified per request and round, anchor included
    slots: Floats  # tokens drafted of a request that proposes
    proposing: Floats
    tau: Floats  # as counted, else NaN
    adaptive: Floats
    drafter: NDArray[np.str_]  # "" without
    users: Floats  # that the client keeps busy: decoding, or waiting for a first token
    inside: Floats  # share of them that decode
    prompt: Floats
    output: Floats
    ttft: Floats
    waits: Floats  # [n, 3] in a TTFT, where a simulation told: steps of prompts alone, their tokens, rounds of others

    @property
    def tokens(self) -> Floats:
        return self.requests * self.budget


def rows_of(points: Sequence[LoadPoint], drafters: Sequence[str], waits: Floats | None = None) -> Rows:
    """Operating points as arrays. A user who decodes shares the batch with himself and with the others as far as they decode."""

    def column(name: str) -> Floats:
        return np.array([np.nan if getattr(p, name) is None else float(getattr(p, name)) for p in points])

    inside = np.array([point.concurrency for point in points])
    waiting = np.nan_to_num(column("ttft_s") * column("tps_per_user") * inside / column("output_tokens"))
    users = np.maximum(np.where(np.isnan(column("offered")), inside + waiting, column("offered")), inside)
    slots = np.nan_to_num(np.where(np.isnan(column("slots")), np.ceil(column("budget") - 1 - 1e-9), column("slots")))
    proposing = np.where(np.isnan(column("proposing")), slots > 0, column("proposing"))
    budget = np.where(np.isnan(column("budget")), 1 + slots * proposing, column("budget"))
    tau = np.where(slots > 0, column("accepted_length"), 1.0)
    together = np.where(users > inside * 1.001, 1 + (users - 1) * inside / users, inside)
    adaptive = np.array([float(point.adaptive) for point in points])
    lengths = column("prompt_tokens"), column("output_tokens"), column("ttft_s")
    return Rows(
        together,
        budget,
        slots,
        proposing,
        tau,
        adaptive,
        np.array(drafters, dtype=str),
        users,
        inside / users,
        *lengths,
        np.full((len(points), 3), np.nan) if waits is None else waits,
    )


@dataclass
class Model:
    """Unknowns by name with their priors, and what they predict. Every unknown is counted in standard deviations from its prior's median."""

    knots: Floats  # [K] of tokens or requests, rising, above 0
    inside: int  # so many of them are batches that were measured without speculation, or lie between them
    measured: tuple[float, float]  # tokens in a step of the points
    base: float  # prior median of a step of no tokens
    acceptance: Mapping[str, Acceptance]
    limit: float | None = None
    prompts: bool = False
    scheduled: bool = False
    by_tokens: bool = False  # whoever uses the fit books all of a slope on tokens: a prompt's token is held against the whole of it
    walk_sd: Floats = field(default_factory=lambda: np.zeros(0))
    shared: bool = False  # one cache for all requests: every token of a step goes through all of it
    stairs: int = field(init=False)  # knots that have one: those above the first and below the most measured tokens
    names: list[str] = field(init=False, default_factory=list)
    _edges: Floats = field(init=False)  # [K + 1] of the segments
    _widths: Floats = field(init=False)  # [K]
    _prior: dict[str, tuple[float, float]] = field(init=False, default_factory=dict)
    _place: dict[str, int] = field(init=False, default_factory=dict)
    _last: tuple[Floats, tuple[Floats, Floats]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.stairs = int(np.sum(self.knots[1:] < self.measured[1]))
        self._edges = np.concatenate(([0.0], self.knots))
        self._widths = np.diff(self._edges)
        self._add("base", 0.0, 1.0)
        self._add("slope", -np.log(GROWTH_TOKENS[0]), GROWTH_TOKENS[1])
        for i, sd in enumerate(self.walk_sd):
            self._add(f"walk {i}", 0.0, float(sd))
        share, sd = REQUEST_SHARE if self.prompts else PROMPTED_SHARE
        self._add("share", _logit(share), sd)
        self._add("rising", _logit(RISING_SHARE[0]), RISING_SHARE[1])
        for i in range(self.stairs):
            self._add(f"stair {i}", 0.0, 1.0)
        for name, known in self.acceptance.items():
            prior = DRAFTING[known.kind]
            self._add(f"draft {name}", np.log(prior.share), prior.share_sd)
            self._add(f"draft growth {name}", prior.exponent * np.log(1 + len(known.logits)), prior.growth_sd)
            self._add(f"slotwise {name}", prior.slotwise, prior.slotwise_sd)
            self._add(f"level {name}", 0.0, known.level_sd)
            self._add(f"tilt {name}", 0.0, known.tilt_sd)
            if prior.every_step_sd:
                self._add(f"every step {name}", 0.0, prior.every_step_sd)
            if self.prompts and prior.prompt:
                self._add(f"prompt {name}", np.log(prior.prompt), prior.prompt_sd)
        if self.limit is not None:
            self._add("cliff", np.log(CLIFF[0]), CLIFF[1])
        if self.scheduled:
            self._add("scheduling", np.log(SCHEDULING[0]), SCHEDULING[1])
        if self.prompts:
            self._add("prefill", np.log(PREFILL[0]), PREFILL[1])
            self._add("prefill base", np.log(PREFILL_BASE[0]), PREFILL_BASE[1])
        if self.shared:
            self._add("cell", np.log(CELL[0]), CELL[1])

    def _add(self, name: str, mean: float, sd: float) -> None:
        self._place[name] = len(self.names)
        self.names.append(name)
        self._prior[name] = (float(mean), float(sd))

    def value(self, z: Floats, name: str) -> float:
        """An unknown in its own unit (a logarithm, a logit)."""
        mean, sd = self._prior[name]
        return mean + sd * float(z[self._place[name]])

    def base_s(self, z: Floats) -> float:
        return self.base * float(np.exp(self.value(z, "base")))

    def slopes(self, z: Floats) -> tuple[Floats, Floats]:
        """Seconds per token and per request on the segments up to each knot, [K] each. Beyond the batches that were measured without speculation
        requests cost what the last ones did, and tokens too, or less where their cost has been falling.
        Kept for the last unknowns, since all that a fit predicts of them goes back to it."""
        if self._last is None or not np.array_equal(self._last[0], z):
            self._last = z.copy(), self._slopes(z)
        return self._last[1]

    def _slopes(self, z: Floats) -> tuple[Floats, Floats]:
        walk = np.array([self.value(z, name) for name in self.names[2 : 1 + len(self.knots)]])
        both = self.base_s(z) * np.exp(self.value(z, "slope") + np.concatenate(([0.0], np.cumsum(walk[: self.inside - 1]))))
        stays = np.minimum.accumulate(both[::-1])[::-1]
        requests = _sigmoid(self.value(z, "share")) * stays[0] + _sigmoid(self.value(z, "rising")) * (stays - stays[0])
        tokens, octave = both - requests, np.log2(self.knots)
        before = min(int(np.searchsorted(octave, octave[self.inside - 1] - LOOKS_BACK)), self.inside - 1)
        falls = min(float(np.log(tokens[-1] / tokens[before])) / max(float(octave[self.inside - 1] - octave[before]), 1.0), 0.0)
        further = FALLS_ON * falls * -np.expm1(-np.log(2) * (octave[self.inside :] - octave[self.inside - 1])) / np.log(2)
        tokens = np.concatenate((tokens, tokens[-1] * np.exp(further + np.cumsum(walk[self.inside - 1 :]))))
        requests = np.concatenate((requests, np.full(len(self.knots) - self.inside, requests[-1])))
        smooth = self.base_s(z) + np.cumsum(tokens * self._widths)  # what products cost: a step of fewer requests stays above 0
        return tokens + np.diff(smooth * self.strayed(z), prepend=0.0) / self._widths, requests

    def strayed(self, z: Floats) -> Floats:
        """By what part of it a step of as many tokens as a knot strays from the smooth curve, [K]."""
        found = np.zeros(len(self.knots))
        stairs = np.clip([self.value(z, f"stair {i}") for i in range(self.stairs)], -6, 6)  # more than any step could
        found[1 : 1 + self.stairs] = np.expm1(STAIR * np.sinh(stairs))
        return found

    def strays(self, z: Floats) -> float:
        """The same of them all, root mean square."""
        return float(np.sqrt(np.sum(self.strayed(z) ** 2) / max(self.stairs, 1)))

    def drafting_strays(self, z: Floats, name: str) -> tuple[Floats, Floats]:
        """By what part drafting for so many requests strays, [n] each: its passes go through kernels as the target's do, of a token a request in a
        chain, of a whole block where all slots are drafted at once."""
        known = self.acceptance[name]
        passes = {"chain": 1, "block": len(known.logits)}.get(known.kind)
        kept = slice(0, 2 + self.stairs)
        return (self.knots[kept] / passes, self.strayed(z)[kept]) if passes and self.stairs else (np.ones(1), np.zeros(1))

    def curve(self, slopes: Floats, x: Floats) -> Floats:
        """Piecewise linear from 0 at 0, going on along the last segment."""
        at = np.concatenate(([0.0], np.cumsum(slopes * self._widths)))
        return np.asarray(np.interp(x, self._edges, at) + np.maximum(x - self._edges[-1], 0.0) * slopes[-1])

    def token_s(self, slopes: Floats) -> float:
        """Mean seconds of a token in the largest step of the points."""
        most = self.measured[1]
        return float(self.curve(slopes, np.array([most]))[0]) / most

    def verify_s(self, z: Floats, tokens: Floats, requests: Floats) -> Floats:
        """Time of a step of the target, [n]."""
        by_token, by_request = self.slopes(z)
        time = self.base_s(z) + self.curve(by_token, tokens) + self.curve(by_request, requests)
        return time if self.limit is None else time + (tokens > self.limit) * self.cliff_s(z)

    def cliff_s(self, z: Floats) -> float:
        return self.base_s(z) * float(np.exp(self.value(z, "cliff")))

    def draft_parts(self, z: Floats, name: str) -> tuple[float, float, float, float]:
        """base, per request, per slot, per slot and request: seconds of a round."""
        gamma = len(self.acceptance[name].logits)
        token_s = self.token_s(self.slopes(z)[0])
        one = float(np.exp(self.value(z, f"draft {name}")))
        slotwise = _sigmoid(self.value(z, f"slotwise {name}"))
        request_s = one * float(np.exp(self.value(z, f"draft growth {name}"))) * token_s
        whole = one * self.base_s(z)
        return (1 - slotwise) * whole, (1 - slotwise) * request_s, slotwise * whole / gamma, slotwise * request_s / gamma

    def every_step_s(self, z: Floats, name: str) -> float:
        """What every step under a drafter takes more or less than one without, seconds."""
        return self.base_s(z) * self.value(z, f"every step {name}") if f"every step {name}" in self._place else 0.0

    def draft_s(self, z: Floats, rows: Rows) -> Floats:
        """Time of drafting in a round of each point; the fixed part where any request proposes."""
        out = np.zeros(len(rows.requests))
        for name in self.acceptance:
            base, request, slot, slot_request = self.draft_parts(z, name)
            mine = rows.drafter == name
            proposing = rows.requests * rows.proposing
            some = 1 - (1 - np.minimum(rows.proposing, 1 - 1e-12)) ** np.maximum(rows.requests, 1e-9)
            time = some * (base + slot * rows.slots) + proposing * (request + slot_request * rows.slots)
            time = time * (1 + np.interp(proposing, *self.drafting_strays(z, name))) + self.every_step_s(z, name)
            out = np.where(mine & (rows.slots > 0), time, out)
        return out

    def conditional(self, z: Floats, name: str) -> Floats:
        """P(slot k accepted, given those before), [γ]."""
        known = self.acceptance[name]
        gamma = len(known.logits)
        place = np.linspace(-0.5, 0.5, gamma) if gamma > 1 else np.zeros(1)
        return sigmoid(known.logits + self.value(z, f"level {name}") + self.value(z, f"tilt {name}") * place)

    def length(self, z: Floats, rows: Rows) -> Floats:
        """Tokens committed per request and round, as the unknowns say, [n]."""
        out = np.ones(len(rows.requests))
        for name in self.acceptance:
            survival = np.concatenate(([0.0], np.cumsum(np.cumprod(self.conditional(z, name)))))
            mine = rows.drafter == name
            at = np.minimum(rows.slots, len(survival) - 1).astype(int)
            out = np.where(mine, 1 + rows.proposing * survival[at], out)
        return out

    def round_s(self, z: Floats, rows: Rows) -> Floats:
        time = self.verify_s(z, rows.tokens, rows.requests) + self.draft_s(z, rows)
        if self.shared:
            time = time + rows.tokens * rows.requests * (rows.prompt + rows.output / 2) * self.cell_s(z)
        return time + rows.adaptive * self.scheduling_s(z) if self.scheduled else time

    def cell_s(self, z: Floats) -> float:
        """Seconds of a token for each cached token of a shared cache."""
        return self.token_s(self.slopes(z)[0]) * float(np.exp(self.value(z, "cell")))

    def scheduling_s(self, z: Floats) -> float:
        return self.base_s(z) * float(np.exp(self.value(z, "scheduling")))

    def prefill_parts(self, z: Floats) -> tuple[float, float]:
        """base and per token of a prompt, seconds."""
        by_token, by_request = self.slopes(z)
        token_s = self.token_s(by_token + by_request if self.by_tokens else by_token)
        return self.base_s(z) * float(np.exp(self.value(z, "prefill base"))), token_s * float(np.exp(self.value(z, "prefill")))

    def prompt_s(self, z: Floats, name: str) -> float:
        """What a token of a prompt costs the drafter, seconds: as its first pass stands to a step."""
        if f"prompt {name}" not in self._place:
            return 0.0
        base, _, slot, _ = self.draft_parts(z, name)
        return self.prefill_parts(z)[1] * float(np.exp(self.value(z, f"prompt {name}"))) * (base + slot) / self.base_s(z)

    def prompts_s(self, z: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """A step of prompts alone but for their tokens, and a token of them, seconds [n]: in the target and in the row's drafter."""
        base, token = (np.full(len(rows.requests), part) for part in self.prefill_parts(z))
        for name, known in self.acceptance.items():
            mine = (rows.drafter == name) & (rows.slots > 0)
            drafted, request, slot, slot_request = self.draft_parts(z, name) if known.ahead else (0.0,) * 4
            base = base + mine * (drafted + request + (slot + slot_request) * rows.slots + self.every_step_s(z, name))
            token = token + mine * self.prompt_s(z, name)
        return base, token

    def speed(self, z: Floats, rows: Rows) -> Floats:
        """Tokens per second of a user, [n]. While he goes through one answer every other user sends one prompt; what of them does not delay his first
        token stretches his rounds. How many that are, the measured TTFT says; without one, as many as there is time for."""
        length = np.where(np.isnan(rows.tau), self.length(z, rows), rows.tau)
        round_s = self.round_s(z, rows)
        if not self.prompts:
            return np.asarray(length / round_s)
        own = self.prompts_s(z, rows)[1] * rows.prompt
        all_others = np.maximum(rows.users - 1, 0.0) * own
        known = ~np.isnan(rows.ttft)
        before = np.where(known, np.clip(np.nan_to_num(rows.ttft) - own - round_s, 0.0, all_others), all_others * (1 - rows.inside))
        return np.asarray(1 / (round_s / length + (all_others - before) / np.maximum(rows.output - 1, 1.0)))

    def ttft_s(self, z: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Least and most time to the first token, [n]: the own prompt alone or beside a decode step; all others' prompts and a step before it.
        Both are one where a simulation told what it consists of."""
        base, token = self.prompts_s(z, rows)
        own, round_s = token * rows.prompt, self.round_s(z, rows)
        alone = rows.users < ALONE
        least = np.where(alone, base, np.minimum(base, round_s)) + own
        most = np.where(alone, least, np.maximum(base, round_s) + round_s + rows.users * own)
        steps, tokens, rounds = rows.waits.T
        told = steps * base + tokens * token + rounds * round_s
        return np.where(np.isnan(told), least, told), np.where(np.isnan(told), most, told)


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))
