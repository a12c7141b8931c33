"""Quantiles in bounded memory: exact while few, within 0.1 % of the value when many, the same however they are merged."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.study.run.spread import EXACT, Spread

POINTS = (0.1, 0.5, 0.9, 0.99)


def given(values: np.ndarray, size: int, weights: np.ndarray | None = None) -> Spread:
    found = Spread()
    for start in range(0, len(values), size):
        found.add(values[start : start + size], None if weights is None else weights[start : start + size])
    return found


def test_few_values_are_exact() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, EXACT)
    assert given(values, 1000).quantiles(POINTS) == np.quantile(values, POINTS).tolist()
    assert Spread().quantiles(POINTS) == [None] * 4


@pytest.mark.parametrize("law", ["lognormal", "two values", "almost constant"])
def test_many_values_are_near(law: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "lognormal": lambda: rng.lognormal(0, 2, 500_000),
        "two values": lambda: rng.choice([0.0, 1.0], 500_000, p=[0.3, 0.7]),
        "almost constant": lambda: 0.02 + rng.normal(0, 1e-9, 500_000),
    }[law]()
    found = given(values, 30_000)
    assert found.count == len(values)
    assert found.quantiles(POINTS) == pytest.approx(np.quantile(values, POINTS, method="lower"), rel=0.0011)


def test_weights_count_a_value_several_times() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.lognormal(0, 1, 150_000), rng.integers(1, 200, 150_000).astype(np.float64)
    few = given(values[:1000], 100, weights[:1000]).quantiles(POINTS)
    repeated = np.sort(np.repeat(values[:1000], weights[:1000].astype(int)))
    assert few == [repeated[int(np.ceil(q * len(repeated))) - 1] for q in POINTS]
    many = given(values, 20_000, weights).quantiles(POINTS)
    everything = np.quantile(np.repeat(values, weights.astype(int)), POINTS)
    assert many == pytest.approx(everything, rel=0.0015)


def test_what_is_kept_does_not_grow() -> None:
    found = Spread()
    for part in range(40):
        found.add(np.random.default_rng(part).lognormal(0, 1, 30_000))
        assert sum(map(len, found._parts)) <= EXACT
    assert len(found._sketch._store.bins) < 20_000


@pytest.mark.parametrize("sizes", [(10, 20), (50_000, 30_000), (200_000, 10), (10, 200_000), (300_000, 200_000)])
def test_merging_is_taking_everything(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    first, second = (rng.lognormal(0, 1, n) for n in sizes)
    merged = given(first, 7000)
    merged.merge(given(second, 7000))
    assert merged.count == sum(sizes)
    everything = np.concatenate([first, second])
    assert merged.quantiles(POINTS) == given(everything, 11_111).quantiles(POINTS)
    assert merged.quantiles(POINTS) == given(rng.permutation(everything), 50_000).quantiles(POINTS)
