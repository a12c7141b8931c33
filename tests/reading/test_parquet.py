"""Parquet: plain columns, no more of them than fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.parquet_files import read_parquet


def written(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet", **options)  # type: ignore[no-untyped-call]
    return folder / "t.parquet"


def test_plain_columns(tmp_path: Path) -> None:
    columns = {"n": pa.array([1, None]), "x": [0.5, 1.0], "s": ["a", None], "d": pa.array(["q", "q"]).dictionary_encode(), "b": [True, False]}
    (tmp_path / "key=value").mkdir()  # no column of the table
    table = read_parquet(written(tmp_path / "key=value", columns))
    assert table.to_pydict() == {"n": [1, None], "x": [0.5, 1.0], "s": ["a", None], "d": ["q", "q"], "b": [True, False]}
    assert read_parquet(tmp_path / "key=value" / "t.parquet", ["x"]).to_pydict() == {"x": [0.5, 1.0]}


def test_what_takes_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 kB of 6·10^6 numbers, and of one text of 1 MB in ten rows."""
    monkeypatch.setenv(limits.VARIABLE, "1")
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10, np.int32)), ["x" * 10**6])
    for columns, size in (({"a": np.zeros(6_000_000, np.int8)}, 6), ({"s": words}, 10)):
        path = written(tmp_path, columns, compression="zstd", store_schema=False)
        assert path.stat().st_size < 30_000
        with pytest.raises(DsimError, match=rf"takes about {size} MB of memory, at most 5 are used; if it is right"):
            read_parquet(path)


@pytest.mark.parametrize(
    "columns, message",
    [({"a": [[1]]}, "'a' is of type list"), ({"a": [{"b": 1}]}, "'a' is of type struct"), ({f"c{i}": [1] for i in range(1001)}, "1001 columns")],
)
def test_other_columns(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DsimError, match=message):
        read_parquet(written(tmp_path, columns))


def test_a_column_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "t.parquet")  # type: ignore[no-untyped-call]
    with pytest.raises(DsimError, match="column 'a' is there twice"):
        read_parquet(tmp_path / "t.parquet")


def test_a_text_that_is_no_text(tmp_path: Path) -> None:
    words = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xc7h"))
    with pytest.raises(DsimError, match="Invalid UTF8"):
        read_parquet(written(tmp_path, {"s": words}))


def test_broken_files(tmp_path: Path) -> None:
    content = written(tmp_path, {"a": [1, 2, 3], "s": ["x", "y", "z"]}, compression="none").read_bytes()
    path = tmp_path / "broken.parquet"
    for broken in (b"", b"PAR1", content[:50], content[:-4], content[:-20] + content[-8:], b"a,b\n1,2\n", content[:4] + b"\xff" * 20 + content[24:]):
        path.write_bytes(broken)
        with pytest.raises(DsimError, match=r"broken\.parquet: not a Parquet file that dsim reads \(.+\); check the path$"):
            read_parquet(path)
    with pytest.raises(DsimError, match=r"none: no such file"):
        read_parquet(tmp_path / "none")
