"""Who is next into the running batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field

from simulator.schema import Frozen


class AdmissionOrder(Protocol):
    """Picks from the waiting requests, given their prompt lengths in order of arrival."""

    def next(self, prompt_tokens: Sequence[int]) -> int: ...


class FirstCome(Frozen):
    """In order of arrival (vLLM's and SGLang's default); requests thrown out come back first."""

    kind: Literal["first_come"] = "first_come"

    def next(self, prompt_tokens: Sequence[int]) -> int:
        return 0


class ShortestPrompt(Frozen):
    """The shortest prompt first: lower TTFT for most, at the cost of those with long prompts."""

    kind: Literal["shortest_prompt"] = "shortest_prompt"

    def next(self, prompt_tokens: Sequence[int]) -> int:
        return min(range(len(prompt_tokens)), key=prompt_tokens.__getitem__)


Admission = Annotated[FirstCome | ShortestPrompt, Field(discriminator="kind")]
