"""Drafters that propose in runs, against the closed form for texts without difficulty."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import fsolve

from simulator.errors import ProfileError
from simulator.measurements import runs
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.statistics import visited_rows

SURVIVAL, SHARE = np.array([0.382, 0.266, 0.200]), 0.364  # counted with k = 3: prompt look-up in 180 texts of tests/pair


def on_paper(verified: int) -> tuple[float, float]:
    """Share of the rounds that propose and accepted length of all, from the counts of k = 3 alone.

    Rounds are free (with probability β a run begins), or within a run, where a hit was the bonus token of the round before. With r of these for one
    round that begins a run, r = P(all k and the bonus hit | begins) + r P(… | within)."""

    def within(hit: np.ndarray, k: int) -> float:
        return float(np.prod([hit[min(j, 2)] for j in range(k + 1)]) / (1 - hit[2] ** (k + 1)))

    def survival(hit: np.ndarray, k: int) -> np.ndarray:
        r = within(hit, k)
        begun = np.cumprod([hit[min(j, 2)] for j in range(k)])
        return np.asarray((begun + r * hit[2] ** np.arange(1, k + 1)) / (1 + r))

    hit = fsolve(lambda hit: survival(hit, 3) - SURVIVAL, SURVIVAL)
    free = (1 / SHARE - 1) * (1 + within(hit, 3))  # rounds without a proposal, for one that begins a run
    proposing = 1 + within(hit, verified)
    share = proposing / (proposing + free)
    return share, 1 + share * float(survival(hit, verified).sum())


def test_the_paper_has_what_prompt_look_up_does_in_real_texts() -> None:
    """Measured with the same texts (docs/exchange.md): 41.8 % and 1.191 with k = 1, 34.6 % and 1.348 with k = 5."""
    assert on_paper(3) == pytest.approx((SHARE, 1 + SHARE * SURVIVAL.sum()))
    assert on_paper(1) == pytest.approx((0.418, 1.191), rel=0.01)
    assert on_paper(5) == pytest.approx((0.346, 1.348), rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 1.95])
def test_a_run_with_any_k_has_what_the_paper_says(spread: float) -> None:
    """With difficulty that varies, too: it hardly matters what the marginals were solved with."""
    conditional = (SURVIVAL / np.array([1.0, *SURVIVAL[:-1]])).tolist()
    shape = {"sequences_per_domain": 400, "anchors_per_sequence": 160, "spread": spread}
    blocks = ParametricAcceptance(conditional={"any": conditional}, proposing=SHARE, block=5, **shape).generate("d")
    assert blocks.proposed is not None
    assert blocks.confidence is None
    for k in (1, 3, 5):
        rows = visited_rows(blocks, np.full(blocks.rows, k))
        proposing, accepted = blocks.proposed[rows] > 0, np.minimum(blocks.accepted[rows], k)
        share, length = on_paper(k)
        each = np.array([np.bincount(blocks.sequence_of_row[rows], weights=w) for w in (np.ones(len(rows)), proposing, accepted)])
        for total, wanted in ((each[1], share), (each[2], length - 1)):
            error = np.std(total - wanted * each[0]) * np.sqrt(len(total)) / each[0].sum()
            assert abs(total.sum() / each[0].sum() - wanted) < 4 * error + 0.004


@pytest.mark.parametrize(("survival", "share"), [([0.721, 0.475, 0.426], 0.219), ([0.9, 0.88, 0.87], 0.5), ([0.6], 0.25)])
def test_counts_of_long_runs_are_met(survival: list[float], share: float) -> None:
    """The first are 61 rounds of a real server (n-gram, one user): where runs are long, few need begin, and a plain iteration overshoots."""
    conditional = (np.array(survival) / np.array([1.0, *survival[:-1]])).tolist()
    shape = {"sequences_per_domain": 200, "anchors_per_sequence": 128, "spread": 1.0}
    blocks = ParametricAcceptance(conditional={"any": conditional}, proposing=share, **shape).generate("d")
    assert blocks.proposed is not None
    rows = visited_rows(blocks)
    proposing = blocks.proposed[rows] > 0
    assert proposing.mean() == pytest.approx(share, rel=0.1)
    found = [float((blocks.accepted[rows][proposing] >= k).mean()) for k in range(1, len(survival) + 1)]
    np.testing.assert_allclose(found, survival, atol=0.03)


def test_counts_that_are_not_met_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_STEPS", 3)
    with pytest.raises(ProfileError, match="proposing: no runs have these marginals"):
        ParametricAcceptance(conditional={"any": [0.9, 0.98]}, proposing=0.5, sequences_per_domain=4, anchors_per_sequence=32).generate("d")
