"""Cases of the corpus that are not written down: binary, large, or no plain file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz import samples

Place = Callable[[Path], object]

JSON_FILES = {
    "compare": "result.json", "figures": "result.json", "launch": "result.json", "plan-figures": "result.json",
    "validation-page": "results/paper.json",
    "sglang-sampled": "sps.json", "bench": "a.json", "aiperf": "a.json", "guidellm": "a.json", "recorded-run": "run/meta.json",
    "servegen": "service/chunk-0-dataset.json", "engine-run": "run/run.json", "array": "t.json", "mooncake": "t.jsonl", "turns-texts": "texts.jsonl",
    "prompts": "prompts.jsonl", "dspark": "draft/config.json", "sharded": "draft/model.safetensors.index.json",
    "expected": "expect/greedy_decode.json",
}  # fmt: skip
DOCUMENTS = {
    "100000 brackets": "[" * 100_000, "2000 mappings": '{"a":' * 2000, "2000 mappings that close": '{"a":' * 2000 + "1" + "}" * 2000,
    "a number of 400 digits": f'{{"a": {"9" * 400}}}', "a number of 5000 digits": "9" * 5000, "half a character": '{"\\ud800": "\\ud800"}',
    "nothing": "", "null": "null", "a NUL": '{"a\\u0000": "\\u0000"}', "a key twice": '{"a": 1, "a": 2}', "no number": '{"a": NaN, "b": -Infinity}',
    "a text": '"text"', "a byte order mark alone": "\ufeff",
}  # fmt: skip
ANCHORS = [f"&a{i} [*a{i - 1}, *a{i - 1}]" if i else "&a0 [1]" for i in range(500)]
REQUESTS = "arrival_s,prompt_tokens,output_tokens\n"
TEXTS = {
    "scenario": ("small.yaml", {
        "1500 brackets": "name: " + "[" * 1500, "1500 brackets that close": f"name: {'[' * 1500}{']' * 1500}", "1500 mappings": "{a: " * 1500,
        "1500 sequences": "- " * 1500, "a number of 5000 digits": "name: " + "9" * 5000, "5000 question marks": "? " * 5000,
        "a profile of 5000 characters": f"name: small\nprofile: {'a' * 5000}", "a text of 5 MB": f"name: {'a' * 5_000_000}",
        "100000 keys": "".join(f"a{i}: 1\n" for i in range(100_000)), "a question of 500 anchors": f"question: [{', '.join(ANCHORS)}]",
        "a byte order mark alone": "\ufeff",
    }),
    "set": ("set.txt", {
        "1500 brackets": "load=" + "[" * 1500 + "\n", "a number of 5000 digits": f"load={'9' * 5000}\n", "a key 2000 deep": "a." * 2000 + "b=1\n",
        "an index of 5000 digits": f"policies.{'9' * 5000}.name=a\n",
    }),
    "plain": ("t.csv", {
        "100000 commas": REQUESTS + "," * 100_000 + "\n", "100000 commas in the header": "," * 100_000 + "\n1,2\n",
        "a field of 5 MB": f"{REQUESTS}0,{'1' * 5_000_000},2\n", "100000 quotes": '"' * 100_000,
    }),
    "cost-tables": ("tiny/verify.csv", {
        "100000 commas": "tokens,p50_s\n" + "," * 100_000 + "\n", "100000 commas in the header": "," * 100_000 + "\n1,2\n",
    }),
    "telemetry": ("telemetry.csv", {"100000 commas": "concurrency,tps_per_user\n" + "," * 100_000 + "\n"}),
}  # fmt: skip


def _put(name: str, content: bytes | str, folder: Path) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _link(name: str, to: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(to)


def _fifo(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _directory(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _renamed(name: str, to: str, content: bytes, folder: Path) -> None:
    """Another file in its place, named in the profile."""
    (folder / name).unlink()
    _put(f"tiny/{to}", content, folder)
    profile = folder / "tiny" / "profile.yaml"
    profile.write_text(profile.read_text().replace(name.removeprefix("tiny/"), to))


def _one_file_of(reader: str) -> str:
    return {**JSON_FILES, **{name: file for name, (file, _) in TEXTS.items()}, "profile": "tiny/profile.yaml", "blocks": "tiny/head.parquet",
            "servegen-windows": "service/chunk-0-trace.csv", "vllm-curves": "metrics.txt"}[reader]  # fmt: skip


def _special() -> Iterator[tuple[str, str, Place]]:
    for reader in (*JSON_FILES, *TEXTS, "profile", "blocks", "servegen-windows", "vllm-curves"):
        name = _one_file_of(reader)
        if name != "set.txt":
            yield reader, f"A17 {name} is a FIFO", partial(_fifo, name)
            yield reader, f"A17 {name} is an endless device", partial(_link, name, "/dev/zero")
            yield reader, f"A17 {name} is a folder", partial(_directory, name)
    for name in ("tiny/verify.csv", "tiny/head.parquet", "tiny/published/speed.csv"):
        yield (
            "profile-tables",
            f"A2 {name} is a link out of the folder",
            partial(_link, name, f"{'../' * name.count('/')}../outside/{Path(name).name}"),
        )


def _packed() -> Iterator[tuple[str, str, Place]]:
    """A13: names that pandas would unpack by, with what they promise, with a bomb or with garbage."""
    table = samples.VERIFY
    bomb = b"tokens,p50_s\n" + b"1,0.01\n" * 25_000_000
    for ending, content in ((".gz", gzip.compress(table)), (".xz", lzma.compress(table)), (".bz2", bz2.compress(table)), (".gz", b"garbage"),
                            (".xz", b"garbage"), (".zip", b"PK garbage"), (".bz2", b"garbage"), (".zst", b"garbage"), (".tar",
                            b"garbage")):  # fmt: skip
        for reader in ("cost-tables", "cost-diff"):
            if content[:2] != b"\x1f\x8b":
                yield reader, f"A13 {len(content)} bytes called {ending}", partial(_renamed, "tiny/verify.csv", f"verify.csv{ending}", content)
    packed = gzip.compress(bomb, 1)
    yield "cost-tables", "A13 175 MB in a gzip file", partial(_renamed, "tiny/verify.csv", "verify.csv.gz", packed)
    yield "plain", "A13 175 MB in a gzip file", partial(_put, "t.csv", packed)
    yield "plain", "A13 a gzip file cut short", partial(_put, "t.csv", gzip.compress(samples.TRACES["plain"])[:-9])
    yield "aiperf", "A13 100 MB of blanks in a gzip file", partial(_put, "a.json", gzip.compress(b" " * 100_000_000, 1))
    yield "telemetry", "A13 a ZIP file", _zipped


def _zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "telemetry.csv", "w") as archive:
        archive.writestr("../esc.csv", samples.telemetry()["telemetry.csv"])


def _weights() -> Iterator[tuple[str, str, Place]]:
    """Headers of safetensors files that contradict themselves."""
    name = "draft/model.safetensors"

    def header(content: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    fc = {"dtype": "F32", "shape": [64, 320], "data_offsets": [0, 64 * 320 * 4]}
    for title, content in {
        "a header of 2**63 bytes": header({}, length=2**63), "a header of 90 MB": header({}, length=90_000_000),
        "a header that is no JSON": header(b"{"),
        "100000 brackets": header(b"[" * 100_000), "a shape of 2**62": header({"fc.weight": fc | {"shape": [2**62, 4]}}, b"\0" * 81920),
        "a shape that overflows": header({"fc.weight": fc | {"shape": [2**40, 2**40]}}, b"\0" * 81920),
        "a negative shape": header({"a": fc | {"shape": [-1]}}),
        "tensors that overlap": header({"fc.weight": fc, "b": fc}, b"\0" * 81920), "a gap": header({"a": fc | {"data_offsets": [8, 81928]}},
        b"\0" * 81928),
        "an unknown dtype": header({"fc.weight": fc | {"dtype": "F3"}}, b"\0" * 81920), "no data": header({"fc.weight": fc}), "nothing": b"",
        "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        "half a character": header(b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"\0" * 4),
        "an escape sequence as a name": header({"\x1b[31mred": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        "a name of 100000 characters": header({"a" * 100_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        "30000 empty tensors": header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}),
    }.items():  # fmt: skip
        yield "dspark", f"K weights: {title}", partial(_put, name, content)


def _parquet() -> Iterator[tuple[str, str, Place]]:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def file(table: Any, **how: Any) -> bytes:
        text = io.BytesIO()
        pq.write_table(table, text, **how)
        return text.getvalue()

    valid = pq.read_table(io.BytesIO(samples.blocks(True)))
    key = b"dsim.recorded_blocks"
    about = json.loads(valid.schema.metadata[key])
    for title, change in {"a drafter that is a list": {"drafter": []}, "1e9 drafted tokens": {"gamma": 10**9}, "another version": {"version": 3},
                          "a temperature that is no number": {"temperature": float("nan")}, "a source of escape sequences": {"source": "\x1b[2Jred"},
                          "a source of 100000 characters": {"source": "a" * 100_000}, "true drafted tokens": {"gamma": True}}.items():  # fmt: skip
        yield (
            "profile-blocks",
            f"P {title}",
            partial(_put, "tiny/head.parquet", file(valid.replace_schema_metadata({key: json.dumps(about | change)}))),
        )
    for title, raw in {"100000 brackets": b"[" * 100_000, "no text": b"\xff", "a list": b"[]"}.items():
        yield "profile-blocks", f"P metadata of {title}", partial(_put, "tiny/head.parquet", file(valid.replace_schema_metadata({key: raw})))
    many = pa.table({f"confidence_{i}": pa.array([0.5]) for i in range(20_000)}, metadata=valid.schema.metadata)
    yield "blocks", "P 20000 columns", partial(_put, "tiny/head.parquet", file(many))
    yield "blocks", "P a column twice", partial(_put, "tiny/head.parquet", file(valid.append_column("accepted", valid.column("accepted"))))
    yield "blocks", "P no rows", partial(_put, "tiny/head.parquet", file(valid.slice(0, 0)))
    yield "blocks", "P a large text for every row", partial(_put, "tiny/head.parquet", _big_text(valid, file))


def _big_text(valid: Any, file: Callable[..., bytes]) -> bytes:
    """A small file whose domain column is 3 GB when it is unpacked."""
    import pyarrow as pa

    rows = 3000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * 1_000_000]))
    table = pa.table({"sequence": pa.array([0] * rows, pa.int32()), "anchor": pa.array(range(rows), pa.int32()), "domain": text,
                      "accepted": pa.array([0] * rows, pa.int8())}, metadata=valid.schema.metadata)  # fmt: skip
    return file(table, compression="zstd", use_dictionary=["domain"])


def _scrapes() -> Iterator[tuple[str, str, Place]]:
    """A10: more positions than any block has."""

    def scrape(positions: int, counted: int) -> str:
        totals = {"drafts": counted, "draft_tokens": counted * positions, "accepted_tokens": counted * positions}
        lines = [f'vllm:spec_decode_num_{name}_total{{engine="0"}} {value}' for name, value in totals.items()]
        lines += [f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{k}"}} {counted}' for k in range(positions)]
        return "\n".join(lines) + "\n"

    for positions in (128, 1000, 20_000):

        def place(folder: Path, positions: int = positions) -> None:
            _put("metrics.txt", scrape(positions, 1000), folder)
            _put("before.txt", scrape(positions, 1), folder)

        yield "vllm-curves", f"A10 {positions} positions", place


def _made() -> Iterator[tuple[str, str, Place]]:
    for reader, name in JSON_FILES.items():
        for title, text in DOCUMENTS.items():
            yield reader, f"J {title}", partial(_put, name, text)
    for reader, (name, texts) in TEXTS.items():
        for title, text in texts.items():
            yield reader, f"T {title}", partial(_put, name, text)
    yield from _special()
    yield from _packed()
    yield from _weights()
    yield from _parquet()
    yield from _scrapes()


MADE = list(_made())
