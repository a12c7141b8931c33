"""What is stored in a checkpoint, from the headers of its safetensors files: names, dtypes, shapes, bytes. No weight is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.reading.json_files import parse_json, read_json
from simulator.reading.opening import regular

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
    "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
_MOST_HEADER_BYTES, _MOST_DIMENSIONS, _LARGEST = 100_000_000, 8, 1 << 62  # the first is the safetensors library's own limit
_AGAIN = "copy or download the file again"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file. `stored_name` is what the file calls it."""

    dtype: str  # as safetensors writes it: BF16, F8_E4M3, …
    shape: tuple[int, ...]
    file: Path
    stored_name: str
    bytes: int


def read_headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of model.safetensors, or of the shards that its index names. Raises CheckpointError, also where index and shards disagree."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_header(folder / "model.safetensors")
    owners, tensors = shards(index), dict[str, Stored]()
    for shard in sorted(set(owners.values())):
        for name, stored in read_header(folder / shard).items():
            if owners.get(name) != shard:
                elsewhere = f"is {owners[name]}'s by the index" if name in owners else "not in the index"
                raise CheckpointError(elsewhere, where=stored.file, key=name, remedy=f"is {index.name} of another checkpoint?")
            tensors[name] = stored
    if (absent := next((name for name in owners if name not in tensors), None)) is not None:
        raise CheckpointError(f"not in {owners[absent]}, which the index names for it", where=index, key=absent, remedy=_AGAIN)
    return tensors


def shards(index: Path) -> dict[str, str]:
    """Tensors and the names of their files, which are in the index's folder. Raises CheckpointError."""
    named = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError("not an index of shards", where=index, key="weight_map", remedy="expected tensor names and their files")
    for name in sorted(set(named.values())):
        if not re.fullmatch(r"[\w.-]{1,200}\.safetensors", name):
            raise CheckpointError(f"expected the name of a .safetensors file in this folder, got {shown(name)}", where=index, key="weight_map")
    return named


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file. Raises CheckpointError for another kind of file, for offsets that contradict the shapes, and for a truncated file."""
    with regular(path, CheckpointError, "expected the checkpoint's weights") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length < 2:
            raise CheckpointError("not a safetensors file", where=path, remedy=_AGAIN)
        if length > _MOST_HEADER_BYTES:
            problem = f"not a safetensors file: a header of {length:,} bytes, more than {_MOST_HEADER_BYTES:,}"
            raise CheckpointError(problem, where=path, remedy=_AGAIN)
        if size < 8 + length:
            raise CheckpointError(f"truncated: its header ends at byte {8 + length:,}, the file at {size:,}", where=path, remedy=_AGAIN)
        header = file.read(length)
    try:
        content = parse_json(header.decode(), path, CheckpointError, "not a safetensors file")
    except UnicodeDecodeError:
        content = None
    if not isinstance(content, dict):
        raise CheckpointError("not a safetensors file: its header is not a JSON object", where=path, remedy=_AGAIN)
    content.pop("__metadata__", None)
    spans = sorted((_entry(entry, name, path) for name, entry in content.items()), key=lambda span: (span[0], span[1].bytes))
    _check_spans(spans, size - 8 - length, path)
    return {stored.stored_name: stored for _, stored in spans}


def _entry(entry: Any, name: str, path: Path) -> tuple[int, Stored]:
    """Where a tensor begins, and the tensor."""
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets")) if isinstance(entry, dict) else (None, None, None)
    if not isinstance(dtype, str) or not _sizes(shape) or len(shape) > _MOST_DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError("not a tensor of a safetensors file", where=path, key=name, remedy="expected dtype, shape and data_offsets")
    if dtype not in DTYPE_BYTES:
        raise CheckpointError(f"unknown dtype {shown(dtype)}", where=path, key=name, remedy=f"known: {', '.join(DTYPE_BYTES)}")
    (begin, end), size = offsets, prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != size:
        raise CheckpointError(f"{end - begin:,} bytes, but {dtype} {list(shape)} takes {size:,}", where=path, key=name, remedy=_AGAIN)
    return begin, Stored(dtype, tuple(shape), path, name, size)


def _sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < _LARGEST for one in value)


def _check_spans(spans: list[tuple[int, Stored]], data_bytes: int, path: Path) -> None:
    """Tensors follow one another without gaps, to the end of the file. Raises CheckpointError."""
    end = 0
    for begin, stored in spans:
        if begin != end:
            relation = "overlaps the tensor before it" if begin < end else "does not follow the tensor before it"
            raise CheckpointError(f"{relation}: begins at byte {begin:,}, expected {end:,}", where=path, key=stored.stored_name, remedy=_AGAIN)
        end += stored.bytes
    if end != data_bytes:
        truncated = "truncated: " if end > data_bytes else ""
        raise CheckpointError(f"{truncated}its tensors take {end:,} bytes, the file has {data_bytes:,} for them", where=path, remedy=_AGAIN)
