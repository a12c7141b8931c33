"""What a profile does not know of itself: numbers that were assumed, or known with an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.names import Name
from simulator.quantities import Within
from simulator.schema import Frozen

Parameter = Literal["step", "verified", "growth", "draft", "scheduling", "prefill", "level", "tilt", "pace"]
OF_ACCEPTANCE = ("level", "tilt")


class Unsure(Frozen):
    """One number of a profile with its standard deviation.

    Logarithms of factors: `step` (all verify costs and overhead), `verified` (what drafted tokens add to a step beyond the anchors),
    `growth` (what tokens beyond the measured ones add), `prefill` (of prompts in the target; with `drafter`, in that drafter), `pace` (every time
    there is). Fractions of the step of one token: `draft` (of `drafter`; a whole round of one request) and `scheduling`, never below 0 in all but for
    `every_step_s`. Logits of conditional acceptance of `drafter`, of each domain: `level` (every slot), `tilt` (-½ at the first slot, rising to ½ at
    the last).
    """

    parameter: Parameter
    drafter: Name | None = None
    sd: Annotated[float, Within(0, 10)]
    note: str = ""  # why it is not known, and the measurement that would tell


class Uncertainty(Frozen):
    """All that is not known: `kind` says how the profile was made, `points` how many operating points with speculation went into it.
    `correlation` is that of the parameters, in their order; independent without it."""

    kind: Literal["measured", "fitted", "estimated", "published"]
    points: Annotated[int, Within(0, 1_000_000, "points")] = 0
    parameters: Annotated[list[Unsure], Field(max_length=100)] = []
    correlation: list[list[Annotated[float, Within(-1, 1)]]] | None = None

    @model_validator(mode="after")
    def _square(self) -> Uncertainty:
        n = len(self.parameters)
        if self.correlation is not None and (len(self.correlation) != n or any(len(row) != n for row in self.correlation)):
            raise ValueError(f"expected a correlation of {n} rows and columns, one for each parameter")
        return self
