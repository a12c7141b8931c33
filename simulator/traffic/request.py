"""A request as it is given, before anything has happened to it."""

from __future__ import annotations

from dataclasses import dataclass


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
