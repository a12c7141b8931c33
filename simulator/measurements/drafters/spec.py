"""What every packaging is normalised to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Family = Literal["dspark", "dflash", "eagle3", "mtp"]
EMBEDDING, POST_NORM = -1, -2  # taps that are not the output of a layer
Packaging = Literal["deepspec", "specforge", "speculators", "vllm", "deepseek", "deepseek-v4"]
FUSED: Packaging = "deepseek-v4"  # a drafter in its target's checkpoint


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """A drafter as understood from its config (checkpoint format §2, §8)."""

    folder: Path
    packaging: Packaging
    family: Family
    backbone: dict[str, Any]  # a transformers config of its decoder layers
    taps: tuple[int, ...]  # target layers by their output, 0-based; -1 the embedding, -2 output of the final norm
    block: int  # tokens that go through the backbone at once
    first_slot: int  # 0: the anchor's slot predicts the first token; 1: it predicts nothing (original DFlash)
    gamma: int  # most tokens drafted in a round
    mask_token: int = 0
    markov_rank: int = 0
    markov_kind: Literal["none", "vanilla", "gated", "rnn"] = "none"
    confidence: Literal["none", "hidden", "hidden+token"] = "none"
    draft_vocabulary: int | None = None  # None: the target's
    causal_block: bool = False
    windows: tuple[int | None, ...] = ()  # of each draft layer; none: all see everything
    norm_before_residual: bool = False  # Eagle3 of vLLM-speculators
    target_layers: int | None = None
    rope_shift: int = 0  # of the block's positions; anything but 0 is a mistake that the self-check makes on purpose

    @property
    def hidden(self) -> int:
        return int(self.backbone["hidden_size"])

    @property
    def vocabulary(self) -> int:
        return int(self.backbone["vocab_size"])

    @property
    def one_by_one(self) -> bool:
        """Does every drafted token pass the layers (a chain), or all of them at once (a block)?"""
        return self.family in ("eagle3", "mtp")
