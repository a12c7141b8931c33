"""RecordedBlocks: what is written is what is read, and what does not fit is refused in one line."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import DsimError, ProfileError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.replay import lay_out

KEY = b"dsim.recorded_blocks"


def make(seed: int = 0, gamma: int = 3, lengths: tuple[int, ...] = (4, 1, 3), confidence: bool = True, acceptance: bool = True,
         proposals: bool = False) -> RecordedBlocks:  # fmt: skip
    """Three sequences of two domains by default; values are exact in float32, as files hold them."""
    luck = np.random.default_rng(seed)
    rows, length = sum(lengths), np.array(lengths)
    accepted = luck.integers(0, gamma + 1, rows)
    q = luck.integers(0, 257, (rows, gamma)) / 256
    sure = luck.integers(1, 256, (rows, gamma)) / 256
    proposed = luck.integers(accepted, gamma + 1) if proposals else None
    there = np.arange(gamma) < (np.full(rows, gamma) if proposed is None else proposed)[:, None]
    return RecordedBlocks(
        drafter="DSpark", gamma=gamma, temperature=1.0, provenance="synthetic", source="test",
        domains=("math", "chat") if len(lengths) > 1 else ("math",), sequence_domain=np.arange(len(lengths)) % 2,
        first_row=np.cumsum(length) - length, length=length, accepted=accepted,
        confidence=np.where(there, sure, 0.0) if confidence else None,
        acceptance=np.where((np.arange(gamma) <= accepted[:, None]) & there, q, np.nan) if acceptance else None, proposed=proposed,
    )  # fmt: skip


def assert_same(one: RecordedBlocks, other: RecordedBlocks) -> None:
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name, strict=True)
        else:
            assert value == getattr(other, name), name


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    gamma=st.integers(1, 7),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    parts=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int, gamma: int, lengths: list[int], parts: tuple[bool, bool, bool]) -> None:
    path = tmp_path_factory.mktemp("blocks") / "blocks.parquet"
    blocks = make(seed, gamma, tuple(lengths), *parts)
    blocks.save(path)
    assert_same(blocks, RecordedBlocks.load(path))


def test_same_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blocks.parquet"
    make(0).save(path)
    before = path.read_bytes()

    def torn(table: pa.Table, where: str, **_: Any) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(DsimError, match=r"blocks\.parquet: cannot write \(No space left on device\); free space, or"):
        make(1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["blocks.parquet"]


def test_columns_are_those_of_the_specification(tmp_path: Path) -> None:
    make(gamma=2).save(tmp_path / "b")
    names = pq.read_schema(tmp_path / "b").names
    assert names == ["sequence", "anchor", "domain", "accepted", "confidence_1", "confidence_2", "acceptance_1", "acceptance_2"]
    about = json.loads(pq.read_schema(tmp_path / "b").metadata[KEY])
    assert about == {"version": 1, "drafter": "DSpark", "gamma": 2, "temperature": 1.0, "provenance": "synthetic", "source": "test"}


def put(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    """The table with one cell changed."""
    values = table.column(name).to_pylist()
    values[row] = value
    kind = pa.int32() if isinstance(value, int) else table.column(name).type
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


def about(table: pa.Table, **changes: Any) -> pa.Table:
    return table.replace_schema_metadata({KEY: json.dumps({**json.loads(table.schema.metadata[KEY]), **changes})})


REFUSALS = {
    "missing accepted": (lambda t: t.drop_columns(["accepted"]), ["accepted", "missing"]),
    "missing domain": (lambda t: t.drop_columns(["domain"]), ["domain", "missing"]),
    "one confidence short": (lambda t: t.drop_columns(["confidence_2"]), ["confidence_2", "missing"]),
    "no metadata": (lambda t: t.replace_schema_metadata(None), ["dsim.recorded_blocks"]),
    "metadata not JSON": (lambda t: t.replace_schema_metadata({KEY: b"{"}), ["metadata", "JSON"]),
    "future version": (lambda t: about(t, version=3), ["version", "at most 2, got 3"]),
    "unknown provenance": (lambda t: about(t, provenance="guessed"), ["guessed", "measured"]),
    "gamma zero": (lambda t: about(t, gamma=0), ["gamma"]),
    "gamma too long": (lambda t: about(t, gamma=4), ["confidence_4", "missing"]),
    "negative temperature": (lambda t: about(t, temperature=-1), ["temperature"]),
    "accepted above gamma": (lambda t: put(t, "accepted", 5, 4), ["accepted", "row 5", "0 … 3", "4"]),
    "accepted negative": (lambda t: put(t, "accepted", 2, -1), ["accepted", "row 2"]),
    "accepted empty": (lambda t: put(t, "accepted", 2, None), ["accepted", "row 2", "empty"]),
    "accepted not whole": (lambda t: t.set_column(3, "accepted", t.column("accepted").cast(pa.float32())), ["accepted", "whole"]),
    "anchors not from 0": (lambda t: put(t, "anchor", 0, 1), ["anchor", "row 0"]),
    "anchors out of order": (lambda t: t.take([0, 2, 1, 3, 4, 5, 6, 7]), ["anchor", "row 1"]),
    "anchor skipped": (lambda t: t.take([0, 1, 3, 4, 5, 6, 7]), ["anchor", "row 2"]),
    "sequence comes back": (lambda t: pa.concat_tables([t, t.slice(0, 4)]), ["sequence", "row 8", "contiguous"]),
    "two domains": (lambda t: put(t, "domain", 6, "code"), ["domain", "row 6", "code"]),
    "confidence 1": (lambda t: put(t, "confidence_3", 4, 1.0), ["confidence_3", "row 4", "1.0"]),
    "confidence empty": (lambda t: put(t, "confidence_1", 3, None), ["confidence_1", "row 3"]),
    "confidence text": (lambda t: t.set_column(4, "confidence_1", t.column("confidence_1").cast(pa.string())), ["confidence_1", "floating"]),
    "acceptance above 1": (lambda t: put(t, "acceptance_1", 7, 1.5), ["acceptance_1", "row 7"]),
    "acceptance missing": (lambda t: put(t, "acceptance_1", 7, None), ["acceptance_1", "row 7"]),
    "no rows": (lambda t: t.slice(0, 0), ["no rows"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    change, expected = REFUSALS[case]
    path = tmp_path / "blocks.parquet"
    make().save(path)
    pq.write_table(change(pq.read_table(path)), path)  # type: ignore[no-untyped-call]
    with pytest.raises(ProfileError) as caught:
        RecordedBlocks.load(path)
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    assert ";" in line, "names no remedy"
    for part in expected:
        assert part in line


PROPOSALS = {
    "more than a block": (lambda t: put(t, "proposed", 4, 4), ["proposed", "row 4", "0 … 3", "4"]),
    "empty": (lambda t: put(t, "proposed", 1, None), ["proposed", "row 1", "empty"]),
    "fewer than accepted": (lambda t: put(t, "accepted", 3, 3), ["accepted", "row 3", "at most what is proposed", "3"]),
    "confidence beyond": (lambda t: put(t, "confidence_3", 3, 0.5), ["confidence_3", "row 3", "0 beyond"]),
    "no confidence where proposed": (lambda t: put(t, "confidence_1", 3, 0.0), ["confidence_1", "row 3", "between 0 and 1"]),
    "acceptance beyond": (lambda t: put(t, "acceptance_3", 3, 0.5), ["acceptance_3", "row 3"]),
}


@pytest.mark.parametrize("case", PROPOSALS)
def test_what_is_not_proposed_is_not_accepted(tmp_path: Path, case: str) -> None:
    """Row 3 proposes two tokens, of which both are accepted."""
    change, expected = PROPOSALS[case]
    blocks, path = make(proposals=True), tmp_path / "blocks.parquet"
    assert blocks.proposed is not None
    assert blocks.confidence is not None
    assert blocks.acceptance is not None
    blocks.proposed[3] = blocks.accepted[3] = 2
    blocks.confidence[3], blocks.acceptance[3] = (0.5, 0.25, 0.0), (0.5, 0.25, np.nan)
    blocks.save(path)
    assert_same(blocks, RecordedBlocks.load(path))
    pq.write_table(change(pq.read_table(path)), path)  # type: ignore[no-untyped-call]
    with pytest.raises(ProfileError) as caught:
        RecordedBlocks.load(path)
    for part in (str(path), *expected):
        assert part in str(caught.value)


def test_rules_see_nothing_beyond_what_is_proposed() -> None:
    """Without confidences: the survival of what was proposed so far, here by hand; with them: their products, 0 beyond."""
    count, none = np.array([4]), np.array([0])
    taken, proposed = np.array([0, 1, 2, 0]), np.array([0, 1, 2, 2])
    plain = RecordedBlocks("ngram", 2, 0.0, "synthetic", "test", ("a",), none, none, count, taken, proposed=proposed)
    first, second = 2 / 3, 1.0  # slot 1 is proposed in three rows, slot 2 in one that reached it
    np.testing.assert_allclose(plain.proposed_survival(), [[0, 0], [first, 0], [first, first * second], [first, first * second]])
    drawn = lay_out(plain, None, False, 0, 0)
    np.testing.assert_array_equal(drawn.survival[:-1], plain.proposed_survival())
    assert drawn.proposed is not None
    assert drawn.proposed.tolist() == [0, 1, 2, 2, 2]
    sure = replace(plain, confidence=np.where(plain.is_proposed, 0.5, 0.0))
    for temperatures in (None, [2.0, 0.3]):
        drawn = lay_out(sure, temperatures, False, 0, 0)
        assert drawn.confidence is not None
        np.testing.assert_array_equal(drawn.survival, [[0, 0], [0.5, 0], [0.5, 0.25], [0.5, 0.25], [1, 1]])
        np.testing.assert_array_equal(drawn.confidence, [[0, 0], [0.5, 0], [0.5, 0.5], [0.5, 0.5], [1, 1]])
    assert lay_out(make(), None, False, 0, 0).proposed is None


def test_acceptance_after_the_draw_is_refused(tmp_path: Path) -> None:
    blocks = make()
    row = int(np.flatnonzero(blocks.accepted < 2)[0])
    blocks.save(tmp_path / "b")
    pq.write_table(put(pq.read_table(tmp_path / "b"), "acceptance_3", row, 0.5), tmp_path / "b")
    with pytest.raises(ProfileError, match=f"acceptance_3: row {row}"):
        RecordedBlocks.load(tmp_path / "b")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not parquet")
    for name in ("text", "nothing", ""):
        with pytest.raises(ProfileError, match=str(tmp_path)):
            RecordedBlocks.load(tmp_path / name)


def test_dictionary_domains_and_any_sequence_names_are_read(tmp_path: Path) -> None:
    make().save(tmp_path / "b")
    table = pq.read_table(tmp_path / "b")
    table = table.set_column(2, "domain", table.column("domain").dictionary_encode())
    table = table.set_column(0, "sequence", pa.array([7] * 4 + [3] + [99] * 3))
    pq.write_table(table, tmp_path / "c")
    assert_same(make(), RecordedBlocks.load(tmp_path / "c"))


def test_sequences_of() -> None:
    blocks = make()
    assert blocks.sequences_of("").tolist() == [0, 1, 2]
    assert blocks.sequences_of("math").tolist() == [0, 2]
    with pytest.raises(ProfileError, match=r"'poetry'.*domains: math, chat"):
        blocks.sequences_of("poetry")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), temperatures=st.lists(st.floats(0.2, 5), min_size=3, max_size=3))
def test_survival_is_the_product_of_scaled_confidences(seed: int, temperatures: list[float]) -> None:
    blocks = make(seed)
    assert blocks.confidence is not None
    logit = np.log(blocks.confidence / (1 - blocks.confidence)) / np.array(temperatures)
    np.testing.assert_allclose(blocks.conditional(temperatures), 1 / (1 + np.exp(-logit)), rtol=1e-12)
    survival = blocks.survival(temperatures)
    np.testing.assert_allclose(survival[:, -1], np.prod(blocks.conditional(temperatures), axis=1))
    assert np.all(np.diff(survival, axis=1) <= 0)
    np.testing.assert_allclose(blocks.survival([1.0] * 3), blocks.survival(None), rtol=1e-12)


def test_mean_survival_counts_rows() -> None:
    blocks = make(3, lengths=(50, 70))
    expected = [sum(a >= k for a in blocks.accepted.tolist()) / 120 for k in (1, 2, 3)]
    np.testing.assert_allclose(blocks.mean_survival(), expected)


def test_no_confidence_head_and_bad_temperatures_are_refused() -> None:
    with pytest.raises(ProfileError, match=r"DSpark.*no confidence head"):
        make(confidence=False).survival()
    for temperatures in ([1.0, 1.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ProfileError, match="3 positive temperatures"):
            make().survival(temperatures)
