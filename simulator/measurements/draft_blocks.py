"""Recorded blocks: one drafted block at every position of a text, coupled to that text (docs/design.md, "Recorded blocks").

Longer than others, since what a file may hold stands beside what it becomes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import ProfileError
from simulator.files import whole
from simulator.measurements.cost_kind import Provenance
from simulator.quantities import Gamma, Temperature, Within
from simulator.reading.json_files import parse_json
from simulator.reading.parquet_files import read_parquet
from simulator.schema import Frozen, explain

if TYPE_CHECKING:
    import pyarrow as pa


_METADATA = b"dsim.recorded_blocks"
_RECORD = "record it again with `dsim profile`"
FEW_VALUES = 64  # of a column: then its values are written once, and rows as indices


@dataclass(frozen=True, eq=False)
class RecordedBlocks:
    """What one drafter would propose at every anchor of S recorded sequences, N rows in all; row = first_row[sequence] + anchor."""

    drafter: str
    gamma: int
    temperature: float | None
    provenance: str
    source: str
    domains: tuple[str, ...]
    sequence_domain: Integers  # [S], index into domains
    first_row: Integers  # [S]
    length: Integers  # [S], anchors
    accepted: Integers  # [N], A_i: drafted tokens accepted when all γ are verified
    confidence: Floats | None = None  # [N, γ], raw conditional confidences, 0 beyond what is proposed; None: the drafter has no confidence head
    acceptance: Floats | None = None  # [N, γ], q_k up to the first rejected slot, NaN after
    proposed: Integers | None = None  # [N], tokens that the drafter proposes, 0..γ; None: always γ

    def __post_init__(self) -> None:
        assert self.provenance in get_args(Provenance), self.provenance
        assert self.sequence_domain.shape == self.first_row.shape == self.length.shape
        assert self.length.sum() == len(self.accepted)
        for values in (self.confidence, self.acceptance):
            assert values is None or values.shape == (len(self.accepted), self.gamma)
        assert self.proposed is None or bool(np.all((self.accepted <= self.proposed) & (self.proposed <= self.gamma)))

    @property
    def rows(self) -> int:
        """N, the anchors of all sequences together."""
        return len(self.accepted)

    @property
    def sequence_of_row(self) -> Integers:
        """The sequence each row belongs to, [N]."""
        return np.repeat(np.arange(len(self.length)), self.length)

    def sequences_of(self, domain: str) -> Integers:
        """The sequences of one domain; "" means all of them."""
        if domain == "":
            return np.arange(len(self.length))
        if domain not in self.domains:
            raise ProfileError(f"drafter '{self.drafter}' has no recorded blocks of domain '{domain}'", remedy=f"domains: {', '.join(self.domains)}")
        return np.flatnonzero(self.sequence_domain == self.domains.index(domain))

    def conditional(self, temperatures: Sequence[float] | None = None) -> Floats:
        """Calibrated conditional confidences σ(logit(c_k) / t_k), [N, γ]; without temperatures the raw ones."""
        if self.confidence is None:
            raise ProfileError(
                f"drafter '{self.drafter}' has no confidence head",
                remedy="choose a verification rule that needs no confidences, or a drafter with a head",
            )
        if temperatures is None:
            return self.confidence
        t = np.asarray(temperatures, dtype=np.float64)  # [γ]
        if t.shape != (self.gamma,) or not np.all((t > 0) & np.isfinite(t)):
            raise ProfileError(
                f"calibration of drafter '{self.drafter}' needs {self.gamma} positive temperatures (got {list(temperatures)})",
                remedy="calibrate again",
            )
        with np.errstate(over="ignore", divide="ignore"):  # a tiny confidence made colder is 0, and what is not proposed stays 0
            odds = (1.0 / self.confidence - 1.0) ** (1.0 / t)  # e^(-logit(c) / t)
        return np.asarray(1.0 / (1.0 + odds))

    def survival(self, temperatures: Sequence[float] | None = None) -> Floats:
        """Predicted prefix survival a_k = Π_{j≤k} σ(logit(c_j) / t_j), [N, γ]."""
        return np.asarray(np.cumprod(self.conditional(temperatures), axis=1))

    def mean_survival(self) -> Floats:
        """P(A ≥ k) over all rows, [γ]."""
        return np.asarray((self.accepted[:, None] >= np.arange(1, self.gamma + 1)).mean(axis=0))

    def proposing(self, proposed: Integers) -> RecordedBlocks:
        """The same blocks, of which only the first `proposed` [N] tokens are proposed."""
        cut = replace(self, accepted=np.minimum(self.accepted, proposed), proposed=proposed, confidence=None, acceptance=None)
        there = cut.is_proposed
        return replace(
            cut,
            confidence=None if self.confidence is None else np.where(there, self.confidence, 0.0),
            acceptance=None if self.acceptance is None else np.where(there, self.acceptance, np.nan),
        )

    def cut(self, slots: int) -> RecordedBlocks:
        """The same blocks of a drafter that drafts only the first `slots` tokens of each."""
        assert slots <= self.gamma
        return replace(
            self,
            gamma=slots,
            accepted=np.minimum(self.accepted, slots),
            confidence=None if self.confidence is None else self.confidence[:, :slots],
            acceptance=None if self.acceptance is None else self.acceptance[:, :slots],
            proposed=None if self.proposed is None else np.minimum(self.proposed, slots),
        )

    @property
    def is_proposed(self) -> Flags:
        """Which slots of each row are proposed, [N, γ]."""
        return np.asarray(np.arange(self.gamma) < np.broadcast_to(self.gamma if self.proposed is None else self.proposed, self.rows)[:, None])

    def proposed_survival(self) -> Floats:
        """What policies see of a drafter without confidences, [N, γ]: Π_{j≤k} P(slot j accepted | proposed, and all before it accepted), 0 beyond
        what a row proposes. The mean survival in every row of a drafter that always proposes γ."""
        if self.proposed is None:
            return np.broadcast_to(self.mean_survival(), (self.rows, self.gamma))
        slots = np.arange(1, self.gamma + 1)
        taken = (self.accepted[:, None] >= slots).sum(axis=0)
        judged = ((self.accepted[:, None] >= slots - 1) & self.is_proposed).sum(axis=0)
        return np.where(self.is_proposed, np.cumprod(taken / np.maximum(judged, 1)), 0.0)

    def save(self, path: Path) -> None:
        """Write one row per anchor, whole or not at all. The same blocks give the same bytes."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        table = _table(self)
        plain = [f"{what}_{k}" for what in ("confidence", "acceptance") for k in range(1, self.gamma + 1)]
        few = [name for name in plain if name in table.column_names and pc.count_distinct(table[name]).as_py() <= FEW_VALUES]
        with whole(path) as draft:
            pq.write_table(
                table, draft, compression="zstd", compression_level=9, use_dictionary=["domain", *few],
                use_byte_stream_split=[name for name in plain if name not in few], write_statistics=False, row_group_size=1 << 20,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> RecordedBlocks:
        """Read and check what `save` writes. Raises ProfileError with file, column and row."""
        return _checked(read_parquet(path, error=ProfileError, remedy=_RECORD), path)


def _table(blocks: RecordedBlocks) -> pa.Table:
    import pyarrow as pa

    sequence = blocks.sequence_of_row
    domain = pa.DictionaryArray.from_arrays(pa.array(blocks.sequence_domain[sequence], pa.int32()), list(blocks.domains))
    columns: dict[str, Any] = {
        "sequence": pa.array(sequence, pa.int32()),
        "anchor": pa.array(np.arange(blocks.rows) - blocks.first_row[sequence], pa.int32()),
        "domain": domain.cast(pa.string()),
        "accepted": pa.array(blocks.accepted, pa.int8()),
    }
    if blocks.proposed is not None:
        columns["proposed"] = pa.array(blocks.proposed, pa.int8())
    for name, values in (("confidence", blocks.confidence), ("acceptance", blocks.acceptance)):
        if values is not None:
            columns |= {f"{name}_{k}": pa.array(values[:, k - 1].astype(np.float32)) for k in range(1, blocks.gamma + 1)}
    about = {
        "version": 1 if blocks.proposed is None else 2,
        **{key: getattr(blocks, key) for key in ("drafter", "gamma", "temperature", "provenance", "source")},
    }
    return pa.table(columns, metadata={_METADATA: json.dumps(about, sort_keys=True)})


class _About(Frozen):
    """The metadata of a file of blocks; version 2 has the column `proposed`."""

    version: Annotated[int, Within(1, 2)] = 1
    drafter: str
    gamma: Gamma
    temperature: Temperature | None
    provenance: Provenance
    source: str


def _about(table: pa.Table, path: Path) -> _About:
    """The checked metadata of the rows."""
    raw = (table.schema.metadata or {}).get(_METADATA)
    if raw is None:
        raise ProfileError("has no metadata (drafter, provenance)", where=path, key=_METADATA.decode(), remedy=_RECORD)
    try:
        return _About.model_validate(parse_json(raw.decode(errors="replace"), f"{path}: metadata", ProfileError, _RECORD), strict=True)
    except ValidationError as problem:
        why = explain(problem, _About, path)
        raise ProfileError(f"metadata: {why.problem}", where=path, key=why.key, remedy=_RECORD) from None


def _checked(table: pa.Table, path: Path) -> RecordedBlocks:
    about = _about(table, path)
    gamma = about.gamma
    sequence, anchor, accepted = (_whole(table, name, path) for name in ("sequence", "anchor", "accepted"))
    _refuse((accepted < 0) | (accepted > gamma), accepted, f"must be 0 … {gamma}", "accepted", path)
    proposed = _proposed(table, accepted, gamma, path)
    first = np.flatnonzero(np.diff(sequence, prepend=sequence[:1] - 1))  # [S]
    length = np.diff(first, append=len(sequence))
    expected = np.arange(len(sequence)) - np.repeat(first, length)
    _refuse(anchor != expected, anchor, "anchors must count up from 0 within a sequence", "anchor", path)
    again = np.ones(len(first), dtype=bool)
    again[np.unique(sequence[first], return_index=True)[1]] = False
    _refuse(np.isin(np.arange(len(sequence)), first[again]), sequence, "rows of a sequence must be contiguous", "sequence", path)
    domains, sequence_domain = _domains(table, first, length, path)
    slot = np.arange(gamma)
    confidence = _slots(table, "confidence", gamma, path)
    if confidence is not None:
        wrong = ~((confidence > 0) & (confidence < 1))
        _refuse(
            wrong if proposed is None else np.where(slot < proposed[:, None], wrong, confidence != 0),
            confidence,
            "must lie strictly between 0 and 1" + ("" if proposed is None else ", and be 0 beyond what is proposed"),
            "confidence",
            path,
        )
    acceptance = _slots(table, "acceptance", gamma, path)
    if acceptance is not None:
        drawn = slot <= accepted[:, None]  # the first rejected slot was drawn too
        drawn = drawn if proposed is None else drawn & (slot < proposed[:, None])
        wrong = np.where(drawn, ~((acceptance >= 0) & (acceptance <= 1)), ~np.isnan(acceptance))
        _refuse(wrong, acceptance, "must be a probability up to the first rejected slot and empty after it", "acceptance", path)
    return RecordedBlocks(
        **about.model_dump(exclude={"version"}), domains=domains, sequence_domain=sequence_domain, first_row=first, length=length,
        accepted=accepted, confidence=confidence, acceptance=acceptance, proposed=proposed,
    )  # fmt: skip


def _proposed(table: pa.Table, accepted: Integers, gamma: int, path: Path) -> Integers | None:
    """The column `proposed` [N]; None where the drafter always proposes γ."""
    if "proposed" not in table.column_names:
        return None
    proposed = _whole(table, "proposed", path)
    _refuse((proposed < 0) | (proposed > gamma), proposed, f"must be 0 … {gamma}", "proposed", path)
    _refuse(accepted > proposed, accepted, "must be at most what is proposed", "accepted", path)
    return proposed


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise ProfileError("column is missing", where=path, key=name, remedy=_RECORD)
    if not len(table):
        raise ProfileError("has no rows", where=path, remedy=_RECORD)
    return table.column(name)


def _whole(table: pa.Table, name: str, path: Path) -> Integers:
    """A column of integers, none missing."""
    import pyarrow as pa

    column = _column(table, name, path)
    if not pa.types.is_integer(column.type):
        raise ProfileError(f"must hold whole numbers, not {column.type}", where=path, key=name, remedy=_RECORD)
    _refuse(np.asarray(column.is_null()), np.full(len(column), np.nan), "is empty", name, path)
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _domains(table: pa.Table, first: Integers, length: Integers, path: Path) -> tuple[tuple[str, ...], Integers]:
    """The names, in the order they appear, and the one of each sequence [S]."""
    import pyarrow as pa

    column = _column(table, "domain", path)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        raise ProfileError(f"must hold names, not {column.type}", where=path, key="domain", remedy=_RECORD)
    _refuse(np.asarray(column.is_null()), np.full(len(column), np.nan), "is empty", "domain", path)
    coded = column.combine_chunks().dictionary_encode()
    names = tuple(str(name) for name in coded.dictionary.to_pylist())
    index = np.asarray(coded.indices.to_numpy(), dtype=np.int64)  # [N]
    _refuse(index != np.repeat(index[first], length), np.asarray(names, dtype=object)[index], "one sequence has one domain", "domain", path)
    return names, index[first]


def _slots(table: pa.Table, name: str, gamma: int, path: Path) -> Floats | None:
    """Columns name_1 … name_γ as [N, γ]; None when the file has none of them."""
    import pyarrow as pa

    if not any(column.startswith(f"{name}_") for column in table.column_names):
        return None
    columns = [_column(table, f"{name}_{k}", path) for k in range(1, gamma + 1)]
    for column, k in zip(columns, range(1, gamma + 1), strict=True):
        if not pa.types.is_floating(column.type):
            raise ProfileError(f"must hold floating-point numbers, not {column.type}", where=path, key=f"{name}_{k}", remedy=_RECORD)
    return np.stack([np.asarray(column.to_numpy(), dtype=np.float64) for column in columns], axis=1)


def _refuse(wrong: Flags, values: NDArray[Any], rule: str, name: str, path: Path) -> None:
    """Raise for the first row where `wrong` [N] or [N, γ] holds."""
    if not wrong.any():
        return
    row, *slot = (int(i) for i in np.argwhere(wrong)[0])
    key = f"{name}_{slot[0] + 1}" if slot else name
    raise ProfileError(f"row {row}: {rule} (got {values[(row, *slot)]})", where=path, key=key, remedy=_RECORD)
