"""Parquet tables of plain columns. How much memory they take is looked up before they are read: some kilobytes can hold 10^9 rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.opening import read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CHUNKS = 100_000  # columns times groups of rows


def read_parquet(path: Path, columns: Sequence[str] | None = None, error: type[DsimError] = DsimError, remedy: str = "check the path") -> pa.Table:
    """A Parquet table of numbers, flags, times and texts, all of it or some columns. Raises `error`, also where it would take too much memory."""
    import pyarrow as pa

    content = read_bytes(path, error, remedy)
    try:
        return _table(content, columns)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as problem:
        reason = str(problem).strip("' \n").partition("\n")[0][:200]
        raise error(f"not a Parquet file that dsim reads ({reason})", where=path, remedy=remedy) from None


def _table(content: bytes, columns: Sequence[str] | None) -> pa.Table:
    """Raises ValueError and what pyarrow raises."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = pq.ParquetFile(pa.BufferReader(content))
    facts, schema = about.metadata, about.schema_arrow
    if len(schema) > limits.COLUMNS or facts.num_columns * facts.num_row_groups > _MOST_CHUNKS:
        raise ValueError(f"{len(schema)} columns in {facts.num_row_groups} groups of rows")
    if len(names := set(schema.names)) < len(schema):
        raise ValueError(f"column {shown(next(name for name in sorted(names) if schema.names.count(name) > 1))} is there twice")
    words = [field.name for field in schema if _is_text(field.type)]
    for field in schema:
        if not (_is_text(field.type) or pa.types.is_primitive(field.type)):
            raise ValueError(f"column {shown(field.name)} is of type {str(field.type)[:40]}")
    stored = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))  # unpacked; of columns, pyarrow ends the process
    decoded = sum(4 if field.name in words else field.type.bit_width / 8 for field in schema) * facts.num_rows
    limits.check_memory("takes", max(stored, decoded))
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=words).read(columns=None if columns is None else list(columns))
    return _with_texts(table)


def _with_texts(table: pa.Table) -> pa.Table:
    """Texts are read as numbers of a dictionary, for one of 1 MB may stand in a million rows; and written out where they fit into memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            parts = table.column(place).chunks
            for part in parts:
                part.dictionary.validate(full=True)  # as UTF-8
            limits.check_memory("takes", sum(pc.sum(pc.binary_length(part.dictionary).take(part.indices)).as_py() or 0 for part in parts))
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))
