"""`dsim profile --target V4 --texts FILE`: an acceptance folder. Step costs are not measured: our kernels would say nothing of an engine's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_runner.deepseek_v4.streamed import BEGUN, stream_blocks
from real_runner.setup import writable
from real_runner.texts import Text, Words
from simulator.errors import DsimError
from simulator.made import check_made, mark
from simulator.measurements.acceptance_library import FILE, Acceptance
from simulator.measurements.acceptance_made import about_measured, save_acceptance
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.names import check_word
from simulator.progress import Progress

FAMILY, BLOCKS = "dspark", "blocks.parquet"
COSTS = "Step costs of DeepSeek-V4 come from a published or imported profile of the engine that serves it."


def may_write(out: Path) -> None:
    """Refuses, before anything long, a folder that holds a finished acceptance or files of others, or cannot be written to; claims it."""
    if (out / FILE).exists():
        raise DsimError("already holds an acceptance", where=out, remedy="give another folder, or remove it with its `work` to measure again")
    check_word(out.resolve().name, "--out")
    begun = (out / "work" / BEGUN).is_file()
    check_made(out, [name for name in (BLOCKS, "work") if (out / name).exists()], replace=begun, remedy="give another folder, or move it away")
    writable(out)
    mark(out, [BLOCKS, "work"])


def measure_acceptance(
    folder: Path, name: str, texts: Sequence[Text], out: Path, *, device: str, dtype: str, temperature: float, seed: int, memory_bytes: float | None,
    command: str, keep_work: bool, progress: Progress,
) -> Acceptance:  # fmt: skip
    """Blocks along the target's own `texts`, one layer in memory at a time, into `out`. Raises DsimError for what does not fit."""
    may_write(out)
    check_word(name, "--target-name")
    for domain in dict.fromkeys(text.domain for text in texts):
        check_word(domain, "domain")
    blocks: RecordedBlocks = stream_blocks(
        folder, name, texts, out / "work", drafter=FAMILY, device=device, dtype=dtype, temperature=temperature, seed=seed, progress=progress,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    sample = f"{len(blocks.length)} texts, {blocks.rows} anchors, temperature {temperature:g}"
    about = about_measured(blocks, out.resolve().name, name, FAMILY, sample)
    made = save_acceptance(about | {"notes": [COSTS]}, blocks, out, f"Measured with: {command}")
    if not keep_work:
        shutil.rmtree(out / "work", ignore_errors=True)
    return made


def words_of(folder: Path, end: int | None) -> Words:
    """The checkpoint's tokenizer, loaded when a text is met."""

    def encode(text: str) -> list[int]:
        from tokenizers import Tokenizer

        if not loaded:
            try:
                loaded.append(Tokenizer.from_file(str(folder / "tokenizer.json")))
            except Exception as error:
                raise DsimError(
                    "has no tokenizer, and the texts are not token ids", where=folder, remedy="give ids, or add tokenizer.json"
                ) from error
        return list(loaded[0].encode(text, add_special_tokens=False).ids)

    loaded: list[Any] = []
    return Words(encode, end)
