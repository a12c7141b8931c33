"""What every packaging is normalised to, and what the engine asks of a drafter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from real_runner.layout import Ints, Layout
from real_runner.slots import SlotCache

Family = Literal["dspark", "dflash", "eagle3", "mtp"]
Packaging = Literal["deepspec", "specforge", "speculators", "deepseek"]


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """A drafter as understood from its config (checkpoint format §2, §8)."""

    folder: Path
    packaging: Packaging
    family: Family
    backbone: dict[str, Any]  # a transformers config of its decoder layers
    taps: tuple[int, ...]  # target layers by their output, 0-based; -1 the embedding, -2 the final norm's output
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


@dataclass(slots=True)
class Proposal:
    """Drafted tokens of R requests, as many of each as asked for, γ at most."""

    tokens: Tensor  # [R, γ]
    probabilities: Tensor | None  # [R, γ, V] of the drafter, at temperature > 0
    confidence: Tensor | None  # [R, γ] logits: P(slot accepted | slots before it accepted) before the sigmoid


class Drafter(Protocol):
    """Drafts for all requests at once. Its KV cache has a row per slot, as the target's."""

    spec: DraftSpec
    taps: tuple[int, ...]
    gamma: int
    kv: SlotCache | None

    def allocate(self, slots: int, length: int) -> None: ...

    def lay_out(self, slots: Ints, reach: int, **how: Any) -> Layout:
        """The tokens of one drafting of the requests in `slots` [R]."""
        ...

    def absorb(self, features: Tensor, next_ids: Tensor, last: Tensor, slots: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """Takes in the target's features [B, m·d]; `next_ids` [B] follow each token, `last` [R] are the rows of the last kept ones."""
        ...

    def propose(self, ints: Tensor, layout: Layout, slots: Tensor, start: Tensor, anchor: Tensor, temperature: float, luck: Tensor) -> Proposal:
        """Drafts from the anchors [slots + 1] at positions `start` [slots + 1]; `luck` [R, n] uniform, n ≤ γ tokens are drafted."""
        ...
