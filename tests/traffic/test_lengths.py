"""Lengths: the statistics asked for are the statistics met, and a length belongs to its uniform alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simulator.errors import TraceError
from simulator.rng import stream
from simulator.schema import Frozen
from simulator.traffic.lengths import Empirical, Fixed, Lengths, Lognormal, Mixture, Part

GRID = (np.arange(200_000) + 0.5) / 200_000
BIMODAL = Mixture(
    parts=(
        Part(weight=3, lengths=Lognormal(mean_tokens=100, cv=0.5)),
        Part(weight=1, lengths=Mixture(parts=(Part(weight=1, lengths=Fixed(tokens=400)), Part(weight=1, lengths=Fixed(tokens=600))))),
    )
)


@pytest.mark.parametrize("pin, q", [({"p50_tokens": 1020}, 0.5), ({"p90_tokens": 2000}, 0.9), ({"p99_tokens": 4142}, 0.99), ({"cv": 0.7}, None)])
def test_a_lognormal_meets_what_pins_it(pin: dict[str, float], q: float | None) -> None:
    lengths = Lognormal(mean_tokens=1155, **pin)
    drawn = lengths.at(GRID)
    assert drawn.dtype == np.int64
    assert drawn.mean() == pytest.approx(1155, rel=1e-3)
    assert lengths.expected_tokens() == pytest.approx(1155, rel=1e-6)
    if q is None:
        assert drawn.std() / drawn.mean() == pytest.approx(0.7, rel=5e-3)
    else:
        assert np.quantile(drawn, q) == pytest.approx(next(iter(pin.values())), abs=1)


def test_clipping_is_met_and_known_to_the_mean() -> None:
    lengths = Lognormal(mean_tokens=50, cv=1.5, min_tokens=20, max_tokens=100)
    drawn = lengths.at(GRID)
    assert (drawn.min(), drawn.max()) == (20, 100)
    assert lengths.expected_tokens() == pytest.approx(drawn.mean(), rel=2e-3)
    assert abs(lengths.expected_tokens() - 50) > 5  # the clip matters here


@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30), cv=st.floats(0.01, 20), mean=st.floats(1, 1e6))
def test_a_lognormal_is_an_inverse_cdf(u: list[float], cv: float, mean: float) -> None:
    values = Lognormal(mean_tokens=mean, cv=cv).at(np.sort(u))
    assert np.all(np.diff(values) >= 0)
    assert values.min() >= 1


@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_a_length_belongs_to_its_uniform_alone(u: list[float]) -> None:
    together = BIMODAL.at(np.array(u))
    assert [int(BIMODAL.at(np.array([x]))[0]) for x in u] == together.tolist()
    assert BIMODAL.at(np.array(u)[:, None]).shape == (len(u), 1)


def test_a_mixture_gives_each_part_its_share_and_its_whole_distribution() -> None:
    drawn = BIMODAL.at(GRID)
    assert np.mean(drawn == 600) == pytest.approx(1 / 8, abs=1e-4)
    first = drawn[GRID < 0.75]
    assert first.mean() == pytest.approx(100, rel=1e-3)
    assert first.std() == pytest.approx(50, rel=5e-3)
    assert BIMODAL.expected_tokens() == pytest.approx(0.75 * 100 + 0.25 * 500)
    assert drawn.mean() == pytest.approx(BIMODAL.expected_tokens(), rel=1e-3)


def test_a_sample_has_the_mean() -> None:
    drawn = BIMODAL.at(stream(1, "lengths").random(40_000))
    assert abs(drawn.mean() - BIMODAL.expected_tokens()) < 4 * drawn.std() / 200


class Holder(Frozen):
    lengths: Lengths


def empirical(folder: Path, text: str, column: str = "tokens") -> Any:
    (folder / "lengths.csv").write_text(text)
    content = {"lengths": {"kind": "empirical", "path": "lengths.csv", "column": column}}
    return Holder.model_validate(content, context={"folder": folder}).lengths


def test_empirical_lengths_are_the_column(tmp_path: Path) -> None:
    lengths = empirical(tmp_path, "id,tokens\na,30\nb,10\nc,20\nd,20\n")
    assert isinstance(lengths, Empirical)
    assert lengths.at(np.array([0, 0.24, 0.25, 0.5, 0.75, np.nextafter(1, 0)])).tolist() == [10, 10, 20, 20, 30, 30]
    assert lengths.expected_tokens() == 20
    assert lengths.path == tmp_path / "lengths.csv"  # relative to the scenario, kept absolute
    assert Holder.model_validate(Holder(lengths=lengths).model_dump()).lengths == lengths


def test_lengths_of_0_are_dropped_on_request(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("tokens\n0\n10\n0\n30\n")
    assert Empirical(path=tmp_path / "t.csv", column="tokens", drop_empty_rows=True).expected_tokens() == 20
    (tmp_path / "t.csv").write_text("tokens\n0\n0\n0\n")
    with pytest.raises(TraceError, match="3 of 3 lengths are 0; use another column"):
        Empirical(path=tmp_path / "t.csv", column="tokens", drop_empty_rows=True)


@pytest.mark.parametrize(
    "text, column, line",
    [
        ("id,tokens\na,30\n", "token", "lengths.csv:1: token: column is missing; columns found: id, tokens"),
        ("id,tokens\na,30\nb,0\n", "tokens", "lengths.csv: tokens: 1 of 2 lengths is 0; set drop_empty_rows: true to leave them out"),
        ("id,tokens\na,-3\nb,0\n", "tokens", "lengths.csv:2: tokens: must be at least 0 (got -3)"),
        ("id,tokens\na,x\n", "tokens", "lengths.csv:2: tokens: not a number (got 'x')"),
        ("id,tokens\n", "tokens", "lengths.csv: has a header and no rows"),
    ],
)
def test_a_bad_column_is_one_line(tmp_path: Path, text: str, column: str, line: str) -> None:
    with pytest.raises(TraceError) as caught:
        empirical(tmp_path, text, column)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    "content, problem",
    [
        ({"kind": "fixed", "tokens": 0}, "above 0"),
        ({"kind": "lognormal", "mean_tokens": 9}, "; got none"),
        ({"kind": "lognormal", "mean_tokens": 9, "cv": 1, "p50_tokens": 5}, "got p50_tokens and cv"),
        ({"kind": "lognormal", "mean_tokens": 9, "p50_tokens": 9}, "p50 of a lognormal is below its mean"),
        ({"kind": "lognormal", "mean_tokens": 9, "p99_tokens": 9}, "p99_tokens must be between 9 and 134"),
        ({"kind": "lognormal", "mean_tokens": 9, "p90_tokens": 21}, "p90_tokens must be between 9 and 20.4"),
        ({"kind": "lognormal", "mean_tokens": 9, "cv": 1, "min_tokens": 5, "max_tokens": 4}, "max_tokens = 4 is below min_tokens = 5"),
        ({"kind": "mixture", "parts": []}, "at least 1 item"),
        ({"kind": "mixture", "parts": [{"weight": 0, "lengths": {"kind": "fixed", "tokens": 1}}]}, "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TypeAdapter(Lengths).validate_python(content)
