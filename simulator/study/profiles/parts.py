"""A profile in the making: what an import has found so far, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from simulator.measurements.cost import Costs, DraftCost, MeasuredTable, Overhead, PrefillCost, VerifyCost
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Family
from simulator.measurements.surface_priors import family_of
from simulator.measurements.uncertainty import Uncertainty
from simulator.study.profiles.about import About


@dataclass(frozen=True)
class DrafterPart:
    """A drafter and its blocks; without a family it is of the method that its name says."""

    draft: DraftCost
    blocks: RecordedBlocks
    family: Family | None = None
    temperatures: list[float] | None = None
    note: str = ""
    counted: int | None = None  # positions that were drafted

    def named(self, name: str) -> tuple[Drafter, RecordedBlocks]:
        """As the profile has it."""
        return Drafter(
            family=self.family or family_of(name), gamma=self.blocks.gamma, draft=self.draft, blocks=f"{name}.parquet",
            confidence=self.blocks.confidence is not None, temperatures=self.temperatures, note=self.note,
            counted=self.counted if self.counted is not None and self.counted < self.blocks.gamma else None,
        ), self.blocks  # fmt: skip


@dataclass
class Parts:
    """Costs, drafters, tables beside profile.yaml, what was assumed and what remains unknown; what else there is to say."""

    verify: VerifyCost | None = None
    overhead: Overhead = field(default_factory=lambda: Overhead(provenance="imported", note="within the step times"))
    prefill: PrefillCost | None = None
    costs: Costs | None = None  # all three, where a fit has them
    drafters: dict[str, DrafterPart] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    uncertainty: Uncertainty | None = None
    engine: str = ""  # that all results name
    remarks: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)  # of the points, for people
    data: dict[str, Any] = field(default_factory=dict)

    def measured(self, text: str, source: str, note: str, between: Literal["linear", "step"] = "linear") -> None:
        """Step costs from a table, written as verify.csv."""
        self.files["verify.csv"] = text
        self.verify = MeasuredTable(provenance="imported", source=source, note=note, file="verify.csv", between=between)

    def write(self, about: About, tool: str, left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Writes the profile; what was imported, for people and programs."""
        omitted = [f"left out, because no request finished: {name}" for name in left_out]
        self.unknown += omitted
        if self.costs is None:
            assert self.verify is not None
            self.costs = Costs(verify=self.verify, prefill=self.prefill, overhead=self.overhead)
        about = replace(about, engine=tool) if about.engine == "not stated" else about
        drafters = {name: part.named(name) for name, part in self.drafters.items()}
        made_by = f"Made by dsim import from files of {tool}"
        profile = about.write(self.costs, drafters, self.assumed, self.unknown, made_by, self.files, self.uncertainty)
        told = [_told(name, part.blocks) for name, part in self.drafters.items()]
        lines = [*self.remarks, *self.table, *omitted, *told, f"profile written to {about.out}"]
        data = {"profile": str(about.out), "engine": profile.engine, "drafters": list(profile.drafters), **self.data}
        lists = {"assumed": self.assumed, "not_identifiable": self.unknown, "left_out": list(left_out), "remarks": self.remarks}
        return data | lists | {"text": "\n".join(lines), "costs": profile.costs}


def _told(name: str, blocks: RecordedBlocks) -> str:
    survival = " ".join(f"{s:.2f}" for s in blocks.mean_survival())
    return f"drafter {name}: γ = {blocks.gamma}, survival by position {survival} over all anchors"
