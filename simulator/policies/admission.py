"""Who is next into the running batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from simulator.kind import Kind, Lowered


class AdmissionOrder(Kind):
    """Picks from the waiting requests, given their prompt lengths (where it `ranks`, their priorities) in order of arrival. Lowering: `lowered()`."""

    looks: ClassVar[bool] = True  # at the prompts; else it is not asked, and the first is next

    ranks: ClassVar[bool] = False  # by the priorities of classes, here and in preemption

    def next(self, prompt_tokens: Sequence[int]) -> int:
        """The place of the next one: of the smallest, and of those the first."""
        return min(range(len(prompt_tokens)), key=prompt_tokens.__getitem__)


class FirstCome(AdmissionOrder):
    """In order of arrival (vLLM's and SGLang's default); requests thrown out come back first. With prompts computed elsewhere they queue for a worker
    again, behind others."""

    kind: Literal["first_come"] = "first_come"
    looks: ClassVar = False
    lowered: ClassVar = Lowered("first_come")

    def next(self, prompt_tokens: Sequence[int]) -> int:
        return 0


class ShortestPrompt(AdmissionOrder):
    """The shortest prompt first: lower TTFT for most, at the cost of those with long prompts."""

    kind: Literal["shortest_prompt"] = "shortest_prompt"
    lowered: ClassVar = Lowered("shortest_prompt")


class ByPriority(AdmissionOrder):
    """The class of the lowest `priority` first, then in order of arrival; who is preempted is the last to have come of the highest. Nobody is
    preempted to let another in (`--scheduling-policy priority` of vLLM's V1 scheduler)."""

    kind: Literal["priority"] = "priority"
    ranks: ClassVar = True


Admission = Annotated[FirstCome | ShortestPrompt | ByPriority, Field(discriminator="kind")]
