"""Where prompts are processed: not asked, in steps of their own, in chunks beside decoding, or on other machines."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from simulator.kind import Kind, Lowered
from simulator.names import Anywhere
from simulator.policies.prefix_cache import Caching
from simulator.quantities import Bandwidth, GpusOrNone, KvTokens, Seconds, Tokens, Workers


class Machines(NamedTuple):
    """Prompts that are processed `at_a_time` (None: as many as come), seconds to move a cache to its replica, GPUs that throughput is divided by."""

    at_a_time: int | None = None
    moving_s: float = 0.0
    gpus: float = 0.0


class PrefillMode(Kind):
    """How a step is shared between decoding and prompts, and what a run must know of prompts that are processed elsewhere.

    `where`: in steps of the replica, on other machines before a replica is chosen, or nowhere, so that the profile needs no prefill cost and
    TTFT means nothing. `summary` is what reports say of it. Lowering: `lowered()`.
    """

    where: ClassVar[Literal["nowhere", "replica", "elsewhere"]] = "replica"
    summary: ClassVar[str] = ""

    def decodes(self, pending_tokens: int) -> bool:
        """Does a step decode while so many prompt tokens wait on the replica?"""
        return True

    def chunk(self, decode_tokens: int, pending_tokens: int) -> int:
        """Prompt tokens of a step that sends `decode_tokens` through the target beside them."""
        return 0

    @property
    def machines(self) -> Machines:
        """Those that process prompts elsewhere."""
        return Machines()

    @property
    def pooled(self) -> bool:
        """Are those told of in a profile, a cache or a link of their own?"""
        return False

    @property
    def words(self) -> str:
        """What is done with prompts, with the settings."""
        settings = ", ".join(f"{key} {value}" for key, value in self.model_dump(exclude={"kind"}, exclude_none=True).items())
        summary = self.summary or f"prompts are processed {super().words}"
        return f"{summary} ({settings})" if settings else summary


class Instant(PrefillMode):
    """Not part of the question: requests arrive with their prompt processed, so TTFT says nothing. For comparing decode alone."""

    kind: Literal["instant"] = "instant"
    where: ClassVar = "nowhere"
    summary: ClassVar = "not simulated: requests arrive with their prompt processed, and TTFT is not reported"
    lowered: ClassVar = Lowered("instant")


class Separate(PrefillMode):
    """Prompts first, in steps of their own of at most `max_tokens`; decoding waits meanwhile."""

    kind: Literal["separate"] = "separate"
    max_tokens: Tokens = 8192
    summary: ClassVar = "prompts are processed in steps of their own; decoding waits"

    def decodes(self, pending_tokens: int) -> bool:
        return pending_tokens == 0

    def chunk(self, decode_tokens: int, pending_tokens: int) -> int:
        return min(pending_tokens, self.max_tokens)

    def lowered(self) -> Lowered:
        return Lowered("separate", {"share": self.max_tokens})


class Chunked(PrefillMode):
    """Every step decodes; what its token budget leaves goes to prompt chunks."""

    kind: Literal["chunked"] = "chunked"
    token_budget: Tokens = 2048
    summary: ClassVar = "prompts are processed in chunks beside decoding"

    def chunk(self, decode_tokens: int, pending_tokens: int) -> int:
        return min(pending_tokens, max(self.token_budget - decode_tokens, 0))

    def lowered(self) -> Lowered:
        return Lowered("chunked", {"share": self.token_budget})


class Disaggregated(PrefillMode):
    """On other machines, `workers` prompts at a time (none given: as many as come), then a transfer of the cache.

    The first token is emitted when the prompt is done, before the transfer. `gpus_per_worker` count in throughput per GPU
    where `workers` is given.

    More of them: `profile` says what prompts cost there (its GPUs count), `prefix_cache` keeps prompts in the memory of each worker (`kv_tokens`),
    and transfers share `bandwidth_bytes_s`, `transfer_s` before each. Then a replica admits a request first, and fetches what its own cache lacks.
    """

    kind: Literal["disaggregated"] = "disaggregated"
    workers: Workers | None = None
    gpus_per_worker: GpusOrNone = 0.0
    transfer_s: Seconds = 0.0
    profile: Anywhere | None = None
    bandwidth_bytes_s: Bandwidth | None = None
    prefix_cache: Caching | None = None
    kv_tokens: KvTokens | None = None
    where: ClassVar = "elsewhere"
    summary: ClassVar = "prompts are processed on other machines"

    @property
    def machines(self) -> Machines:
        return Machines(self.workers, self.transfer_s, (self.workers or 0) * self.gpus_per_worker)

    @property
    def pooled(self) -> bool:
        """Is more known of the machines than how many, and how long a transfer takes?"""
        return not (self.profile is None and self.bandwidth_bytes_s is None and self.prefix_cache is None and self.kv_tokens is None)

    @property
    def words(self) -> str:
        unlimited = "" if self.workers else "; as many at a time as come, their GPUs not counted"
        plain = self.model_copy(update={"prefix_cache": None, "gpus_per_worker": self.gpus_per_worker or None}) if self.pooled else self
        cached = f", prefix cache {self.prefix_cache.words}" if self.prefix_cache else ""
        return f"{super(Disaggregated, plain).words[:-1]}{cached}{unlimited})"

    def lowered(self) -> Lowered | None:
        if self.pooled:
            return None
        return Lowered("disaggregated", {"workers": self.workers or 0, "transfer_s": self.transfer_s})


Prefill = Annotated[Instant | Separate | Chunked | Disaggregated, Field(discriminator="kind")]
