"""DeepSeek-V4 behind flattened-token, slot-cached steps, and the DSpark drafter in its checkpoint (format of V4, §3 and §4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from real_runner.deepseek_v4.layers import Collapse, Layer
from real_runner.deepseek_v4.parts import Norm, PositionCache, Seen, logits_of
from real_runner.deepseek_v4.storage import Linear, fill, tensors_of
from real_runner.drafters.drafter import DraftBatch
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.heads import ConfidenceHead
from real_runner.failures import memory_of
from real_runner.layout import Layout
from real_runner.slots import FlatBatch
from real_runner.target import DTYPES, Target, TargetStep
from simulator.errors import CheckpointError
from simulator.measurements.drafters.deepseek_v4 import DeepseekV4
from simulator.measurements.drafters.inventory import V4Checkpoint, checked
from simulator.measurements.drafters.spec import EMBEDDING, POST_NORM, DraftSpec
from simulator.reading.json_files import read_json


class V4Model(nn.Module):
    """Embedding, layers, collapse, norm and head, by the names of the checkpoint. It may have no layers, where they come one at a time."""

    def __init__(self, sizes: DeepseekV4, layers: Sequence[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.layers = nn.ModuleList(layer_of(sizes, number) for number in layers)
        self.collapse, self.norm = Collapse(sizes), Norm(sizes.hidden, sizes.eps)
        self.head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)

    def begin(self, ids: Tensor) -> Tensor:
        """A copy of the embedding for each stream  # [B, H, d]."""
        return streams_of(self.embed(ids), self.sizes.streams)

    def end(self, streams: Tensor) -> Tensor:
        """Hidden states after the final norm  # [B, d]."""
        return self.norm(self.collapse(streams))


def layer_of(sizes: DeepseekV4, number: int) -> Layer:
    """An empty layer of the target."""
    return Layer(sizes, number, sizes.ratios[number], hashed=number < sizes.hash_layers)


def streams_of(embedded: Tensor, count: int) -> Tensor:
    """[B, d] -> [B, H, d]."""
    return embedded.unsqueeze(1).repeat(1, count, 1)


class V4Target(Target):
    """The target in memory, its weights as stored."""

    cache = PositionCache
    capturable = False  # which experts a step runs is decided on the host

    def __init__(self, checkpoint: V4Checkpoint, name: str, device: str, dtype: str, resident: bool = True) -> None:
        """Without `resident` no layer is read: they come one at a time."""
        self.checkpoint, self.sizes, self.name = checkpoint, checkpoint.sizes, name
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        numbers = range(self.sizes.layers) if resident else ()
        with torch.device("meta"):
            self.model = V4Model(self.sizes, numbers)
        names = {"embed.weight": "embed.weight", "norm.weight": "norm.weight", "head.weight": "head.weight"}
        names |= {f"hc_head_{part}": f"collapse.hc_head_{part}" for part in ("fn", "base", "scale")}
        fill(self.model, ((names[theirs], tensor) for theirs, tensor in tensors_of(checkpoint, names)), self.dtype, self.device)
        for number, layer in enumerate(self.model.layers):
            fill_layer(layer, checkpoint, f"layers.{number}.", self.dtype, self.device)
        self.model.eval().requires_grad_(False)
        self.config = SimpleNamespace(**read_json(checkpoint.sizes.folder / "config.json", CheckpointError))
        self.embedding, self.head = self.model.embed, self.model.head
        self.taps, self.kv = (), None

    @property
    def layers(self) -> int:
        return self.sizes.layers

    @property
    def hidden(self) -> int:
        return self.sizes.hidden

    @property
    def eos(self) -> frozenset[int]:
        return frozenset(self.sizes.eos)

    def tap(self, taps: Sequence[int]) -> None:
        """Asks for the mean over the streams of what these layers put out, with every step."""
        self.taps = tuple(taps)

    @torch.no_grad()
    def step(self, ids: Tensor, flat: FlatBatch, rows: Tensor | None = None) -> TargetStep:
        assert isinstance(self.kv, PositionCache), "allocate first"
        seen = Seen(flat, self.kv, ids, self.sizes.window, flat.positions)
        streams = self.model.begin(ids)
        tapped = {EMBEDDING: streams[:, 0]}
        for number, layer in enumerate(self.model.layers):
            streams = layer(streams, seen)
            if number in self.taps:
                tapped[number] = tap_of(streams)
        tapped[POST_NORM] = hidden = self.model.end(streams)
        features = torch.cat([tapped[tap] for tap in self.taps], dim=-1) if self.taps else hidden.new_empty(len(hidden), 0)
        return TargetStep(logits_of(hidden if rows is None else hidden[rows], self.head.weight), features)


def tap_of(streams: Tensor) -> Tensor:
    """What a drafter reads of a layer's output  # [B, d]."""
    return streams.float().mean(dim=1).to(streams.dtype)


def fill_layer(layer: Layer, checkpoint: V4Checkpoint, prefix: str, dtype: torch.dtype, device: torch.device, dense: bool = False) -> None:
    """A layer's or a stage's tensors, from the checkpoint's that begin with `prefix` and are a layer's; `dense`: as plain numbers, not as stored."""
    names = {name: name.removeprefix(prefix) for name in checkpoint.tensors if name.startswith(prefix)}
    own = set(layer.state_dict()) | {name for part, module in layer.named_modules() if isinstance(module, Linear) for name in (f"{part}.scale",)}
    names = {name: ours for name, ours in names.items() if ours in own}
    fill(layer, ((names[name], tensor) for name, tensor in tensors_of(checkpoint, names)), dtype, device)
    layer.eval().requires_grad_(False)
    for part in layer.modules() if dense else ():
        if isinstance(part, Linear):
            part.make_dense(dtype)


class Stages(nn.Module):
    """The drafter's own layers, collapse and norm; the embedding is the target's."""

    def __init__(self, sizes: DeepseekV4, stages: Sequence[int]) -> None:
        super().__init__()
        self.embed_tokens: nn.Module = nn.Embedding(0, 0)
        self.layers = nn.ModuleList(stage_of(sizes, number) for number in stages)
        self.collapse, self.norm = Collapse(sizes), Norm(sizes.hidden, sizes.eps)
        self.config = SimpleNamespace(rms_norm_eps=sizes.eps)


def stage_of(sizes: DeepseekV4, number: int) -> Layer:
    """An empty stage of the drafter; `number` is its place in the draft cache."""
    return Layer(sizes, number, 0, hashed=False)


class V4Drafter(BlockDrafter):
    """DSpark in the target's checkpoint: stages that are layers of the target's kind, each with a window of keys of the context."""

    cache = PositionCache

    def __init__(self, spec: DraftSpec, target: V4Target, resident: bool = True) -> None:
        """Without `resident` no stage is read: they come one at a time."""
        checkpoint = self.checkpoint = target.checkpoint
        self.sizes, self._resident = target.sizes, range(checkpoint.stages) if resident else ()
        with torch.device("meta"):
            super().__init__(spec)
            self.fc = Linear(spec.hidden, len(spec.taps) * spec.hidden, self.sizes.fp8_block)
            self.confidence_head = ConfidenceHead(spec.hidden + spec.markov_rank, bias=False)
        last = f"mtp.{checkpoint.stages - 1}."
        names = {"mtp.0.main_norm.weight": "hidden_norm.weight", f"{last}norm.weight": "backbone.norm.weight"}
        names |= {f"mtp.0.main_proj.{part}": f"fc.{part}" for part in ("weight", "scale") if f"mtp.0.main_proj.{part}" in checkpoint.tensors}
        names |= {f"{last}hc_head_{part}": f"backbone.collapse.hc_head_{part}" for part in ("fn", "base", "scale")}
        names |= {f"{last}markov_head.{part}.weight": f"markov_head.{part}.weight" for part in ("markov_w1", "markov_w2")}
        names |= {f"{last}confidence_head.proj.weight": "confidence_head.proj.weight"}
        fill(self, ((names[theirs], tensor) for theirs, tensor in tensors_of(checkpoint, names)), target.dtype, target.device)
        for number, stage in enumerate(self.backbone.layers):
            fill_layer(stage, checkpoint, f"mtp.{number}.", target.dtype, target.device)
        self.confidence_head.float()  # whatever the others are, as their products and the head's
        self.markov_head.float()
        self.backbone.embed_tokens, self.lm_head = target.embedding, target.head
        self.eval().requires_grad_(False)

    def make_backbone(self) -> Stages:
        return Stages(self.sizes, self._resident)

    def context(self, features: Tensor) -> Tensor:
        """What all stages read of the target's features [B, m·d]  # [B, d]."""
        return self.hidden_norm(self.fc(features))

    def extend(self, features: Tensor, next_ids: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """Context as keys of each stage; `next_ids` do not matter here."""
        context, flat = self.context(features), layout.flat(ints, start)
        for stage in self.backbone.layers:
            self.take_in(stage, context, flat)

    def take_in(self, stage: Layer, context: Tensor, flat: FlatBatch) -> None:
        """Context [B, d] as a stage's keys."""
        assert isinstance(self.kv, PositionCache), "allocate first"
        stage.attn.remember(context, Seen(flat, self.kv, flat.slots, self.sizes.window, flat.positions))

    @torch.no_grad()
    def begin(self, batch: DraftBatch) -> Tensor:
        """Collapsed streams of the slots, before the final norm  # [R, γ, d]."""
        streams = self.enter(batch)
        for stage in self.backbone.layers:
            streams = self.through(stage, streams, batch)
        return self.leave(streams, batch)

    def enter(self, batch: DraftBatch) -> Tensor:
        """The anchor and the noise after it, embedded, for each token of the batch's layout  # [B, H, d]."""
        return streams_of(self.backbone.embed_tokens(self.block_ids(batch)), self.sizes.streams)

    def through(self, stage: Layer, streams: Tensor, batch: DraftBatch) -> Tensor:
        """Every slot sees the same keys: the window before the anchor, and the whole block  # [B, H, d]."""
        assert isinstance(self.kv, PositionCache), "allocate first"
        flat = batch.layout.flat(batch.ints, batch.start, self.spec.block)
        span = self.sizes.window + self.spec.block
        return stage(streams, Seen(flat, self.kv, flat.slots, span, flat.positions + self.spec.rope_shift))

    def leave(self, streams: Tensor, batch: DraftBatch) -> Tensor:
        """The slots that predict  # [R, γ, d]."""
        count, block = len(batch.slots), self.spec.block
        return self.backbone.collapse(streams[: count * block]).view(count, block, -1)[:, self.spec.first_slot :]

    def base_logits(self, hidden: Tensor) -> Tensor:
        return logits_of(self.backbone.norm(hidden), self.lm_head.weight)

    def steps_along(self, ids: Tensor, features: Tensor, anchors: Tensor, count: int) -> Iterator[Tensor]:  # type: ignore[override]
        raise CheckpointError("a fused drafter is not trained here", where=self.spec.folder)


def load_v4(folder: Path, name: str, device: str, dtype: str) -> V4Target:
    """The target in a folder. Raises CheckpointError."""
    checkpoint = checked(folder)
    with memory_of("the target's weights", name):
        return V4Target(checkpoint, name, device, dtype)


def load_fused(spec: DraftSpec, target: Target) -> V4Drafter:
    """The drafter in the target's own checkpoint. Raises CheckpointError."""
    if not isinstance(target, V4Target):
        raise CheckpointError("a drafter fused into DeepSeek-V4 drafts for that target alone", where=spec.folder, remedy="give it as --target, too")
    if spec.folder.resolve() != target.sizes.folder.resolve():
        raise CheckpointError("the drafter of another checkpoint", where=spec.folder, remedy=f"give --draft {target.name}")
    with memory_of("the drafter's weights", spec.folder):
        return V4Drafter(spec, target)
