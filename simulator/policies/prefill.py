"""Where prompts are processed: not asked, in steps of their own, in chunks beside decoding, or on other machines."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field, NonNegativeFloat, PositiveInt

from simulator.schema import Frozen


class PrefillMode(Protocol):
    """How many prompt tokens a step takes, and whether it decodes."""

    kind: str
    on_replica: ClassVar[bool]

    def share(self, decode_tokens: int, pending_tokens: int) -> tuple[int, bool]: ...


class Instant(Frozen):
    """Not part of the question: requests arrive with their prompt processed, so TTFT says nothing. For comparing decode alone."""

    kind: Literal["instant"] = "instant"
    on_replica: ClassVar[bool] = False

    def share(self, decode_tokens: int, pending_tokens: int) -> tuple[int, bool]:
        return 0, True


class Separate(Frozen):
    """Prompts first, in steps of their own of at most `max_tokens`; decoding waits meanwhile."""

    kind: Literal["separate"] = "separate"
    max_tokens: PositiveInt = 8192
    on_replica: ClassVar[bool] = True

    def share(self, decode_tokens: int, pending_tokens: int) -> tuple[int, bool]:
        return min(pending_tokens, self.max_tokens), pending_tokens == 0


class Chunked(Frozen):
    """Every step decodes; what its token budget leaves goes to prompt chunks."""

    kind: Literal["chunked"] = "chunked"
    token_budget: PositiveInt = 2048
    on_replica: ClassVar[bool] = True

    def share(self, decode_tokens: int, pending_tokens: int) -> tuple[int, bool]:
        return min(pending_tokens, max(self.token_budget - decode_tokens, 0)), True


class Disaggregated(Frozen):
    """On other machines, `workers` prompts at a time (none given: as many as come), then a transfer of the cache.

    The first token is emitted when the prompt is done, before the transfer. `gpus_per_worker` count in throughput per GPU
    where `workers` is given.
    """

    kind: Literal["disaggregated"] = "disaggregated"
    workers: PositiveInt | None = None
    gpus_per_worker: NonNegativeFloat = 0.0
    transfer_s: NonNegativeFloat = 0.0
    on_replica: ClassVar[bool] = False

    def share(self, decode_tokens: int, pending_tokens: int) -> tuple[int, bool]:
        return 0, True


Prefill = Annotated[Instant | Separate | Chunked | Disaggregated, Field(discriminator="kind")]
