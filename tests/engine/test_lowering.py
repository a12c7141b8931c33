"""What kinds say to the compiled engine: every field of theirs, in words that it knows."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from simulator.engine.kernel import layout
from simulator.kind import Kind, Lowered, lowering
from simulator.measurements.cost import LinearPrefill, PrefillCost
from simulator.policies.admission import Admission, FirstCome, ShortestPrompt
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Prefill, Separate
from simulator.policies.routing import LeastLoaded, PowerOfTwo, PrefixAware, Random, RoundRobin, Routing, SessionAffinity
from simulator.policies.verification import (
    ByBatch,
    ByBatchAndContext,
    ConfidenceScheduled,
    FixedLength,
    Lengths,
    NoSpeculation,
    Oracle,
    SglangAdaptive,
    StepView,
    Threshold,
    Uniform,
    Verification,
    VllmAdaptive,
)

LUCK = np.random.default_rng(0)
CONFIDENCE = LUCK.random((60, 5))
ROWS = StepView(60, 5, CONFIDENCE, CONFIDENCE.cumprod(axis=1), (), np.empty(0))
SOURCE: Any = {"provenance": "synthetic"}
SCHEDULER_S = {"probes", "profile_context"}  # the scheduler's prices, which both paths ask for
NOT_THE_RUN_S = SCHEDULER_S | {"kind", "gpus_per_worker", "provenance", "source", "note"}  # tell kinds apart, count GPUs, say where numbers are from

# Of every kind one, and for every field a value that must be lowered to something else.
RULES: list[tuple[Any, dict[str, Any]]] = [
    (NoSpeculation(), {}),
    (FixedLength(length=2), {"length": 3}),
    (Threshold(threshold=0.5), {"threshold": 0.2, "of": "survival"}),
    (ByBatch(table=[(1, 4, 5), (5, 9, 2)]), {"table": [(1, 3, 5), (4, 9, 2)]}),
    (ConfidenceScheduled(), {"mode": "synchronous", "lag": 1, "min_length": 1}),
    (Uniform(), {"lag": 1, "min_length": 1}),
    (VllmAdaptive(), {"ema": 0.5}),
    (SglangAdaptive(), {}),
    (ByBatchAndContext(table=[(1, 99, 0, 9, 5), (1, 99, 10, 99, 2)]), {"table": [(1, 99, 0, 8, 5), (1, 99, 9, 99, 2)]}),
    (Oracle(), {}),
]
OTHERS: list[tuple[Any, dict[str, Any]]] = [
    (Instant(), {}),
    (Separate(), {"max_tokens": 7}),
    (Chunked(), {"token_budget": 7}),
    (
        Disaggregated(),
        {"workers": 2, "transfer_s": 0.5, "profile": "other", "bandwidth_bytes_s": 1e9, "prefix_cache": {"kind": "lru"}, "kv_tokens": 9},
    ),
    (RoundRobin(), {}),
    (LeastLoaded(), {"stale_s": 5.0}),
    (PowerOfTwo(), {"stale_s": 5.0}),
    (Random(), {}),
    (SessionAffinity(), {"stale_s": 5.0, "most": 3.0}),
    (PrefixAware(), {"stale_s": 5.0, "load_weight": 2.0, "sees": "approximate"}),
    (FirstCome(), {}),
    (ShortestPrompt(), {}),
    (
        LinearPrefill(**SOURCE, base_s=0.1, per_token_s=0.2),
        {"base_s": 0.3, "per_token_s": 0.4, "per_token_context_s": 0.5, "apart": True},
    ),
]


def lowered(kind: Any) -> Lowered | None:
    return lowering(kind, *((ROWS, 12) if isinstance(kind, tuple(type(rule) for rule, _ in RULES)) else ()))


def plain(numbers: Lowered | None) -> Any:
    return numbers and (numbers.branch, dict(numbers.settings), None if numbers.table is None else numbers.table.tolist())


def test_the_list_is_whole() -> None:
    """A kind that joins a union must be here, or say that it runs in Python by having no lowering."""
    unions = [get_args(get_args(union)[0]) for union in (Verification, Prefill, Routing, Admission, PrefillCost)]
    known = {kind for union in unions for kind in union if "lowered" in vars(kind)}
    assert known == {type(kind) for kind, _ in RULES + OTHERS}


@pytest.mark.parametrize("kind, other", RULES + OTHERS, ids=lambda k: getattr(k, "kind", ""))
def test_every_field_is_lowered(kind: Any, other: dict[str, Any]) -> None:
    """A new field fails here until it is listed, and one that is listed until the lowering heeds it."""
    assert set(type(kind).model_fields) - NOT_THE_RUN_S == set(other)
    before = plain(lowered(kind))
    assert before is not None
    for field, value in other.items():
        assert plain(lowered(type(kind).model_validate({**dict(kind), field: value}))) != before, field


@pytest.mark.parametrize("kind", [kind for kind, _ in RULES + OTHERS], ids=lambda k: k.kind)
def test_the_kernel_knows_the_words(kind: Any) -> None:
    numbers = lowered(kind)
    assert numbers is not None
    assert any(numbers.branch in branches for _, branches in layout.BRANCHES.values())
    assert set(numbers.settings) <= set(layout.GLOBAL.names or ())


def test_branches_stand_at_their_numbers() -> None:
    for _, branches in layout.BRANCHES.values():
        for number, name in enumerate(branches):
            assert getattr(layout, name.upper(), number) == number


def test_a_subclass_does_something_else() -> None:
    class Odd(FixedLength):
        def choose(self, view: StepView) -> Lengths:
            return np.arange(view.requests) % 2 * self.length

    assert lowering(FixedLength(length=2), ROWS, 12) is not None
    assert lowering(Odd(length=2), ROWS, 12) is None


def test_words_follow_from_the_kind() -> None:
    class TwoWords(Kind):
        kind: str = "two_words"

    assert TwoWords().words == "two words"
