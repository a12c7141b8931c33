"""How recorded texts vary, and synthetic ones that vary alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.measurements import spread
from simulator.measurements.acceptance import ParametricAcceptance, Variation
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.spread import fit_variation, like, spread_of
from simulator.measurements.statistics import rounds_to

FITTED = {  # python profiles/fit_acceptance.py profiles/cpu-smollm2-135m/blocks-dspark.parquet
    "math": {"spread": 1.305, "correlation": 0.442, "sequence_share": 0.056, "slow_share": 0.034, "slow_correlation": 0.963, "agreement": 0.89,
             "easy_share": 0.052, "easy_shift": 0.434},
}  # fmt: skip


def test_rounds_to_the_end_of_an_answer() -> None:
    blocks = RecordedBlocks(
        "d", 2, None, "synthetic", "", ("a", "b"), np.array([0, 0, 1]), np.array([0, 4, 6]), np.array([4, 2, 4]),
        np.array([2, 0, 0, 1, 0, 0, 0, 1, 2, 0]),
    )  # fmt: skip
    assert rounds_to(blocks, 4, "a").tolist() == [2]
    assert rounds_to(blocks, 4).tolist() == [2, 3]
    assert rounds_to(blocks, 4, "a", verified=1).tolist() == [3]
    assert rounds_to(blocks, 2).tolist() == [1, 2, 2]


def test_synthetic_texts_vary_as_those_of_a_real_model(repository: Path) -> None:
    """120 recorded answers of SmolLM2-135M, whose own error is some 10 % of the spread; the generator's defaults are far off."""
    blocks = RecordedBlocks.load(repository / "profiles" / "cpu-smollm2-135m" / "blocks-dspark.parquet")
    for domain, variation in FITTED.items():
        recorded = spread_of(blocks, domain)
        apart = recorded.apart(spread_of(like(blocks, domain, Variation(**variation), seed=1), domain, recorded.tokens))
        far = recorded.apart(spread_of(like(blocks, domain, Variation(), seed=1), domain, recorded.tokens))
        for what in ("spread", "autocorrelation 1", "autocorrelation 5", "finish 10%", "finish 50%", "finish 90%"):
            assert abs(apart[what]) < 0.1, what
        assert abs(far["spread"]) > 0.25
        assert abs(far["autocorrelation 5"]) > 0.5


def test_agreement_is_seen_by_neighbours_and_not_by_walks() -> None:
    shape = {"conditional": {"any": [0.6, 0.6, 0.6]}, "anchors": "all", "sequences_per_domain": 200, "anchors_per_sequence": 100}
    alone, together = (spread_of(ParametricAcceptance(agreement=share, **shape).generate("d")) for share in (0.0, 0.9))
    assert together.autocorrelation[0] > alone.autocorrelation[0] + 0.1
    assert together.autocorrelation[5] == pytest.approx(alone.autocorrelation[5], abs=0.02)
    assert together.rounds == pytest.approx(alone.rounds, rel=0.02)
    assert together.variation == pytest.approx(alone.variation, rel=0.1)


def test_a_fit_comes_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """To texts of the generator with other parameters than it starts from."""
    monkeypatch.setattr(spread, "_SEQUENCES", 100)
    made = {"spread": 2.5, "correlation": 0.2, "sequence_share": 0.3, "agreement": 0.3}
    blocks = ParametricAcceptance(conditional={"any": [0.7, 0.7, 0.7]}, sequences_per_domain=150, anchors_per_sequence=80, seed=3, **made).generate(
        "d"
    )
    recorded = spread_of(blocks, "any")
    first, last = (recorded.apart(spread_of(like(blocks, "any", v), "any")) for v in (spread._variation(spread._START), fit_variation(blocks, "any")))
    assert abs(last["spread"]) < min(abs(first["spread"]) / 2, 0.1)
    assert abs(last["finish 10%"]) < 0.06
