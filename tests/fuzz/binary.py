"""Mutations of bytes, of Parquet tables and of safetensors files."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
from functools import cache
from random import Random
from typing import Any

from tests.fuzz import trees

TOKENS = (b"\x00", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"PK\x03\x04", b"\x80\x04", b"\x1b[31m", b"\r", b"\n",
    b"\xc3", b"\xed\xa0\x80", b'"', b"'", b"[", b"{",
          b"}", b"]", b",", b":", b"&a ", b"*a", b"!!", b"---\n", b"# ", b"NaN", b"1e999", b"-", b"\t", b"\xe2\x80\xa8", b"\xc2\x85", b"9" * 400,
          b"[" * 1200, b"_", b".")  # fmt: skip


def mutate(content: bytes, random: Random) -> bytes:
    """Bytes, changed in one place or as a whole."""
    at = random.randrange(len(content) + 1)
    end = min(len(content), at + random.choice((1, 2, 4, 16, 100)))
    match random.randrange(12):
        case 0:
            return content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]
        case 1:
            return content[:at] + bytes([(content[at : at + 1] or b"0")[0] ^ (1 << random.randrange(8))]) + content[at + 1 :]
        case 2:
            return content[:at] + content[end:]
        case 3:
            return content[:at] + content[at:end] * random.choice((2, 3, 100)) + content[end:]
        case 4:
            return content[:at]
        case 5 | 6 | 7:
            return content[:at] + random.choice(TOKENS) + content[at if random.random() < 0.5 else end :]
        case 8:
            return _other_number(content, random)
        case 9:
            other = random.randrange(len(content) + 1)
            return content[:at] + content[other : other + 64] + content[at:]
        case 10:
            return content[at:]
        case _:
            return _packed(content, random)


def _packed(content: bytes, random: Random) -> bytes:
    """In another encoding, or in a gzip file."""
    text = content.decode("utf-8", errors="replace")
    packed = gzip.compress(content, 1, mtime=0)
    choices: tuple[bytes, ...] = (packed, packed[: len(packed) // 2], packed + b"x", packed + packed, text.encode("utf-16", "surrogatepass"),
    text.encode("utf-8-sig", "replace"),
                                  text.encode("utf-32", "surrogatepass"), text.encode("utf-7", "replace"), text.encode("utf-16-be",
                                  "surrogatepass"), b"")  # fmt: skip
    return random.choice(choices)


def _other_number(content: bytes, random: Random) -> bytes:
    numbers = list(re.finditer(rb"\d+", content[:20_000]))
    if not numbers:
        return content + b"1"
    match = random.choice(numbers)
    number = str(random.choice(trees.NUMBERS)).encode()
    return content[: match.start()] + number + content[match.end() :]


@cache
def _table(content: bytes) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content))


def parquet(content: bytes, random: Random) -> bytes:
    """A Parquet file that is whole and holds another table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _table(content)
    for _ in range(random.choice((1, 1, 2))):
        column = random.randrange(table.num_columns)
        name, values = table.column_names[column], table.column(column)
        match random.randrange(11):
            case 0:
                table = table.set_column(column, name, _other_values(values, random, pa))
            case 1:
                kind = random.choice((pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.string(), pa.large_string(),
                pa.binary(), pa.bool_(), pa.date32(),
                                      pa.timestamp("ns"), pa.decimal128(20, 3), pa.null(), pa.list_(pa.int32()), pa.dictionary(pa.int8(),
                                      pa.string())))  # fmt: skip
                table = table.set_column(column, name, pa.nulls(len(values), kind) if random.random() < 0.5 else _cast(values, kind, pa))
            case 2:
                table = table.remove_column(column) if table.num_columns > 1 else table
            case 3:
                table = table.append_column(random.choice(table.column_names), values)
            case 4:
                names = list(table.column_names)
                names[column] = random.choice((*trees.WORDS, *names))
                table = table.rename_columns([text.encode("utf-8", "replace").decode() for text in names])
            case 5:
                table = table.take(pa.array(random.sample(range(len(table)), len(table))))
            case 6:
                table = table.slice(random.randrange(len(table) + 1), random.choice((0, 1, 5, 1000)))
            case 7:
                table = pa.concat_tables([table] * random.choice((2, 3))) if len(table) < 1000 else table
            case 8 | 9:
                table = _other_metadata(table, random)
            case _:
                table = table.set_column(column, name, pa.array([trees_value(random) for _ in range(len(values))], pa.string()))
        if not len(table):
            break
    text = io.BytesIO()
    pq.write_table(
        table,
        text,
        compression=random.choice(("none", "zstd", "snappy", "gzip")),
        row_group_size=random.choice((7, 1000, 1000, 1000)) if len(table) < 500 else 1000,
    )
    return text.getvalue()


def trees_value(random: Random) -> str:
    """A hostile text that UTF-8 can hold."""
    return random.choice(trees.WORDS).encode("utf-8", "replace").decode()


def _other_values(values: Any, random: Random, pa: Any) -> Any:
    listed = values.to_pylist()
    for _ in range(random.choice((1, 1, len(listed)))):
        if listed:
            at = random.randrange(len(listed))
            listed[at] = random.choice((None, 0, -1, 1, 2, 5, 126, float("nan"), float("inf"), 0.5, 1e-320, listed[at - 1]))
    try:
        return pa.array(listed, values.type)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return pa.nulls(len(listed), values.type)


def _cast(values: Any, kind: Any, pa: Any) -> Any:
    try:
        return values.cast(kind, safe=False)
    except pa.ArrowException:
        return pa.nulls(len(values), kind)


def _other_metadata(table: Any, random: Random) -> Any:
    metadata = dict(table.schema.metadata or {})
    for key, value in list(metadata.items()):
        try:
            metadata[key] = (
                trees.dump(trees.mutate(trees.load(value, False), random)).encode("utf-8", "surrogatepass")
                if random.random() < 0.8
                else mutate(value, random)
            )
        except ValueError:
            metadata[key] = mutate(value, random)
    return table.replace_schema_metadata(random.choice((metadata, metadata, metadata, metadata, None)))


def safetensors(content: bytes, random: Random) -> bytes:
    """A safetensors file with another header, or other tensors under the header that fits them."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    if random.random() < 0.5:
        text = trees.dump(trees.mutate(trees.load(header, False), random)).encode("utf-8", "surrogatepass")
        size = random.choice((len(text),) * 6 + (0, 2**63, 2**40, len(text) + 9))
        return struct.pack("<Q", size) + text + (data if random.random() < 0.9 else data[: random.randrange(len(data) + 1)])
    return _other_tensors(header, data, random)


def _other_tensors(header: bytes, data: bytes, random: Random) -> bytes:
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    parts = {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in entries.items()}
    name = random.choice(list(parts))
    dtype, shape, values = parts[name]
    size = len(values)
    match random.randrange(6):
        case 0:
            del parts[name]
        case 1:
            parts[random.choice((*trees.WORDS, *parts, f"model.{name}", "d2t")).encode("utf-8", "replace").decode()] = parts[name]
        case 2:
            parts[name] = dtype, random.choice((shape[::-1], [size // 4], [1, *shape], [*shape, 1], [])), values
        case 3:
            other, width = random.choice((("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F64", 8), ("F8_E4M3", 1)))
            parts[name] = other, [size // width], values[: size // width * width]
        case 4:
            parts[name] = dtype, shape, random.choice((b"\xff", b"\x00\x00\x80\x7f", b"\x00", b"\xc0\x7f")) * size
            parts[name] = dtype, shape, parts[name][2][:size]
        case _:
            parts[name] = dtype, [0, *shape[1:]], b""
    made, content = {}, b""
    for key, (kind, sizes, part) in parts.items():
        made[key] = {"dtype": kind, "shape": sizes, "data_offsets": [len(content), len(content) + len(part)]}
        content += part
    text = json.dumps(made).encode()
    return struct.pack("<Q", len(text)) + text + content
