"""What a prefix cache keeps of requests, and what speculation costs it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.kind import Kind
from simulator.quantities import Flag, PageTokens, Within

Blocks = Annotated[int, Within(0, 1000, "blocks")]
UnnamedTokens = Annotated[int, Within(0, 1000, "tokens")]
Rounds = Annotated[int, Within(1, 10, "rounds")]


class PrefixCaching(Kind):
    """Blocks of `engine.page_tokens` tokens, shared by reference, the least recently used evicted first.

    `answers`: what a finished request leaves has the blocks of its answer, too. A hit is whole blocks, or whole units of `hit_unit_tokens`. With
    `keeps_copies` a block that is computed again stays beside the one that is there, and takes memory of its own.

    What speculation costs, under a policy that drafts: the last `recomputed_blocks` of a hit are computed again, the last `unnamed_tokens` of a
    request are in no block that others find (with `last_round_unnamed` all that its last round brought, too), and every request keeps room for
    `reserved_rounds` rounds.
    """

    answers: Flag = True
    keeps_copies: Flag = False
    hit_unit_tokens: PageTokens | None = None
    recomputed_blocks: Blocks = 0
    unnamed_tokens: UnnamedTokens = 0
    last_round_unnamed: Flag = False
    reserved_rounds: Rounds = 1

    @property
    def words(self) -> str:
        """What it is, with what is not as in the plainest one."""
        plain = PrefixCaching(kind="").model_dump(exclude={"kind"})
        own = [f"{name} {value}" for name, value in self.model_dump(exclude={"kind"}).items() if value != plain[name]]
        return f"{self.kind} ({', '.join(own)})" if own else self.kind

    def left_tokens(self, context: int, known: int) -> int:
        """Of the tokens of a finished request, `known` before its last round, those that it may leave; its last token was never sent through the
        target."""
        if not self.answers:
            return 0
        return known if self.last_round_unnamed else context - 1

    def used_blocks(self, found: int, page_tokens: int, speculates: bool) -> int:
        """Of so many blocks at the beginning of a request that are there, those that it need not compute."""
        used = max(found - self.recomputed_blocks, 0) if speculates else found
        unit = self.hit_unit_tokens or page_tokens
        return used * page_tokens // unit * unit // page_tokens

    def named_blocks(self, tokens: int, page_tokens: int, speculates: bool) -> int:
        """Of so many computed tokens of a request, the whole blocks that others can find."""
        return max(tokens - self.unnamed_tokens, 0) // page_tokens if speculates else tokens // page_tokens


class Lru(PrefixCaching):
    """As it would be if speculation cost it nothing."""

    kind: Literal["lru"] = "lru"


class VllmCache(PrefixCaching):
    """vLLM: drafters that read the target's features (Eagle, MTP, DSpark) cannot use the last block of a hit, for its features depend on the token
    after it; it is computed again (vllm issues 50438, 53670). With n-grams, a draft model or `disable_eagle_block_drop` set `recomputed_blocks: 0`.
    Blocks get their names as a step is scheduled (`KVCacheManager.allocate_slots` of 0.32), so those of the last round get none. It does keep copies
    (`BlockHashToBlockMap`): one block of a hit under Eagle. Beside a memory of thousands of blocks that is little, and costs the compiled path.

    Blocks of hybrid models are larger (`engine.page_tokens`), and some align hits to more than a block (`hit_unit_tokens`, vllm-ascend issue 9247).
    """

    kind: Literal["vllm"] = "vllm"
    recomputed_blocks: Blocks = 1
    last_round_unnamed: Flag = True


class SglangCache(PrefixCaching):
    """SGLang: Eagle's keys are pairs of tokens, so that a request leaves one token less (sglang pull request 39150), and with overlapped scheduling
    there is room for two rounds (32574). Its pages have one token unless it is told otherwise (`engine.page_tokens`)."""

    kind: Literal["sglang"] = "sglang"
    unnamed_tokens: UnnamedTokens = 1
    reserved_rounds: Rounds = 2


Caching = Annotated[Lru | VllmCache | SglangCache, Field(discriminator="kind")]
