"""What a scenario holds its result against: published curves and callouts, each with the limit it should keep."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.quantities import Flag, Within
from simulator.schema import Frozen

Concurrency = Annotated[float, Within(1e-6, 1e9, "requests at a time")]


class CurveCheck(Frozen):
    """A simulated metric against a published curve, at every simulated load within `between` that the curve covers.

    `table` names a table of the profile; `y` its column that `metric` is compared with; x is concurrency, the column of that
    name, or else throughput ÷ speed, which is the number of users in flight. `fitted` where the profile was fitted to this curve: then it
    says how well the fit holds, and is no evidence.
    """

    kind: Literal["curve"] = "curve"
    policy: str
    table: str
    y: str
    metric: str
    between: tuple[Concurrency, Concurrency]
    limit_rms: Annotated[float, Within(1e-9, 1e9)] | None = None
    fitted: Flag = False


class CalloutCheck(Frozen):
    """Published callouts (columns anchor, role, system, tps_per_user, throughput_tok_s_gpu): gain in throughput at a promise, and
    in speed at matched throughput. `systems` maps the table's names to policies, the baseline first."""

    kind: Literal["callouts"] = "callouts"
    table: str
    systems: Annotated[dict[str, str], Field(min_length=2, max_length=2)]


class SweepCheck(Frozen):
    """A published sweep of concurrency (columns policy, concurrency and `y`): every cell as a gain over the first system at the same
    concurrency, and where in the published grid `adaptive` overtakes the best of the others and where speculation stops paying.

    `systems` maps the table's names to policies, ordinary decoding first. A crossing may lie `limit_steps` of the grid from the published one.
    `fitted` names the cells that the profile was fitted to: system → concurrencies.
    """

    kind: Literal["sweep"] = "sweep"
    table: str
    y: str
    metric: str
    systems: Annotated[dict[str, str], Field(min_length=2)]
    adaptive: str | None = None
    limit_steps: Annotated[int, Within(0, 1000, "steps")] | None = None
    fitted: dict[str, list[Concurrency]] = {}


Check = Annotated[CurveCheck | CalloutCheck | SweepCheck, Field(discriminator="kind")]
