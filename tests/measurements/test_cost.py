"""Step costs: curves, staircases and tables by hand, the price of a round against direct evaluation, and every refusal of a table."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.errors import ProfileError
from simulator.measurements.cost import Costs, DraftTable, FittedCurve, LinearDraft, LinearPrefill, MeasuredTable, Overhead, PrefillTable
from simulator.measurements.cost_table import read_cost_table
from simulator.measurements.prices import RoundCost

MADE: Any = {"provenance": "synthetic"}


def curve(**more: Any) -> FittedCurve:
    return FittedCurve.model_validate({**MADE, "base_s": 0.01, "per_token_s": 0.001, "measured_tokens": (1, 512)} | more)


def table(folder: Path, text: str, between: Any = "step") -> MeasuredTable:
    (folder / "verify.csv").write_text(text)
    cost = MeasuredTable(**MADE, file="verify.csv", between=between)
    cost.attach(folder)
    return cost


def round_cost(verify: Any, draft: Any = None, gamma: int = 3, slots: int = 2, overhead: float = 0.002, prefill: Any = None) -> RoundCost:
    return RoundCost(Costs(verify=verify, prefill=prefill, overhead=Overhead(**MADE, seconds=overhead)), draft, gamma, slots)


def test_a_fitted_curve_by_hand() -> None:
    bent = curve(concave_s=0.02, concave_tokens=10.0, per_context_token_s=1e-6, cliffs=[{"tokens": 16, "add_s": 0.5}, {"tokens": 64, "add_s": 0.25}])
    assert curve().seconds([0, 1, 10]).tolist() == pytest.approx([0.01, 0.011, 0.02])
    expected = [0.01 + 0.001 * b + 0.02 * (1 - np.exp(-b / 10)) + jump + 1e-6 * 4 * 1000 for b, jump in ((16, 0), (17, 0.5), (64, 0.5), (65, 0.75))]
    assert bent.seconds([16, 17, 64, 65], requests=4, context_tokens=1000).tolist() == pytest.approx(expected)
    assert (curve().varies_with, bent.varies_with, bent.tokens_range()) == ("tokens", "context", (1, 512))


def test_a_shared_cache_costs_tokens_times_all_cached_tokens() -> None:
    """llama.cpp's unified cache: 6 tokens of 3 requests go through 3 × 200 cells each; twice the requests are twice the cells for each token."""
    shared = curve(per_token_cell_s=1e-7)
    assert shared.seconds([6, 12], requests=3, context_tokens=200).tolist() == pytest.approx([0.01 + 6e-3 + 6 * 6e-5, 0.01 + 12e-3 + 12 * 6e-5])
    assert shared.seconds(12, requests=6, context_tokens=200) == pytest.approx(0.01 + 12e-3 + 12 * 12e-5)
    assert shared.varies_with == "shape"


def test_a_staircase_pads_up_to_the_next_captured_size(tmp_path: Path) -> None:
    cost = table(tmp_path, "tokens,p50_s\n8,0.02\n1,0.01\n4,0.015\n")
    assert cost.seconds([0, 1, 1.5, 2, 4, 5, 8]).tolist() == [0.01, 0.01, 0.015, 0.015, 0.015, 0.02, 0.02]
    assert cost.seconds([12, 16]).tolist() == pytest.approx([0.02 + 4 * 0.005 / 4, 0.02 + 8 * 0.005 / 4])  # the last slope goes on
    assert cost.tokens_range() == (1, 8)


def test_a_linear_table_interpolates(tmp_path: Path) -> None:
    cost = table(tmp_path, "tokens,p50_s\n1,0.01\n5,0.03\n9,0.04\n", "linear")
    assert cost.seconds([0, 1, 3, 5, 7, 9, 13]).tolist() == pytest.approx([0.01, 0.01, 0.02, 0.03, 0.035, 0.04, 0.05])


def test_a_table_that_falls_at_its_end_is_carried_on_flat(tmp_path: Path) -> None:
    assert table(tmp_path, "tokens,p50_s\n1,0.02\n5,0.01\n").seconds([100]).tolist() == [0.01]
    assert table(tmp_path, "tokens,p50_s\n4,0.02\n").seconds([1, 4, 100]).tolist() == [0.02] * 3


def test_eager_rows_are_the_cliff_above_the_graphs_and_nothing_below(tmp_path: Path) -> None:
    """The eager row at 4 tokens is slower than the graph there and must not be used; above 8 tokens eager is all there is."""
    text = "tokens,p50_s,regime\n1,0.01,graph\n8,0.02,graph\n4,0.09,eager\n16,0.10,eager\n32,0.14,eager\n"
    for between in ("step", "linear"):
        cost = table(tmp_path, text, between)
        assert cost.seconds([8]).tolist() == [0.02]
        assert cost.seconds([4])[0] <= 0.02
        assert cost.seconds([10, 16, 24, 32, 40]).tolist() == pytest.approx([0.095, 0.10, 0.12, 0.14, 0.16])


def test_context_and_requests_are_interpolated_between_grid_points_and_held_outside(tmp_path: Path) -> None:
    rows = ["tokens,requests,context_tokens,p50_s"]
    rows += [f"{t},{r},{c},{0.01 * t + 0.001 * r + 1e-5 * c}" for t in (1, 9) for r in (2, 4) for c in (100, 300)]
    cost = table(tmp_path, "\n".join(rows) + "\n", "linear")
    assert cost.varies_with == "shape"
    for requests, context in ((2, 100), (3, 100), (3.5, 250), (4, 300)):
        assert cost.seconds([5], requests, context).tolist() == pytest.approx([0.05 + 0.001 * requests + 1e-5 * context])
    assert cost.seconds([5], 1, 0).tolist() == cost.seconds([5], 2, 100).tolist()
    assert cost.seconds([5], 99, 9999).tolist() == cost.seconds([5], 4, 300).tolist()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    of_tokens=st.lists(st.floats(0.0, 0.05), min_size=64, max_size=64),
    of_requests=st.tuples(st.floats(0.0, 0.1), st.floats(0.0, 0.01)),
    requests=st.integers(1, 16),
    context=st.floats(0, 2000),
)
def test_between_numbers_of_requests_a_table_is_exact_for_any_rising_cost_of_tokens_plus_one_of_requests(
    of_tokens: list[float], of_requests: tuple[float, float], requests: int, context: float
) -> None:
    """Curves at 1, 2, 4, 8, 16 requests hold R … 4R tokens only: at 3 requests neither neighbour covers all of 3 … 12, cliffs included."""
    rising = 0.01 + np.cumsum(of_tokens)

    def true(tokens: Any, at: float, held: float) -> Any:
        return rising[np.asarray(tokens) - 1] + of_requests[0] * at + of_requests[1] * at * held / 1000

    rows = ["tokens,requests,context_tokens,p50_s"]
    rows += [f"{t},{r},{c},{float(true(t, r, c))!r}" for r in (1, 2, 4, 8, 16) for t in range(r, 4 * r + 1) for c in (100, 1000)]
    with TemporaryDirectory() as folder:
        cost = table(Path(folder), "\n".join(rows) + "\n", "linear")
    tokens = np.arange(requests, 4 * requests + 1)
    found = cost.seconds(tokens, requests, context)
    np.testing.assert_allclose(found, true(tokens, requests, min(max(context, 100), 1000)), rtol=1e-9)
    assert (np.diff(found) >= -1e-12).all()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(times=st.lists(st.floats(0.001, 0.1), min_size=12, max_size=12), tokens=st.floats(1, 9), requests=st.floats(1, 6), context=st.floats(0, 90))
def test_a_table_stays_within_its_neighbours_and_on_its_points(times: list[float], tokens: float, requests: float, context: float) -> None:
    """Where all curves cover the tokens asked for."""
    places = [(t, r, c) for t in (1, 9) for r in (1, 3, 6) for c in (10, 80)]
    with TemporaryDirectory() as folder:
        text = "\n".join(f"{t},{r},{c},{s!r}" for (t, r, c), s in zip(places, times, strict=True))
        cost = table(Path(folder), f"tokens,requests,context_tokens,p50_s\n{text}\n", "linear")
    assert min(times) - 1e-12 <= float(cost.seconds(tokens, requests, context)) <= max(times) + 1e-12
    for (t, r, c), known in zip(places, times, strict=True):
        assert float(cost.seconds(t, r, c)) == pytest.approx(known, rel=1e-12)


def test_steps_and_contexts_are_padded_as_the_engine_pads_them(tmp_path: Path) -> None:
    """Sizes 4, 8, 16 and 32 are captured, 4, 8 and 32 measured; contexts up to 100 and 1000."""
    rows = "\n".join(f"{t},{c},{0.01 * t + 0.0001 * c}" for t in (4, 8, 32) for c in (100, 1000))
    (tmp_path / "verify.csv").write_text(f"tokens,context_tokens,p50_s\n{rows}\n")
    cost = MeasuredTable(**MADE, file="verify.csv", between="linear", contexts="step", padded_to=[4, 8, 16, 32])
    cost.attach(tmp_path)
    assert cost.seconds([1, 4, 5, 8, 9, 16, 17, 32], 1, 100).tolist() == pytest.approx([0.05, 0.05, 0.09, 0.09, 0.17, 0.17, 0.33, 0.33])
    assert [float(cost.seconds(4, 1, c)) for c in (0, 100, 101, 1000, 5000)] == pytest.approx([0.05, 0.05, 0.14, 0.14, 0.14])


def test_the_corner_that_memory_cut_off_is_carried_on_and_any_other_hole_refused(tmp_path: Path) -> None:
    def rows(*missing: tuple[int, int]) -> str:
        cells = [(t, r, c) for r in (2, 4, 8) for c in (10, 20, 40) if (r, c) not in missing for t in (r, 3 * r)]
        return "tokens,requests,context_tokens,p50_s\n" + "\n".join(f"{t},{r},{c},{0.01 * t + 0.001 * r * c}" for t, r, c in cells) + "\n"

    cost = table(tmp_path, rows((8, 20), (8, 40), (4, 40)), "linear")
    for requests, context in ((8, 40), (8, 20), (4, 40), (8, 30)):
        assert float(cost.seconds(12, requests, context)) == pytest.approx(0.12 + 0.001 * requests * context)
    for hole in ((2, 40), (8, 10), (4, 20)):
        with pytest.raises(ProfileError, match=rf"no rows for requests {hole[0]} at context {hole[1]}; measure the missing cells"):
            table(tmp_path, rows(hole))


def test_a_table_without_graphs_is_all_eager(tmp_path: Path) -> None:
    cost = table(tmp_path, "tokens,p50_s,regime\n1,0.1,eager\n5,0.2,eager\n", "linear")
    assert cost.seconds([1, 3, 5]).tolist() == pytest.approx([0.1, 0.15, 0.2])


def test_what_a_table_varies_with(tmp_path: Path) -> None:
    assert table(tmp_path, "tokens,p50_s\n1,0.1\n").varies_with == "tokens"
    assert table(tmp_path, "tokens,requests,p50_s\n1,1,0.1\n").varies_with == "tokens"
    assert table(tmp_path, "tokens,context_tokens,p50_s\n1,0,0.1\n1,8,0.1\n").varies_with == "context"
    assert table(tmp_path, "tokens,requests,p50_s\n1,1,0.1\n1,2,0.1\n").varies_with == "shape"


def test_draft_costs(tmp_path: Path) -> None:
    linear = LinearDraft(**MADE, base_s=0.001, per_request_s=1e-4, per_slot_s=2e-4, per_slot_request_s=1e-5)
    assert linear.seconds(10, 0, 3) == pytest.approx(0.001 + 1e-3 + 6e-4 + 3e-4)
    (tmp_path / "draft.csv").write_text("requests,context_tokens,p50_s\n1,0,0.01\n9,0,0.02\n1,100,0.03\n9,100,0.04\n")
    measured = DraftTable(**MADE, file="draft.csv")
    measured.attach(tmp_path)
    assert measured.seconds(5, 50, 1) == pytest.approx(0.025)
    assert measured.seconds(5, 50, 7) == measured.seconds(5, 50, 1)  # a block is drafted whole
    linear.attach(tmp_path)  # which reads nothing


def test_drafting_by_parts_prices_the_slots_and_the_taking_in(tmp_path: Path) -> None:
    (tmp_path / "draft.csv").write_text("requests,p50_s\n1,0.01\n9,0.02\n")
    (tmp_path / "head.csv").write_text("requests,slots,p50_s\n1,1,0.001\n1,5,0.005\n9,1,0.003\n9,5,0.007\n")
    (tmp_path / "absorb.csv").write_text("tokens,context_tokens,p50_s\n1,0,0.001\n41,0,0.005\n1,100,0.003\n41,100,0.007\n")
    draft = DraftTable(**MADE, file="draft.csv", head="head.csv", absorb="absorb.csv")
    draft.attach(tmp_path)
    assert draft.seconds(5, 0, 3) == pytest.approx(0.015 + (0.003 + 0.005) / 2)
    assert draft.absorb_s([1, 21, 41], 50).tolist() == pytest.approx([0.002, 0.004, 0.006])
    for slots in (1, 3):
        cost = round_cost(curve(), draft, slots=slots)
        expected = curve().seconds(np.arange(5, 21)) + draft.seconds(5, 50, slots) + draft.absorb_s(np.arange(5, 21), 50) + 0.002
        assert cost.round_s(5, 50.0).tolist() == pytest.approx(expected.tolist())
        assert cost.draft_s(5, 50.0) == pytest.approx(draft.seconds(5, 50, slots))
    assert round_cost(curve(), draft, slots=0).round_s(5, 50.0).tolist() == pytest.approx((curve().seconds(np.arange(5, 21)) + 0.002).tolist())


def test_overhead_grows_with_the_requests() -> None:
    costs = Costs(verify=curve(), overhead=Overhead(**MADE, seconds=0.002, per_request_s=0.001))
    assert RoundCost(costs, None, 0, 0).round_s(4, 0.0).tolist() == pytest.approx([0.014 + 0.002 + 0.004])


def test_prefill_costs_and_chunks(tmp_path: Path) -> None:
    linear = LinearPrefill(**MADE, base_s=0.01, per_token_s=0.001, per_token_context_s=1e-6)
    assert linear.seconds(100, 50) == pytest.approx(0.01 + 100 * (0.001 + 5e-5))
    cost = round_cost(curve(), prefill=linear)
    assert cost.chunk_s(100, 50, beside=0) == pytest.approx(linear.seconds(100, 50))
    assert cost.chunk_s(100, 50, beside=7) == pytest.approx(linear.seconds(100, 50) - 0.01)
    (tmp_path / "prefill.csv").write_text("tokens,context_tokens,p50_s\n1,0,0.01\n101,0,0.11\n1,1000,0.02\n101,1000,0.13\n")
    measured = PrefillTable(**MADE, file="prefill.csv")
    measured.attach(tmp_path)
    assert measured.seconds(51, 51 / 2) == pytest.approx(0.06)  # attends to nothing but itself: nothing cached before it
    assert measured.seconds(51, 500 + 51 / 2) == pytest.approx((0.06 + 0.075) / 2)


def test_prompts_that_run_apart_pay_their_fixed_part_beside_a_decoding_step_too(tmp_path: Path) -> None:
    for shared in (LinearPrefill(**MADE, base_s=0.01, per_token_s=0.001), _prefill_table(tmp_path)):
        apart = shared.model_copy(update={"apart": True})
        alone = shared.seconds(100, 50)
        assert round_cost(curve(), prefill=apart).chunk_s(100, 50, beside=7) == pytest.approx(alone)
        assert round_cost(curve(), prefill=shared).chunk_s(100, 50, beside=7) == pytest.approx(alone - shared.seconds(0))


def test_a_prompt_s_features_are_taken_into_the_draft_cache_of_the_policy_that_drafts(tmp_path: Path) -> None:
    for name, text in (("draft", "requests,p50_s\n1,0.01\n"), ("absorb", "tokens,p50_s\n1,0.001\n101,0.021\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    draft = DraftTable(**MADE, file="draft.csv", absorb="absorb.csv")
    draft.attach(tmp_path)
    prefill = LinearPrefill(**MADE, base_s=0.01, per_token_s=0.001, apart=True)
    assert round_cost(curve(), draft, prefill=prefill).prefill_s(51, 25.5) == pytest.approx(0.061 + 0.011)
    assert round_cost(curve(), draft, prefill=prefill).chunk_s(51, 25.5, beside=7) == pytest.approx(0.061 + 0.011)
    assert round_cost(curve(), draft, slots=0, prefill=prefill).prefill_s(51, 25.5) == pytest.approx(0.061)
    assert round_cost(curve(), prefill=prefill).prefill_s(51, 25.5) == pytest.approx(0.061)


def _prefill_table(folder: Path) -> PrefillTable:
    (folder / "prefill.csv").write_text("tokens,p50_s\n1,0.01\n101,0.11\n")
    measured = PrefillTable(**MADE, file="prefill.csv")
    measured.attach(folder)
    return measured


def test_no_prefill_cost_is_refused_when_asked_for() -> None:
    with pytest.raises(ProfileError, match=r"^costs\.prefill: has no prefill cost; measure it, or use prefill: \{kind: instant\}$"):
        round_cost(curve()).prefill_s(10)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    asked=st.lists(st.tuples(st.integers(1, 40), st.just(0.0) | st.floats(1, 5e4)), min_size=1, max_size=12),
    kind=st.sampled_from(["flat", "context", "shape"]),
)
def test_the_price_of_a_round_is_draft_plus_verify_plus_overhead_however_it_is_cached(asked: list[tuple[int, float]], kind: str) -> None:
    """Asked in any order. Context is rounded to 8 bits: at most 0.4 % of what the context costs."""
    draft = LinearDraft(**MADE, base_s=0.001, per_request_s=1e-4, per_slot_s=2e-4, per_slot_request_s=1e-5)
    verify = curve(per_context_token_s=0.0 if kind == "flat" else 1e-6, cliffs=[{"tokens": 20, "add_s": 0.1}])
    if kind == "shape":
        verify = _Shaped.model_validate(verify.model_dump())
    cost = round_cost(verify, draft)
    for requests, context in asked:
        found = cost.round_s(requests, context)
        assert found.shape == (requests * 3 + 1,)
        expected = verify.seconds(requests + np.arange(requests * 3 + 1), requests, context) + draft.seconds(requests, context, 2) + 0.002
        slack = 0.004 * verify.per_context_token_s * requests * context + 1e-12
        assert np.abs(found - expected).max() <= slack
        assert cost.draft_s(requests, context) == draft.seconds(requests, context, 2)
    assert (cost.draft_s(0, 0), round_cost(curve()).draft_s(5, 0)) == (0.0, 0.0)


class _Shaped(FittedCurve):
    """A curve that depends on requests as well."""

    @property
    def varies_with(self) -> Any:
        return "shape"

    def seconds(self, tokens: Any, requests: float = 1, context_tokens: float = 0) -> Any:
        return super().seconds(tokens, requests, context_tokens) + 1e-4 * requests**2


def test_a_table_in_a_round_cost_is_that_table(tmp_path: Path) -> None:
    rows = ["tokens,requests,p50_s"] + [f"{t},{r},{0.01 * t + 0.003 * r}" for t in (1, 4, 16, 64) for r in (1, 8)]
    verify = table(tmp_path, "\n".join(rows) + "\n")
    cost = round_cost(verify)
    for requests in (5, 1, 8, 5):
        expected = verify.seconds(requests + np.arange(3 * requests + 1), requests, 0) + 0.002
        assert cost.round_s(requests, 0.0).tolist() == pytest.approx(expected.tolist())


def test_costs_refuse_what_makes_no_sense() -> None:
    for wrong in (
        {"base_s": -1},
        {"base_s": float("inf")},
        {"measured_tokens": (0, 5)},
        {"concave_tokens": 0},
        {"cliffs": [{"tokens": 0, "add_s": 1}]},
    ):
        with pytest.raises(ValidationError):
            curve(**wrong)
    with pytest.raises(ValidationError, match=r"measured_tokens must be \[lowest, highest\]"):
        Costs(verify=curve(measured_tokens=(9, 5)), overhead=Overhead(**MADE))


REFUSALS = {
    "tokens,p90_s\n1,0.1\n": ": p50_s: column is missing; columns found: tokens, p90_s",
    "requests,p50_s\n1,0.1\n": ": tokens: column is missing; columns found: requests, p50_s",
    "tokens,p50_s\n": ": has no rows",
    "tokens,p50_s\n1,0.1\n2,-0.1\n": ":3: p50_s: must be a positive number (got -0.1)",
    "tokens,p50_s\n1,0.1\n2,0\n": ":3: p50_s: must be a positive number (got 0.0)",
    "tokens,p50_s\n0,0.1\n2,1\n": ":2: tokens: must be a positive number (got 0)",
    "tokens,p50_s\n1,0.1\n2,\n": ":3: p50_s: must be a positive number (got nan)",
    "tokens,p50_s\n1,0.1\n2,inf\n": ":3: p50_s: must be a positive number (got inf)",
    "tokens,p50_s\n1,0.1\n2,fast\n": ":3: p50_s: must be a positive number (got 'fast')",
    "# measured\ntokens,p50_s\n1,0.1\n\n# more\n2,fast\n": ":6: p50_s: must be a positive number (got 'fast')",
    "tokens,p50_s,p10_s\n1,0.1,0\n": ":2: p10_s: must be a positive number (got 0)",
    "tokens,p50_s,n\n1,0.1,-3\n": ":2: n: must be a number of at least 0 (got -3)",
    "tokens,p50_s,requests\n1,0.1,x\n": ":2: requests: must be a number of at least 0 (got 'x')",
    "tokens,p10_s,p50_s,p90_s\n1,0.1,0.2,0.3\n2,0.1,0.05,0.3\n": ":3: p50_s: quantiles are out of order (p10 ≤ p50 ≤ p90)",
    "tokens,p50_s\n1,0.1\n1e21,0.2\n": ":3: tokens: expected 0.001 to 100,000,000 tokens, got 1e+21",
    "tokens,p50_s\n1,0.1\n2,1e308\n": ":3: p50_s: expected 1e-09 to 1,000 seconds, got 1e+308",
    "tokens,p50_s\n1e-320,0.1\n": ":2: tokens: expected 0.001 to 100,000,000 tokens, got 9.99989e-321",
    "tokens,context_tokens,p50_s\n1,0,0.1\n1,1e300,0.1\n": ":3: context_tokens: expected 0 to 100,000,000 tokens, got 1e+300",
    "tokens,p50_s\n1,0.1\n2,0.2\n1,0.3\n": ": tokens: tokens 1 appears twice at the same requests and context",
    "tokens,requests,p50_s,regime\n1,1,0.1,graph\n2,2,0.1,eager\n": ": regime: no captured row at requests 2, context 0",
    "tokens,requests,context_tokens,p50_s\n1,1,0,0.1\n1,2,8,0.1\n": ": no rows for requests 1 at context 8; "
    "measure the missing cells or drop the column",
}


def test_a_table_of_too_many_cells_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "verify.csv"
    path.write_text("tokens,requests,context_tokens,p50_s\n" + "".join(f"8,{n},{n},0.1\n" for n in range(1, 20_000)))
    with pytest.raises(ProfileError, match="has 19,999 numbers of requests and 19,999 contexts, expected at most 1,000 pairs of them"):
        read_cost_table(path, "tokens", "step")


@pytest.mark.parametrize("text", REFUSALS)
def test_a_table_is_refused_in_one_line_with_file_line_and_column(tmp_path: Path, text: str) -> None:
    path = tmp_path / "verify.csv"
    path.write_text(text)
    with pytest.raises(ProfileError) as refused:
        read_cost_table(path, "tokens", "step")
    assert str(refused.value) == f"{path}{REFUSALS[text]}"


def test_a_table_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no\.csv: no such file; restore the file, or correct its name in profile\.yaml$"):
        read_cost_table(tmp_path / "no.csv", "tokens", "step")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00tokens")
    with pytest.raises(ProfileError, match=r"bytes\.csv: is not UTF-8 text"):
        read_cost_table(tmp_path / "bytes.csv", "tokens", "step")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ProfileError, match=r"empty\.csv: is empty"):
        read_cost_table(tmp_path / "empty.csv", "tokens", "step")
    (tmp_path / "ragged.csv").write_text("tokens,p50_s\n1,0.1\n2,0.1,7,8\n")
    with pytest.raises(ProfileError, match=r"ragged\.csv:3: expected 2 fields as in the header, got 4"):
        read_cost_table(tmp_path / "ragged.csv", "tokens", "step")


def test_a_table_of_a_draft_is_keyed_by_requests(tmp_path: Path) -> None:
    (tmp_path / "draft.csv").write_text("requests,p50_s\n1,0.1\n0,0.2\n")
    with pytest.raises(ProfileError, match=r"draft\.csv:3: requests: must be a positive number \(got 0\)$"):
        read_cost_table(tmp_path / "draft.csv", "requests", "linear")


def test_a_drafter_s_work_on_prompts_is_paid_by_the_policy_that_drafts() -> None:
    """2 ms a token; an engine that drafts at the end of a step pays a block in a step of prompts alone, not in one that decodes anyhow."""
    prefill = LinearPrefill(**MADE, base_s=0.01, per_token_s=0.001)
    draft = LinearDraft(**MADE, base_s=0.003, per_slot_s=0.002, per_prompt_token_s=0.002)
    block = 0.003 + 2 * 0.002
    for ahead, alone in ((None, 0.06 + 0.1), (True, 0.06 + 0.1 + block)):
        cost = round_cost(curve(), draft.model_copy(update={"ahead": ahead}), overhead=0.0, prefill=prefill)
        assert cost.prefill_s(50, 25) == pytest.approx(alone)
        assert cost.chunk_s(50, 25, beside=7) == pytest.approx(0.05 + 0.1)
        assert cost.round_s(1, 0.0)[0] == pytest.approx(curve().seconds(1) + block)  # rounds have no prompts
    assert round_cost(curve(), draft, slots=0, prefill=prefill).prefill_s(50, 25) == pytest.approx(0.06)
