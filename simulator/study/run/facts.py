"""What a result says of its question, its profile, its policies and what it is not sure of, beside its numbers (result.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from simulator.names import Anywhere
from simulator.quantities import Share
from simulator.study.run.record import Record, ShortText

if TYPE_CHECKING:
    from simulator.measurements.profile import Profile


class ScenarioFacts(Record):
    """Which question, and how much was simulated."""

    name: ShortText
    question: str = ""
    file: Anywhere
    seed: NonNegativeInt
    replications: PositiveInt
    overrides: tuple[str, ...] = ()
    content: dict[str, Any]  # of the YAML


class Source(Record):
    """Where a table of a profile comes from."""

    table: str
    provenance: str
    source: str = ""
    note: str = ""


def sources(profile: Profile) -> tuple[Source, ...]:
    """Those of all its tables."""
    return tuple(Source(**row) for row in profile.provenance())


class ProfileFacts(Record):
    """What was simulated, and what is known of it."""

    name: ShortText
    hardware: str
    engine: str
    target: str
    gpus_per_replica: PositiveFloat
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    provenance: tuple[Source, ...] = ()


def _rule(verification: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in verification.items() if key != "kind" and value is not None)
    kind = str(verification.get("kind", ""))
    return f"{kind} ({rest})" if rest else kind


class PolicyFacts(Record):
    """A policy of the study. `bound`: it knows what no policy can know, is drawn dashed and never a plan; `peeks`: its output is not lossless."""

    name: ShortText
    drafter: ShortText | None = None
    verification: dict[str, Any]
    bound: bool
    peeks: bool = False
    groups: dict[ShortText, dict[str, Any]] = {}  # verification on groups of the fleet that do otherwise

    @property
    def rule(self) -> str:
        """`threshold (threshold 0.5, of survival)`, and what groups do otherwise."""
        others = "".join(f"; {name}: {_rule(verification)}" for name, verification in self.groups.items())
        return _rule(self.verification) + others


class UnsureFacts(Record):
    """A number that the profile is not sure of, and what it has to do with the width of the answer's interval."""

    parameter: ShortText
    drafter: ShortText | None = None
    sd: NonNegativeFloat
    note: str = ""
    share: Share  # of the variance of the answer


class WorthMeasuring(Record):
    """One benchmark that would tell most, and how much of the width of the answer's interval would be left."""

    policy: ShortText
    load: PositiveFloat
    left: Share


class ModelErrorFacts(Record):
    """The model's own error, as standard deviations of a logarithm: common to all policies, of each, of each at a load."""

    metric: ShortText
    common: NonNegativeFloat
    policy: NonNegativeFloat
    cell: NonNegativeFloat
    comparisons: NonNegativeInt
    source: str


class PredictionFacts(Record):
    """What the prediction intervals of a result are made of. `assumed`: the profile does not say what it is unsure of, its provenance does."""

    level: Share
    draws: PositiveInt
    kind: ShortText
    points: NonNegativeInt
    assumed: bool
    model_error: tuple[ModelErrorFacts, ...] = ()
    about: str = ""  # the number that the shares are of
    unsure: tuple[UnsureFacts, ...] = ()
    model_share: Share = 0.0
    noise_share: Share = 0.0
    measure: WorthMeasuring | None = None
