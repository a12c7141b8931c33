"""What every way to make a profile shares: what its sources cannot say of themselves, and writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from simulator.errors import DsimError
from simulator.files import why_not_writable, write_whole
from simulator.measurements.cost import Costs
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Profile, save_profile
from simulator.names import check_word

DOMAIN = "any"  # of blocks from sources without domains
SLOPE = "the slope is attributed to verified tokens: data of one policy cannot tell cost per token from cost per request"


@dataclass(frozen=True)
class About:
    """Where a profile is written, and what its sources do not say."""

    out: Path
    name: str | None = None
    hardware: str = "not stated"
    engine: str = "not stated"
    target: str = "not stated"
    gpus_per_replica: float = 1.0
    drafter: str = "drafter"
    force: bool = False

    @property
    def called(self) -> str:
        """The profile's name."""
        return self.out.resolve().name if self.name is None else self.name

    def check(self) -> None:
        """Raises DsimError where a value is out of range or there is a profile already."""
        if (self.out / "profile.yaml").exists() and not self.force:
            raise DsimError("already holds a profile", where=self.out, remedy="choose another --out, or replace it with --force")
        if not (isfinite(self.gpus_per_replica) and self.gpus_per_replica > 0):
            raise DsimError(f"expected a positive number, got {self.gpus_per_replica:g}", key="--gpus-per-replica")
        check_word(self.drafter, "--drafter", file=True)
        check_word(self.called, "--name")

    def write(
        self,
        costs: Costs,
        drafter: tuple[Drafter, RecordedBlocks] | None,
        assumed: Sequence[str],
        unknown: Sequence[str],
        made_by: str,
        files: Mapping[str, str] = {},
    ) -> Profile:
        """Writes the folder: profile.yaml, the drafter's blocks, and `files` by name. Raises DsimError where it cannot be written."""
        if (reason := why_not_writable(self.out)) is not None:
            raise DsimError(f"cannot write ({reason})", where=self.out, remedy="choose another --out")
        profile = Profile(
            format=1,
            name=self.called,
            hardware=self.hardware,
            engine=self.engine,
            target=self.target,
            gpus_per_replica=self.gpus_per_replica,
            costs=costs,
            drafters={} if drafter is None else {self.drafter: drafter[0]},
            assumed=list(assumed),
            not_identifiable=list(unknown),
        )
        for name, text in files.items():
            write_whole(self.out / name, text)
        if drafter is not None:
            drafter[1].save(self.out / drafter[0].blocks)
        save_profile(profile, self.out, made_by)
        return profile


def without_head(blocks: RecordedBlocks) -> RecordedBlocks:
    """The same blocks of a drafter without a confidence head."""
    return replace(blocks, confidence=None)
