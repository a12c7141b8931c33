"""How long a step takes: fitted curves and measured tables behind one shape, and the price of a whole round for the policies.

All kinds of cost stand in one file, as the profile has them in one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, PrivateAttr, model_validator

from simulator.arrays import Floats
from simulator.kind import Lowered
from simulator.measurements.composed import OperatorPrefill, OperatorVerify
from simulator.measurements.cost_kind import Cost, GraphSizes, PromptCost, Sourced, TableCost
from simulator.measurements.cost_table import Between, CostTable, read_cost_table
from simulator.names import Inside
from simulator.quantities import Flag, MeanTokens, StepSeconds, Tokens, Within
from simulator.schema import Frozen

ROUNDED = 1e-3  # of a slope, that a sum of rounded ones may be off by


class Cliff(Frozen):
    """A jump of the step time: steps of more than `tokens` tokens cost `add_s` more."""

    tokens: Tokens
    add_s: StepSeconds


class Bend(Frozen):
    """A change of slope: each token of a step (or each of its requests) above so many costs `add_s` more, or less where it is negative."""

    of: Literal["tokens", "requests"]
    above: MeanTokens
    add_s: Annotated[float, Within(-1000, 1000, "seconds")]


class Stray(Frozen):
    """Drafting for so many requests takes `part` of the straight line's time more, or less where it is negative: kernels of as many tokens do."""

    requests: MeanTokens
    part: Annotated[float, Within(-0.9, 10)]


class FittedCurve(Cost):
    """T(B, R) = base + per_token B + per_request R + concave (1 - exp(-B / concave_tokens)) + cliffs + bends, plus per_context_token for every cached
    token read, where R requests have B tokens in the step; plus per_token_cell for every token of the step and every cached token of all R requests,
    where they share one cache, through which each token goes (llama.cpp's --kv-unified).

    The concave part is real in sparse models: more experts' weights are touched as the batch grows.
    """

    kind: Literal["curve"] = "curve"
    base_s: StepSeconds
    per_token_s: StepSeconds
    per_request_s: StepSeconds = 0.0
    concave_s: StepSeconds = 0.0
    concave_tokens: MeanTokens = 1.0
    per_context_token_s: StepSeconds = 0.0
    per_token_cell_s: StepSeconds = 0.0
    cliffs: Annotated[list[Cliff], Field(max_length=100)] = []
    bends: Annotated[list[Bend], Field(max_length=200)] = []
    measured_tokens: tuple[MeanTokens, MeanTokens]

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        least = self.base_s
        for of, slope in (("tokens", self.per_token_s), ("requests", self.per_request_s)):
            bends = [(bend.above, bend.add_s) for bend in self.bends if bend.of == of]
            last = slope + sum(add_s for _, add_s in bends)
            if last < -ROUNDED * max(slope, *(abs(add_s) for _, add_s in bends), 0.0):
                raise ValueError(f"bends: of ever more {of} a step costs ever less, {last:g} s each, expected at least 0")
            corners = [1.0, *(above for above, _ in bends if above > 1)]
            least += min(slope * at + sum(add_s * max(at - above, 0.0) for above, add_s in bends) for at in corners)
        if self.bends and least <= 0:
            raise ValueError(f"bends: the cheapest step costs {least:g} s, expected more than 0")
        return self

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        inside = self.measured_tokens[0] <= cell["tokens"] <= self.measured_tokens[1]
        return float(self.seconds(cell["tokens"], cell.get("requests", 1.0), cell.get("context_tokens", 0.0))) if inside else 0.0

    def tokens_range(self) -> tuple[float, float]:
        """The tokens per step that the data covers."""
        return self.measured_tokens

    @property
    def varies_with(self) -> Literal["tokens", "context", "shape"]:
        """What it depends on beside the tokens in the step."""
        by_requests = self.per_request_s or any(bend.of == "requests" for bend in self.bends)
        return "shape" if by_requests or self.per_token_cell_s else "context" if self.per_context_token_s else "tokens"

    def seconds(self, tokens: ArrayLike, requests: float = 1, context_tokens: float = 0) -> Floats:
        """Time of steps of `tokens` tokens whose requests hold `context_tokens` each on average."""
        b = np.asarray(tokens, dtype=np.float64)
        time = self.base_s + self.per_token_s * b + self.concave_s * -np.expm1(-b / self.concave_tokens)
        for cliff in self.cliffs:
            time = time + cliff.add_s * (b > cliff.tokens)
        for bend in self.bends:
            time = time + bend.add_s * np.maximum((b if bend.of == "tokens" else requests) - bend.above, 0.0)
        if self.per_token_cell_s:
            time = time + b * (requests * context_tokens * self.per_token_cell_s)
        return np.asarray(time + requests * (self.per_request_s + self.per_context_token_s * context_tokens))


class MeasuredTable(TableCost):
    """A table of tokens (and optionally requests, context_tokens) against p10/p50/p90 seconds.

    `between: step` pads a step up to the next row (a staircase); `linear` interpolates. `padded_to` are the sizes that the engine pads steps up
    to, where not all of them were measured; `contexts: step` where it pads contexts up to the measured ones.
    """

    kind: Literal["table"] = "table"
    between: Between = "step"
    contexts: Between = "linear"
    padded_to: Annotated[list[Tokens], Field(max_length=10_000)] = []

    def attach(self, folder: Path) -> None:
        self._table = read_cost_table(folder / self.file, "tokens", self.between, self.contexts)

    def tokens_range(self) -> tuple[float, float]:
        """The tokens per step that were measured."""
        return self.table.lowest, self.table.highest

    @property
    def varies_with(self) -> Literal["tokens", "context", "shape"]:
        """What it depends on beside the tokens in the step."""
        return "shape" if self.most("requests") else "context" if self.most("context_tokens") else "tokens"

    def seconds(self, tokens: ArrayLike, requests: float = 1, context_tokens: float = 0) -> Floats:
        """Median time of steps of `tokens` tokens of `requests` requests that hold `context_tokens` each on average."""
        b = np.asarray(tokens, dtype=np.float64)
        return self.table.seconds(GraphSizes(tuple(self.padded_to)).padded(b) if self.padded_to else b, requests, context_tokens)


VerifyCost = Annotated[FittedCurve | MeasuredTable | OperatorVerify, Field(discriminator="kind")]


class DrafterCost(Cost):
    """The cost of drafting in a round. `takes_in`: the features of a step's tokens cost the drafter time of its own.

    `ahead`: the engine drafts at the end of a step, so that the one in which a prompt ends drafts for its request too (vLLM).
    `every_step_s`: what a step under this drafter takes beside, whether anything is drafted in it or not, and below 0 where it is shorter than one
    without: engines schedule otherwise with some drafters (vLLM does not schedule asynchronously with n-grams).
    """

    ahead: Flag | None = None
    every_step_s: Annotated[float, Within(-1000, 1000, "seconds")] = 0.0

    @property
    def takes_in(self) -> bool:
        """Is `absorb_s` ever above 0?"""
        return False

    @property
    def reads_prompts(self) -> bool:
        """Is `prompt_s` ever above 0?"""
        return self.takes_in

    def terms(self) -> dict[str, float]:
        """Of a formula: seconds by what they are multiplied with."""
        return {}

    def absorb_s(self, tokens: ArrayLike, context_tokens: float) -> Floats:
        """Time to take in the features of `tokens` tokens of the target; 0 where it is not apart."""
        return np.asarray(tokens, dtype=np.float64) * 0.0

    def prompt_s(self, tokens: float, context_tokens: float) -> float:
        """The drafter's own work on `tokens` tokens of prompts; beside a round that takes features in, `prompt_s(0)` is paid already."""
        return float(self.absorb_s(tokens, context_tokens))


class LinearDraft(DrafterCost):
    """base + per_request R + slots (per_slot + per_slot_request R), seconds per round, and by what part of it that strays at some R (linear between
    them, beyond as at the ends); per_prompt_token for every token of a prompt."""

    kind: Literal["linear"] = "linear"
    base_s: StepSeconds = 0.0
    per_request_s: StepSeconds = 0.0
    per_slot_s: StepSeconds = 0.0
    per_slot_request_s: StepSeconds = 0.0
    per_prompt_token_s: StepSeconds | None = None
    strays: Annotated[list[Stray], Field(max_length=200)] = []

    @property
    def reads_prompts(self) -> bool:
        return bool(self.per_prompt_token_s)

    def prompt_s(self, tokens: float, context_tokens: float) -> float:
        return (self.per_prompt_token_s or 0.0) * tokens

    def seconds(self, requests: float, context_tokens: float, slots: int) -> float:
        """Time to draft `slots` tokens for each of `requests` requests."""
        straight = self.base_s + self.per_request_s * requests + slots * (self.per_slot_s + self.per_slot_request_s * requests)
        if not self.strays:
            return straight
        return straight * (1 + float(np.interp(requests, [at.requests for at in self.strays], [at.part for at in self.strays])))

    def terms(self) -> dict[str, float]:
        drafting = {"": self.base_s, " · requests": self.per_request_s, " · slots": self.per_slot_s, " · slots · requests": self.per_slot_request_s}
        return drafting | {" in every step": self.every_step_s}

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        return self.seconds(cell["requests"], 0.0, gamma)


class DraftTable(DrafterCost, TableCost):
    """Measured time of drafting by requests (and optionally context_tokens).

    `file` alone is a whole block. With `head` it is what is paid once a round, and `head` (key slots, by requests) what the slots drafted add;
    `absorb` (key tokens) is what taking in the features of a step's tokens adds.
    """

    kind: Literal["table"] = "table"
    head: Inside | None = None
    absorb: Inside | None = None
    between: Between = "linear"
    contexts: Between = "linear"
    _head: CostTable | None = PrivateAttr(None)
    _absorb: CostTable | None = PrivateAttr(None)

    @property
    def files(self) -> list[str]:
        return [file for file in (self.file, self.head, self.absorb) if file is not None]

    def attach(self, folder: Path) -> None:
        self._table = read_cost_table(folder / self.file, "requests", self.between, self.contexts)
        if self.head is not None:
            self._head = read_cost_table(folder / self.head, "slots", "linear", self.contexts)
        if self.absorb is not None:
            self._absorb = read_cost_table(folder / self.absorb, "tokens", "linear", self.contexts)

    @property
    def takes_in(self) -> bool:
        return self.absorb is not None

    def seconds(self, requests: float, context_tokens: float, slots: int) -> float:
        """Time to draft `slots` tokens for each of `requests` requests; the whole block, whatever `slots`, where the head is not apart."""
        once = float(self.table.seconds(np.asarray(float(requests)), 1, context_tokens))
        return once if self._head is None else once + float(self._head.seconds(np.asarray(float(slots)), requests, context_tokens))

    def absorb_s(self, tokens: ArrayLike, context_tokens: float) -> Floats:
        if self._absorb is None:
            return super().absorb_s(tokens, context_tokens)
        return self._absorb.seconds(np.asarray(tokens, dtype=np.float64), 1, context_tokens)


DraftCost = Annotated[LinearDraft | DraftTable, Field(discriminator="kind")]


class LinearPrefill(PromptCost):
    """base + n (per_token + per_token_context a), where each of n prompt tokens attends to `a` earlier ones on average."""

    kind: Literal["linear"] = "linear"
    base_s: StepSeconds
    per_token_s: StepSeconds
    per_token_context_s: StepSeconds = 0.0

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        """Time of a prefill step of `tokens` new tokens that attend to `attended_tokens` earlier ones on average."""
        return self.base_s + tokens * (self.per_token_s + self.per_token_context_s * attended_tokens)

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        return self.seconds(cell["tokens"], cell.get("context_tokens", 0.0) + cell["tokens"] / 2)

    def lowered(self) -> Lowered | None:
        line = {"prompt_base_s": self.base_s, "prompt_token_s": self.per_token_s, "prompt_context_s": self.per_token_context_s}
        return None if self.apart else Lowered("linear", line)


class PrefillTable(TableCost, PromptCost):
    """Measured time of a prefill step by tokens (and optionally context_tokens cached before them)."""

    kind: Literal["table"] = "table"

    def attach(self, folder: Path) -> None:
        self._table = read_cost_table(folder / self.file, "tokens", "linear")

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        """Time of a prefill step of `tokens` new tokens that attend to `attended_tokens` earlier ones on average."""
        return float(self.table.seconds(np.asarray(float(tokens)), 1, max(attended_tokens - tokens / 2, 0.0)))


PrefillCost = Annotated[LinearPrefill | PrefillTable | OperatorPrefill, Field(discriminator="kind")]


class Overhead(Sourced):
    """Host and sampling time of every step that the other tables do not hold; `per_request_s` for each that decodes."""

    seconds: StepSeconds = 0.0
    per_request_s: StepSeconds = 0.0


class Scheduling(Sourced):
    """Time of a step in which the rule weighs confidences against prices (adaptive verification), beside the overhead of every step;
    `per_request_s` for each that decodes."""

    seconds: StepSeconds = 0.0
    per_request_s: StepSeconds = 0.0


class FrontEnd(Sourced):
    """Time from sending a request to the engine's queue (HTTP, template, tokeniser), one request after the other at each replica's own front end;
    steps go on meanwhile."""

    seconds: StepSeconds = 0.0


class Costs(Frozen):
    """All step costs of a profile. `contexts`: a step over requests with unlike contexts costs what it would with all at their mean, or with all
    at the longest (kernels that pad attention)."""

    verify: VerifyCost
    prefill: PrefillCost | None = None
    overhead: Overhead
    scheduling: Scheduling | None = None
    front_end: FrontEnd | None = None
    contexts: Literal["mean", "longest"] = "mean"

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        if isinstance(self.verify, FittedCurve) and self.verify.measured_tokens[0] > self.verify.measured_tokens[1]:
            raise ValueError("verify.measured_tokens must be [lowest, highest]")
        return self
