"""What every way to make a profile shares: what its sources cannot say of themselves, and writing it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import whole_folder, write_whole
from simulator.made import check_made
from simulator.measurements.cost import Costs
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Profile, load_profile, save_profile
from simulator.measurements.uncertainty import Uncertainty
from simulator.names import check_word
from simulator.schema import validate

LEAST_GPUS, MOST_GPUS = 1e-3, 1e6  # per replica
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

    def check(self, files: Sequence[str] = ("verify.csv", "draft.csv", "probe.json")) -> None:
        """Raises DsimError where a value is out of range, or there is a profile already or one of its `files`, not made by dsim."""
        check_word(self.drafter, "--drafter", file=True)
        check_word(self.called, "--name")
        holds_profile = os.path.lexists(self.out / "profile.yaml")
        check_made(self.out, (*files, f"{self.drafter}.parquet"), self.force or holds_profile)
        if holds_profile and not self.force:
            raise DsimError("already holds a profile", where=self.out, remedy="choose another --out, or replace it with --force")
        if not LEAST_GPUS <= self.gpus_per_replica <= MOST_GPUS:
            problem = f"expected a positive number of GPUs, up to {MOST_GPUS:g}, got {self.gpus_per_replica:g}"
            raise DsimError(problem, key="--gpus-per-replica")

    def write(
        self,
        costs: Costs,
        drafters: Mapping[str, tuple[Drafter, RecordedBlocks]],
        assumed: Sequence[str],
        unknown: Sequence[str],
        made_by: str,
        files: Mapping[str, str] = {},
        uncertainty: Uncertainty | None = None,
        more: Mapping[str, Any] = {},
    ) -> Profile:
        """Writes the folder: profile.yaml with `more` of its keys, the drafters' blocks, and `files` by name; the profile as it is read again. Raises
        DsimError where it cannot be written, or what it would hold is not a valid profile: then the folder is as it was."""
        content = {
            "format": 1,
            "name": self.called,
            "hardware": self.hardware,
            "engine": self.engine,
            "target": self.target,
            "gpus_per_replica": self.gpus_per_replica,
            "costs": costs,
            "drafters": {name: drafter for name, (drafter, _) in drafters.items()},
            "uncertainty": uncertainty,
            "assumed": list(assumed),
            "not_identifiable": list(unknown),
            **more,
        }
        profile = validate(Profile, content, self.out, DsimError)
        with whole_folder(self.out, last="profile.yaml") as folder:
            for name, text in files.items():
                write_whole(folder / name, text)
            for drafter, blocks in drafters.values():
                blocks.save(folder / drafter.blocks)
            save_profile(profile, folder, made_by)
            return self._read_again(folder)

    def _read_again(self, draft: Path) -> Profile:
        """The profile that is to move to `out`, read with its tables and blocks. Raises DsimError."""
        try:
            profile = load_profile(draft)
            profile.provenance()  # which reads the blocks
        except DsimError as error:
            where = self.out / Path(error.where).name if error.where else self.out
            remedy = "check the numbers that it is made of"
            raise DsimError(f"would not be a valid profile: {error.problem}", where=where, key=error.key, remedy=remedy) from None
        return profile.moved(self.out)


def without_head(blocks: RecordedBlocks) -> RecordedBlocks:
    """The same blocks of a drafter without a confidence head."""
    return replace(blocks, confidence=None)
