"""Which drafter an estimate is asked for: a checkpoint's folder, whose config.json is read, or a family whose sizes follow from the target's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from simulator.complaints import shown
from simulator.errors import CheckpointError, DsimError
from simulator.measurements.drafters.fields import maybe, needed
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.drafters.spec import DraftSpec
from simulator.quantities import MOST_SLOTS
from simulator.reading.json_files import read_json
from simulator.study.estimate.shapes import Sizes

Family = Literal["dspark", "dflash", "eagle3", "mtp"]
FORMS = "a folder with config.json, or dspark-7, dflash-7, eagle3-7, mtp-1 and the like, whose sizes follow from the target's"
_WORD = re.compile(r"(dspark|dflash|eagle3|mtp)-(\d{1,3})")
_RELEASED = re.compile(r"(?:.*/)?(dspark|dflash|eagle3)_(.+)_(?:block|ttt)(\d{1,3})")  # as the drafters of the DSpark paper are called
_LAYERS, _TAPS, _RANK = 5, 5, 256  # of those drafters


@dataclass(frozen=True)
class DrafterShape:
    """A drafter by its sizes, before they are split over GPUs.

    `block`: tokens of a request that go through the layers at once, 1 for a chain, which goes `gamma` times. `layers` 0: its layer is the mean one of
    the target (MTP). `vocabulary` is what it chooses from, `input_vocabulary` what it reads.
    """

    family: Family
    gamma: int
    block: int
    layers: int
    hidden: int
    intermediate: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    vocabulary: int = 0
    input_vocabulary: int = 0
    taps: int = 0
    markov_rank: int = 0
    markov_kind: Literal["none", "vanilla", "gated", "rnn"] = "none"
    confidence: bool = False
    keys_are_values: bool = False
    windows: tuple[int | None, ...] = ()
    origin: str = ""

    @property
    def chain(self) -> bool:
        """Does every drafted token pass the layers?"""
        return self.family in ("eagle3", "mtp")

    @property
    def own_head(self) -> bool:
        """Has it a vocabulary of its own, and so a head of its own?"""
        return self.vocabulary != self.input_vocabulary

    @property
    def entering(self) -> int:
        """Numbers of a token that its attention reads: token and hidden state side by side in a chain."""
        return self.hidden * (2 if self.family == "eagle3" else 1)

    @property
    def parameters(self) -> int:
        """Numbers of its own, those that engines share with the target (embedding, head) left out; 0 for MTP, whose layer is the target's."""
        if not self.layers:
            return 0
        qkv, square = (self.heads + self.parts * self.kv_heads) * self.head_size, self.heads * self.head_size
        layer = self.entering * qkv + square * self.hidden + 3 * self.hidden * self.intermediate
        head = self.vocabulary * self.hidden if self.own_head else 0
        return self.layers * layer + head + self.replicated

    @property
    def replicated(self) -> int:
        """Those of its parameters that every GPU holds whole: the fusing projection and the Markov head."""
        joint = {"none": 0, "vanilla": 0, "gated": self.hidden + self.markov_rank, "rnn": 3 * (self.hidden + 2 * self.markov_rank)}[self.markov_kind]
        return self.taps * self.hidden**2 + self.markov_rank * (self.input_vocabulary + self.vocabulary + joint)

    @property
    def parts(self) -> int:
        """Projections of keys and values."""
        return 1 if self.keys_are_values else 2


def read_drafter(said: str, target: str, sizes: Sizes, where: str = "--drafter") -> DrafterShape:
    """The drafter that `said` names: a folder, a family with its tokens (`dspark-7`), or a released drafter's name, which stands for its family.

    `sizes` are those of `target`. Raises DsimError (CheckpointError about a file) where there is no such drafter or it does not fit the target.
    """
    if Path(said).is_dir():
        return _of_spec(read_spec(Path(said), sizes.layers), sizes)
    word, released = _WORD.fullmatch(said), _RELEASED.fullmatch(said)
    if released and not _plain(target.rsplit("/", 1)[-1]).startswith(_plain(released[2])):
        raise DsimError(f"{shown(said)} is a drafter of {released[2]}, not of {target}", where=where, remedy=f"give {FORMS}")
    found = (word and (word[1], word[2])) or (released and (released[1], released[3]))
    if not found or not 1 <= int(found[1]) <= MOST_SLOTS:
        raise DsimError(f"no such drafter: {shown(said)}", where=where, remedy=f"give {FORMS}; at most {MOST_SLOTS} tokens")
    family, count = cast(Family, found[0]), int(found[1])
    if family == "mtp":
        return _mtp(count, sizes)
    if not sizes.alike:
        problem = f"{shown(said)} has no sizes that follow from {target}: its layers are not all plain attention of one size"
        raise DsimError(problem, where=where, remedy="give the folder of a drafter with its config.json")
    return _following(family, count, sizes)


def _mtp(count: int, sizes: Sizes) -> DrafterShape:
    """The target's own module for next tokens, run once for each of them."""
    words, origin = sizes.vocabulary, "the target's own module: its mean layer and its vocabulary"
    return DrafterShape("mtp", count, 1, 0, sizes.hidden, vocabulary=words, input_vocabulary=words, origin=origin)


def _following(family: Family, count: int, sizes: Sizes) -> DrafterShape:
    """As the drafters of the DSpark paper's Table 1 are made: layers like the target's, features of five of its layers, the target's vocabulary."""
    layers = 1 if family == "eagle3" else _LAYERS
    made = f"{layers} layer{'s' * (layers > 1)} like the target's, features of {_TAPS} of its layers, its vocabulary"
    shape = DrafterShape(
        family,
        count,
        1 if family == "eagle3" else count,
        layers,
        sizes.hidden,
        sizes.intermediate,
        sizes.heads,
        sizes.kv_heads,
        sizes.head_size,
        vocabulary=sizes.vocabulary,
        input_vocabulary=sizes.vocabulary,
        taps=_TAPS,
        origin=f"{made}, as the released drafters of the DSpark paper have (its Table 1)",
    )
    return replace(shape, markov_rank=_RANK, markov_kind="vanilla", confidence=True) if family == "dspark" else shape


def _of_spec(spec: DraftSpec, sizes: Sizes) -> DrafterShape:
    """The sizes in a checkpoint's configuration. MTP's layer is the target's."""
    config, folder = spec.backbone, spec.folder
    file = folder / "config.json"
    if read_json(file, CheckpointError).get("quantization_config"):
        raise CheckpointError("a quantised drafter is not priced", where=file, key="quantization_config", remedy="give one in bfloat16")
    if spec.hidden != sizes.hidden:
        problem = f"{spec.hidden} is not the target's, {sizes.hidden}"
        raise CheckpointError(problem, where=file, key="hidden_size", remedy="give a drafter of this target")
    if spec.family == "mtp":
        return _mtp(spec.gamma, sizes)
    wide = str(config.get("model_type")).startswith("gemma4")  # its drafters attend as its global layers do
    heads, size = needed(config, "num_attention_heads", folder, 1), "global_head_dim" if wide else "head_dim"
    return DrafterShape(
        spec.family,
        spec.gamma,
        spec.block,
        1 if spec.one_by_one else needed(config, "num_hidden_layers", folder, 1),
        spec.hidden,
        needed(config, "intermediate_size", folder, 1),
        heads,
        needed(config, "num_global_key_value_heads" if wide else "num_key_value_heads", folder, 1),
        maybe(config, size, folder, 1) or spec.hidden // heads,
        vocabulary=spec.draft_vocabulary or spec.vocabulary,
        input_vocabulary=spec.vocabulary,
        taps=len(spec.taps),
        markov_rank=spec.markov_rank,
        markov_kind=spec.markov_kind,
        confidence=spec.confidence != "none",
        keys_are_values=wide and bool(config.get("attention_k_eq_v")),
        windows=spec.windows,
        origin=f"sizes of its config.json ({spec.packaging})",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
