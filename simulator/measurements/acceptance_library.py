"""Acceptance by target and drafter, recorded blocks beside acceptance.yaml: what others published is in profiles/acceptance/SOURCE/NAME/, what one
measured without step costs is where it was put."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import log
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from simulator import shipped
from simulator.complaints import shown
from simulator.errors import ProfileError
from simulator.measurements.another_model import Told, acceptance_unsure, level_of, of_another_model, tilt_of
from simulator.measurements.cost import DraftCost
from simulator.measurements.cost_kind import Provenance
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.models import billions, line_of, plain_name
from simulator.measurements.profile import Drafter, Family, Profile
from simulator.measurements.uncertainty import Unsure
from simulator.misspelt import likeness
from simulator.names import Inside, Label, Name, check_place, home
from simulator.quantities import MOST_SLOTS, Calibration, Flag, Gamma, InnerShare, Within
from simulator.reading.yaml_files import read_yaml
from simulator.schema import Frozen, validate

FILE = "acceptance.yaml"
Fit = Literal["same model", "another model"]


class DomainAcceptance(Frozen):
    """Of the texts of one benchmark: the kind of text, tokens that a round commits when all γ are verified (the bonus token included), and
    P(slot accepted | slots before accepted) at the anchors that such a run visits. `shape` says whether its course over the slots was measured or
    published, or was carried over from another model and moved in level."""

    kind: Label
    accepted_length: Annotated[float, Within(1, MOST_SLOTS + 1, "tokens")]
    conditional: Annotated[list[InnerShare], Field(min_length=1, max_length=MOST_SLOTS)]
    shape: Literal["measured", "published", "carried over"]


class Acceptance(Frozen):
    """How much of a drafter's blocks a target accepts: who published it, on which texts, and what is not known of it."""

    format: Annotated[int, Within(1, 1)]
    name: Label
    target: Label
    family: Family
    gamma: Gamma
    blocks: Inside = "blocks.parquet"
    confidence: Flag = False
    temperatures: list[Calibration] | None = None
    provenance: Provenance
    source: str
    sample: str
    domains: Annotated[dict[Name, DomainAcceptance], Field(min_length=1)]
    unknown: list[str] = []
    notes: list[str] = []
    _folder: Path = PrivateAttr(default_factory=Path)

    @model_validator(mode="after")
    def _slots_fit(self) -> Self:
        if any(len(domain.conditional) != self.gamma for domain in self.domains.values()):
            raise ValueError(f"expected {self.gamma} positions in every domain")
        if any(domain.accepted_length > self.gamma + 1 for domain in self.domains.values()):
            raise ValueError(f"expected accepted lengths of at most {self.gamma + 1}, the bonus token included")
        if self.temperatures is not None and (not self.confidence or len(self.temperatures) != self.gamma):
            raise ValueError(f"expected {self.gamma} calibration temperatures of a confidence head")
        return self

    @property
    def folder(self) -> Path:
        """Where it was read from."""
        return self._folder

    @property
    def blocks_file(self) -> Path:
        """Its recorded blocks."""
        return self._folder / self.blocks

    def files(self) -> list[Path]:
        """All files that its numbers come from."""
        return [self._folder / FILE, self.blocks_file]

    @property
    def told(self) -> list[Told]:
        """What it tells of how acceptance differs between texts and models."""
        return [
            Told(
                self.target, self.family, name, it.kind, level_of(it.accepted_length, self.gamma),
                tilt_of(it.conditional) if it.shape != "carried over" else None,
            )
            for name, it in self.domains.items()
        ]  # fmt: skip

    def recorded(self, gamma: int | None = None) -> RecordedBlocks:
        """Its blocks, or their first `gamma` slots. Raises ProfileError where it has fewer, or others than it says."""
        found = RecordedBlocks.load(self.blocks_file)
        said = {"blocks of as many tokens": (self.gamma, found.gamma), "domains": (", ".join(sorted(self.domains)), ", ".join(sorted(found.domains)))}
        for what, (here, there) in (said | {"confidences": (self.confidence, found.confidence is not None)}).items():
            if here != there:
                raise ProfileError(f"expected {what} as {FILE} says, {shown(here)}, got {shown(there)}", where=self.blocks_file)
        return found if gamma is None else found.cut(self._slots(gamma))

    def fits(self, target: str) -> Fit:
        """Is it the acceptance of this target? Organisation and quantisation do not count."""
        return "same model" if plain_name(target) == plain_name(self.target) else "another model"

    def unsure_for(self, target: str, drafter: str, domains: Mapping[str, float] | None = None) -> list[Unsure]:
        """All that is not known of the acceptance of `drafter` where it stands in for that of a drafter of `target`, on texts of `domains` ({}: any):
        standard deviations from the spread of the shipped acceptances (another_model.py). Nothing where it was measured on this target: then what is
        unsure of measured blocks holds (assumed.py)."""
        if self.provenance == "measured" and self.fits(target) == "same model":
            return []
        kinds = {self.domains[name].kind for name in domains or {} if name in self.domains}
        mine = self.told
        new = [it for it in mine if it not in _told()]  # by what it says, not by its folder: a copy of a shipped one tells nothing twice
        return acceptance_unsure(mine, [*_told(), *new], target, drafter, one_kind=len(kinds) == 1)

    def assumed_for(self, target: str) -> list[str]:
        """What a profile of `target` assumes that takes it."""
        lines = [] if self.provenance == "measured" else [f"acceptance is not measured here: {self.source}"]
        if self.fits(target) == "another model":
            lines.insert(0, f"acceptance is that of {self.target}, not of {target}")
        return lines

    def as_drafter(self, draft: DraftCost, target: str, blocks: str, gamma: int | None = None, kv_bytes_per_token: float | None = 0.0) -> Drafter:
        """A drafter of a profile of `target`, whose recorded blocks are the profile's file `blocks`."""
        slots = self._slots(gamma or self.gamma)
        return Drafter(
            family=self.family,
            gamma=slots,
            draft=draft,
            blocks=blocks,
            confidence=self.confidence,
            temperatures=self.temperatures and self.temperatures[:slots],
            kv_bytes_per_token=kv_bytes_per_token,
            note=f"acceptance '{self.name}'",
            acceptance_of=None if self.fits(target) == "same model" else self.target,
        )

    def lent_to(self, profile: Profile, drafter: str, domains: Mapping[str, float], where: Path | str, key: str) -> Profile:
        """The profile with it in place of the drafter's own acceptance. Raises ProfileError where that cannot be."""
        known = profile.drafter(drafter, key, where)
        if known.family not in (self.family, "other"):
            problem = f"'{self.name}' is the acceptance of {self.family}, and drafter '{drafter}' is {known.family}"
            raise ProfileError(
                problem, where=where, key=key, remedy=f"acceptances of {known.family}: {_some(neighbours(profile.target, known.family))}"
            )
        if known.gamma > self.gamma:
            problem = f"'{self.name}' has blocks of {self.gamma} tokens, and drafter '{drafter}' drafts {known.gamma}"
            raise ProfileError(problem, where=where, key=key, remedy="name an acceptance of as many, or a profile whose drafter drafts fewer")
        new = self.as_drafter(known.draft, profile.target, known.blocks, known.gamma, known.kv_bytes_per_token)
        lines = [f"{drafter}: {line}" for line in self.assumed_for(profile.target)]
        other = profile.model_copy(update={"drafters": profile.drafters | {drafter: new}, "assumed": [*profile.assumed, *lines]})
        other._blocks = profile._blocks | {drafter: self.recorded(known.gamma)}
        if unsure := self.unsure_for(profile.target, drafter, domains):
            other._lent = profile._lent | {drafter: unsure}
        return other

    def _slots(self, gamma: int) -> int:
        if gamma > self.gamma:
            remedy = "draft fewer, or name another acceptance"
            raise ProfileError(f"has blocks of {self.gamma} tokens, asked for {gamma}", where=f"acceptance '{self.name}'", key="gamma", remedy=remedy)
        return gamma


def acceptances() -> dict[str, Path]:
    """Folders of the shipped acceptances by name."""
    return {file.parent.name: file.parent for file in sorted(shipped.ROOT.glob(f"profiles/acceptance/*/*/{FILE}"))}


def load_acceptance(name_or_folder: Path | str, where: Path | str | None = None, key: str | None = None, beside: Path | None = None) -> Acceptance:
    """A checked acceptance: a folder (a relative one begins `beside`, or at the working folder), or the name of a shipped one. `where` is the file
    or flag whose `key` names it, for the error when there is none: ProfileError, with those that are likeliest meant."""
    try:
        path = home(check_place(Path(name_or_folder)))
    except ValueError as problem:
        raise ProfileError(str(problem), where=where, key=key, remedy="`dsim acceptance list` shows the names") from None
    here = (folder for folder in ((beside or Path()) / path, path) if (folder / FILE).is_file())
    folder = next(here, None) or acceptances().get(str(name_or_folder))
    if folder is None:
        raise ProfileError(f"no acceptance '{name_or_folder}'", where=where, key=key, remedy=_remedy(str(name_or_folder)))
    return (_shipped if folder in acceptances().values() else _load)(folder.resolve())


def another_models(family: str, model: str, target: str, drafter: str) -> Unsure:
    """What is not known of `drafter` of `target` whose acceptance is that of a drafter of `model`, beside all else that is not known of it."""
    return of_another_model(_told(), family, model, target, drafter)


@lru_cache(maxsize=1)
def _told() -> tuple[Told, ...]:
    """What all shipped acceptances tell."""
    return tuple(told for folder in acceptances().values() for told in load_acceptance(folder).told)


def _load(folder: Path) -> Acceptance:
    file = folder / FILE
    acceptance = validate(Acceptance, read_yaml(file, ProfileError), file, ProfileError, {"folder": folder})
    acceptance._folder = folder
    if not acceptance.blocks_file.is_file():
        raise ProfileError(f"no such file '{acceptance.blocks}'", where=file, key="blocks", remedy="restore it")
    return acceptance


_shipped = lru_cache(_load)  # what comes with dsim stays as it is


def neighbours(target: str, family: str | None = None) -> list[str]:
    """Names of shipped acceptances of a family (None: of any), those of the likeliest model first: of the same line, then of the nearest size."""
    size = billions(target)

    def apart(name: str) -> tuple[bool, bool, float, float]:
        other = known[name].target
        theirs = billions(other)
        scale = abs(log(size / theirs)) if size and theirs else float("inf")
        return plain_name(other) != plain_name(target), line_of(other) != line_of(target), scale, -likeness(plain_name(target), plain_name(other))

    known = {name: it for name, folder in acceptances().items() if family in (None, (it := load_acceptance(folder)).family)}
    return sorted(known, key=apart)


def _remedy(name: str) -> str:
    """Which acceptances a name may mean: one that is almost written so, else those of the family and model that it seems to speak of."""
    known = acceptances()
    near = max(known, key=lambda other: likeness(name, other), default="")
    if likeness(name, near) >= 0.9 and billions(name) == billions(near):
        return f"did you mean '{near}'?"
    families = sorted({load_acceptance(folder).family for folder in known.values()})
    family = next((word for word in families if word in name.lower()), None)
    target = name.lower().replace(family, "").strip("-_ ") if family else name
    return f"did you mean {_some(neighbours(target, family))}? `dsim acceptance list` shows all"


def _some(names: list[str], most: int = 3) -> str:
    return " or ".join(f"'{name}'" for name in names[:most]) or "none"
