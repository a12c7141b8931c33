"""A request as it is given, and as it lives in the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request of the workload.

    `index` keys its random streams (which recorded texts it walks), so it must not depend on the policy. `output_tokens`
    counts all tokens of the answer: the first comes at the end of prefill, the others from decode rounds.
    `cached_prompt_tokens` of the prompt are already in a prefix cache and cost no prefill.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    domain: str
    cached_prompt_tokens: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """What has happened to a request so far."""

    spec: RequestSpec
    user: int = -1  # closed loop: whose it is
    turn: int = -1
    measured: bool = False
    first_token_s: float = nan
    finish_s: float = nan
    emitted_tokens: int = 0
    prefilled_tokens: int = 0  # of prompt plus emitted tokens, since it was last admitted
    last_emit_s: float = nan
    left_s: float = nan  # since when it has had tokens and been in no batch
    waited_s: float = 0.0  # spent so since its last round
    preemptions: int = 0
    rejected: bool = False
    visit: int = 0  # which sequence of its walk it is in
    row: int = -1  # and which recorded row is next
    walk: object = field(default=None, repr=False)

    @property
    def context_tokens(self) -> int:
        """Tokens whose keys and values a decode step of it reads."""
        return self.spec.prompt_tokens + self.emitted_tokens

    @property
    def to_prefill(self) -> int:
        """Tokens still to be processed before it can decode."""
        return self.context_tokens - self.prefilled_tokens

    @property
    def finished(self) -> bool:
        """All its tokens are out."""
        return self.finish_s == self.finish_s
