"""The schedulers of serving engines as they are, with what makes them differ from the DSpark paper's.

Read in vllm-project/vllm at 057929c (v1/worker/gpu/spec_decode/adaptive_verification.py) and its pull request 47808, sgl-project/sglang at 00c3cff
(srt/speculative/dspark_components/dspark_planner.py, dspark_sps.py, kernels/schedule_verify_lens_topk.py) and vllm-project/vllm-ascend, pull requests
13216 and 13819 (the class DynamicSpecScheduler).
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from simulator.kind import Lowered
from simulator.policies.rule import Belief, EngineView, Floats, Lengths, Serving, StepView, VerificationPolicy, admit, throughputs
from simulator.quantities import Share, Slots, Tokens, Within

# Where SGLang's profiler measures steps (dspark_sps_table.py, build_batch_size_sweep).
SGLANG_PROBES = (1, 2, 4, 8, *range(12, 128, 4), *range(128, 256, 16), *range(256, 1024, 32), *range(1024, 2048, 128), *range(2048, 65_537, 256))


class VllmAdaptive(VerificationPolicy):
    """vLLM's adaptive verification. The budget is the global optimum on confidences one step old, at prices that are measured at one context length,
    never fall with more tokens, and know drafting and the target's forward pass but no host time; it is spent on the best present tokens.

    `ema`: the weight of the past in running means of each request's confidences that the budget goes by (0.8 in pull request 47808; 0 in the versions
    since 057929c, which keep none). The first confidences of a request count whole; before them it counts with survival 1.
    """

    kind: Literal["vllm_adaptive"] = "vllm_adaptive"
    ema: Share = 0.8
    profile_context: Tokens = 8192
    needs_confidence: ClassVar = True
    needs_prices: ClassVar = True

    @property
    def lag_steps(self) -> int:
        return 1

    @property
    def smoothing(self) -> float | None:
        return self.ema

    @property
    def belief(self) -> Belief:
        return Belief(rising=True, overhead=False, context_tokens=float(self.profile_context))

    def choose(self, view: StepView) -> Lengths:
        assert isinstance(view, EngineView)
        assert view.smoothed is not None
        _, gain = throughputs(view.smoothed, view.round_s)
        return admit(view.survival, int(gain.argmax()), 0, None)

    def serving(self, gamma: int) -> Serving:
        means = f"running means of confidences (ema {self.ema:g}): versions of vLLM since 057929c have none (ema: 0), and no engine lets one set them"
        return Serving(gamma, lag=self.lag_steps, beyond=(means,) if self.ema else (), profile_context=self.profile_context)

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return Lowered("smoothed", {"lag": self.lag_steps, "smoothing": self.ema})


class SglangAdaptive(VerificationPolicy):
    """SGLang's verify-budget planner in `compact` mode: the global optimum on confidences two steps old, at the price of the largest measured step of
    not more tokens (`probes`; its profiler's own, where none are given). Its minimum of one token is the anchor: it may verify no drafted token."""

    kind: Literal["sglang_adaptive"] = "sglang_adaptive"
    probes: Annotated[list[Tokens], Field(min_length=1, max_length=10_000)] | None = None
    needs_confidence: ClassVar = True
    needs_prices: ClassVar = True

    @property
    def lag_steps(self) -> int:
        return 2

    @property
    def belief(self) -> Belief:
        return Belief(probes=SGLANG_PROBES if self.probes is None else tuple(sorted(self.probes)))

    def choose(self, view: StepView) -> Lengths:
        _, gain = throughputs(view.survival_at(2), view.round_s)
        return admit(view.survival, int(gain.argmax()), 0, None)

    def serving(self, gamma: int) -> Serving:
        below = "steps that cost what the next measured one below costs: the table written here is SGLang's additive one, which it interpolates"
        return Serving(gamma, lag=self.lag_steps, beyond=(below,))

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return Lowered("scheduled", {"lag": self.lag_steps})


class AscendAdaptive(VerificationPolicy):
    """vLLM-Ascend's scheduler by confidences: k tokens a request, spent on the best present tokens of the batch, `min_length` of each at least.
    Every `interval` steps k becomes the mean number of slots with a survival of at least `budget_threshold`, rounded up, and to the next odd number
    below γ (even widths of a step cost the same there); `initial` before.

    With `floor` its hardware-aware policy: the optimum by prices, but never below that share of k, which keeps a wrong table from cutting too much
    (0.8 in its code, with a running mean of confidences, 0.8 of it past, and `min_length` 0); searched anew every `interval` steps and when the batch
    changes. The present confidences decide, so it is not lossless to the letter.
    """

    kind: Literal["ascend_adaptive"] = "ascend_adaptive"
    budget_threshold: Share = 0.3
    interval: Annotated[int, Within(1, 100_000, "steps")] = 16
    initial: Slots = 5
    min_length: Slots = 1
    floor: Share | None = None
    needs_confidence: ClassVar = True
    needs_prices: ClassVar = True
    keeps: ClassVar = 4  # steps since k was set, k + 1 (0 before the first step), tokens admitted by prices, requests then

    @property
    def peeks(self) -> bool:
        return True

    @property
    def smoothing(self) -> float | None:
        return None if self.floor is None else 0.8

    def choose(self, view: StepView) -> Lengths:
        assert isinstance(view, EngineView)
        known = view.survival if view.smoothed is None else view.smoothed
        least, due = min(self.min_length, view.gamma), self._count(view, known)
        wanted = view.requests * (int(view.kept[1]) - 1)
        admitted = max(wanted - view.requests * least, 0)
        if self.floor is not None:
            if due or view.kept[3] != view.requests:
                _, gain = throughputs(known, view.round_s, least, int(view.verified_at(0)[least]))
                lowest = min(max(ceil(wanted * self.floor) - view.requests * least, 0), len(gain) - 1)
                view.kept[2:4] = lowest + int(gain[lowest:].argmax()), view.requests
            admitted = int(view.kept[2])
        return admit(known, admitted, least, None)

    def _count(self, view: EngineView, known: Floats) -> bool:
        """Bring k up to date; whether it was its turn."""
        if view.kept[1] == 0:
            view.kept[1] = max(self.min_length, min(self.initial, view.gamma)) + 1
        view.kept[0] += 1
        if view.kept[0] < self.interval:
            return False
        k = ceil(np.count_nonzero(known >= self.budget_threshold) / view.requests)
        odd = k + 1 if k % 2 == 0 and k < view.gamma else k
        view.kept[0:2] = 0, max(self.min_length, min(odd, view.gamma)) + 1
        return True

    def serving(self, gamma: int) -> Serving:
        own = {"budget_threshold": self.budget_threshold, "budget_update_interval": self.interval, "initial_verify_budget_per_req": self.initial}
        own |= {"min_verify_tokens": self.min_length} | ({} if self.floor is None else {"hardware_min_budget_ratio": self.floor})
        said = ", ".join(f"{name} {value:g}" for name, value in own.items())
        return Serving(gamma, beyond=(f"the schedule of vllm-ascend (dynamic_spec_config in its --additional-config: {said}): whole blocks instead",))
