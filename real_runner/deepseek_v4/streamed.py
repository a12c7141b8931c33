"""Acceptance of the drafter in a DeepSeek-V4 checkpoint, one layer in memory at a time.

A layer is filled from the files, all texts go through it, it is dropped; then the drafter's stages the same way; then the heads. What goes from layer
to layer lies in files of `work`: a run that is stopped goes on from the last layer that was whole. Steps, groups and draws are those of
`record_blocks`, so with as many tokens at once the blocks are those of a target in memory, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from real_runner.blocks import TOKENS_AT_ONCE, Drafted, Group, Said, coupled, groups, heard, recorded, scored_by, served
from real_runner.deepseek_v4.model import V4Drafter, V4Target, fill_layer, layer_of, stage_of, tap_of
from real_runner.deepseek_v4.needs import Needs, fitting
from real_runner.deepseek_v4.parts import PositionCache, Seen, logits_of
from real_runner.deepseek_v4.storage import tensors_of
from real_runner.failures import memory_of, same_options
from real_runner.layout import ship
from real_runner.slots import FlatBatch
from real_runner.texts import Text
from simulator.errors import DsimError
from simulator.files import whole, write_whole
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.drafters.inventory import V4Checkpoint, checked
from simulator.measurements.drafters.packaging import read_spec
from simulator.progress import Progress
from simulator.reading.json_files import read_json

BEGUN = "streaming.json"  # in `work`: what is being measured there


class Streamed:
    """One measurement, in `work`. Blocks of all texts come from `blocks`."""

    def __init__(
        self, checkpoint: V4Checkpoint, name: str, said: Sequence[Said], work: Path, *, device: str, dtype: str, temperature: float, seed: int,
        needs: Needs, progress: Progress,
    ) -> None:  # fmt: skip
        self.checkpoint, self.sizes, self.work, self.temperature, self.progress = checkpoint, checkpoint.sizes, work, temperature, progress
        self.needs = needs
        self.spec = read_spec(checkpoint.sizes.folder)
        self.target = V4Target(checkpoint, name, device, dtype, resident=False)
        self.drafter = V4Drafter(self.spec, self.target, resident=False)
        self.groups = groups(said, self.spec.gamma, self.spec.block, needs.rows_at_once, needs.tokens_at_once, seed)
        self.device, self.dtype = self.target.device, self.target.dtype

    @torch.no_grad()
    def blocks(self) -> list[Drafted]:
        """All of it, or what is left to do."""
        layers, stages = self.sizes.layers, self.checkpoint.stages
        passes = [(f"layer-{n}", self._layer, n) for n in range(layers)] + [(f"stage-{n}", self._stage, n) for n in range(stages)]
        done = max((at + 1 for at, (name, _, _) in enumerate(passes) if self._file(name).exists()), default=0)
        needed = {f"layer-{layers - 1}", passes[done - 1][0]} if done else set()
        for left in list(self.work.glob("*.bin")):  # of a run that was killed
            if left.stem not in needed and not left.name.startswith("tap-"):
                left.unlink()
        with self.progress.stage("layers", len(passes) + 1, done) as stage:
            for name, run, number in passes[done:]:
                stage.doing(f"{name.split('-')[0]} {number + 1} of {layers if run == self._layer else stages}")
                run(number)
                if number:
                    self._file(f"{name.split('-')[0]}-{number - 1}").unlink(missing_ok=True)
                stage.advance()
            stage.doing("heads")
            return list(self._heads())

    def _layer(self, number: int) -> None:
        """All texts through a layer of the target; what the drafter reads of its output beside it."""
        with torch.device("meta"):
            layer = layer_of(self.sizes, number)
        fill_layer(layer, self.checkpoint, f"layers.{number}.", self.dtype, self.device, self.needs.dense)
        before = self._read(f"layer-{number - 1}") if number else None
        with ExitStack() as files:
            to = self._made(f"layer-{number}", files)
            taps = self._made(f"tap-{number}", files) if number in self.spec.taps else None  # it is whole before the layer's is
            for group in self.groups:
                ids, flat = ship(group.ids, self.device), self._flat(group, group.count)
                streams = self.target.model.begin(ids) if before is None else self._streams(before, len(ids))
                kv = PositionCache(group.count, group.room, self.device, self.dtype)
                streams = layer(streams, Seen(flat, kv, ids, self.sizes.window, flat.positions))
                self._write(to, streams)
                if taps is not None:
                    self._write(taps, tap_of(streams))

    def _stage(self, number: int) -> None:
        """All blocks through a stage of the drafter."""
        with torch.device("meta"):
            stage = stage_of(self.sizes, number)
        fill_layer(stage, self.checkpoint, f"mtp.{number}.", self.dtype, self.device, self.needs.dense)
        before = self._read(f"stage-{number - 1}") if number else None
        taps = [self._read(f"tap-{tap}") for tap in self.spec.taps]
        with ExitStack() as files:
            to = self._made(f"stage-{number}", files)
            for group in self.groups:
                features = torch.cat([self._take(tap, len(group.ids), self.sizes.hidden) for tap in taps], dim=-1)
                tokens = self._prepared(group)
                self.drafter.take_in(stage, self.drafter.context(features), self._flat(group, group.count + group.rows))
                for part in group.parts():
                    batch = group.batch(self.drafter, part, tokens)
                    streams = self.drafter.enter(batch) if before is None else self._streams(before, batch.ints.shape[1])
                    self._write(to, self.drafter.through(stage, streams, batch))

    def _heads(self) -> Iterator[Drafted]:
        """The blocks, from what the last layer and the last stage put out."""
        last, drafted = self._read(f"layer-{self.sizes.layers - 1}"), self._read(f"stage-{self.checkpoint.stages - 1}")
        for group in self.groups:
            hidden = self.target.model.end(self._streams(last, len(group.ids)))
            tokens, row = heard(group)
            logits = logits_of(hidden[ship(group.outputs_at, self.device)], self.target.head.weight)
            scored = scored_by(tokens, group.known, logits, row, self.temperature)
            self._prepared(group)
            for part in group.parts():
                batch = group.batch(self.drafter, part, scored.tokens)
                streams = self._streams(drafted, batch.ints.shape[1])
                yield coupled(self.drafter, self.drafter.leave(streams, batch), batch, group.coupling(scored, part, self.temperature, None))

    def _prepared(self, group: Group) -> Tensor:
        """An empty draft cache for the group; its outputs  # [T, W]."""
        self.drafter.kv = PositionCache(group.count + group.rows, group.room, self.device, self.dtype)
        return ship(heard(group)[0], self.device)

    def _flat(self, group: Group, slots: int) -> FlatBatch:
        start = torch.zeros(slots + 1, dtype=torch.long, device=self.device)
        return group.layout.flat(ship(group.layout.ints, self.device), start)

    def _file(self, name: str) -> Path:
        return self.work / f"{name}.bin"

    def _made(self, name: str, files: ExitStack) -> BinaryIO:
        """A file that is there when all is written, or not at all."""
        return files.enter_context(files.enter_context(whole(self._file(name))).open("wb"))

    def _read(self, name: str) -> BinaryIO:
        """Files are read from their begin to their end: groups and parts come in their order."""
        try:
            return self._file(name).open("rb")
        except OSError as problem:
            raise DsimError(f"cannot read ({problem.strerror})", where=self._file(name), remedy="remove the folder and begin anew") from None

    def _streams(self, file: BinaryIO, tokens: int) -> Tensor:
        return self._take(file, tokens, self.sizes.streams * self.sizes.hidden).view(tokens, self.sizes.streams, -1)

    def _take(self, file: BinaryIO, tokens: int, width: int) -> Tensor:
        """The next `tokens` rows  # [tokens, width]."""
        content = bytearray(file.read(tokens * width * self.dtype.itemsize))
        if len(content) != tokens * width * self.dtype.itemsize:
            raise DsimError("is too short", where=file.name, remedy="remove the folder and begin anew")
        return torch.frombuffer(content, dtype=self.dtype).view(tokens, width).to(self.device)

    @staticmethod
    def _write(file: BinaryIO, rows: Tensor) -> None:
        file.write(rows.contiguous().view(torch.uint8).cpu().numpy().tobytes())


def stream_blocks(
    folder: Path, name: str, texts: Sequence[Text], work: Path, *, drafter: str, device: str, dtype: str, temperature: float, seed: int,
    progress: Progress, memory_bytes: float | None = None, tokens_at_once: int = TOKENS_AT_ONCE, rows_at_once: int = 128,
) -> RecordedBlocks:  # fmt: skip
    """Blocks of the fused drafter along `texts`, which must be the target's own answers at `temperature`; of those that did not end by themselves,
    the last γ - 1 tokens are no anchor. Raises DsimError for what does not fit, in the checkpoint, the texts, `memory_bytes` or `work`."""
    checkpoint = checked(folder)
    spec, sizes = read_spec(folder), checkpoint.sizes
    said = served(texts, frozenset(sizes.eos), sizes.vocabulary, spec.gamma - 1)
    found = fitting(checkpoint, said, dtype, tokens_at_once, rows_at_once, _limit(device) if memory_bytes is None else memory_bytes)
    progress.say(f"{len(said)} texts through {sizes.layers} layers and {checkpoint.stages} stages, one at a time: {found}")
    if not work.exists() and (free := shutil.disk_usage(_existing(work)).free) < found.disk_bytes:
        raise DsimError(
            f"{free / 1e9:.2f} GB are free, {found.disk_bytes / 1e9:.2f} needed", where=work, remedy="free space, or choose another --out"
        )
    content = json.dumps([[one.text.prompt, one.text.output, one.beyond, one.text.domain] for one in said])
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    about = {
        "weights": _mark(checkpoint), "texts": digest, "dtype": dtype, "temperature": temperature, "seed": seed, "device": device,
        "tokens_at_once": found.tokens_at_once, "rows_at_once": found.rows_at_once,
    }  # fmt: skip
    if (work / BEGUN).exists():
        same_options(read_json(work / BEGUN), about, "an unfinished measurement", work)
    write_whole(work / BEGUN, json.dumps(about, indent=1))
    with memory_of("a layer and the texts that go through it", name, "give --memory, and less than there is"):
        parts = Streamed(
            checkpoint, name, said, work, device=device, dtype=dtype, temperature=temperature, seed=seed, needs=found,
            progress=progress,
        ).blocks()  # fmt: skip
    return recorded(parts, said, drafter, spec.gamma, temperature, f"{Path(name).name} ({dtype})")


def _mark(checkpoint: V4Checkpoint) -> str:
    """Tells weights apart that bear the same name."""
    digest = hashlib.blake2b(digest_size=8)
    for name, stored in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {stored.dtype} {stored.shape} ".encode())
    for name in (
        "norm.weight",
        "layers.0.attn.kv_norm.weight",
        f"layers.{checkpoint.sizes.layers - 1}.attn.kv_norm.weight",
        "mtp.0.main_norm.weight",
    ):
        for _, tensor in tensors_of(checkpoint, [name]):
            digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()


def _limit(device: str) -> float | None:
    """Memory that there is, where it is the device's own."""
    return 0.9 * torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
