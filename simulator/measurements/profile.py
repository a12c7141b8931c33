"""The profile folder: profile.yaml beside small tables and recorded blocks. Loaded, checked and saved here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, PrivateAttr, model_validator

from simulator import shipped
from simulator.complaints import shown
from simulator.errors import ProfileError
from simulator.files import write_whole
from simulator.measurements.cost import Costs, DraftCost
from simulator.measurements.cost_kind import Cost, Sourced
from simulator.measurements.uncertainty import Uncertainty, Unsure
from simulator.names import Inside, Label, Name, leads_out
from simulator.quantities import LARGEST, Bytes, BytesOrNone, Calibration, ContextTokens, Flag, Gamma, Gpus, PageTokens, Within
from simulator.reading.opening import near_file
from simulator.reading.yaml_files import read_yaml
from simulator.schema import Frozen, validate

if TYPE_CHECKING:
    from simulator.measurements.draft_blocks import RecordedBlocks

FORMAT = 1
Family = Literal["dspark", "dflash", "eagle3", "eagle", "mtp", "draft", "ngram", "suffix", "other"]
LEAST_STEP_S, MOST_STEP_S = 1e-7, 10.0
MOST_FACTS, DEEPEST_FACT, LONGEST_FACT = 2000, 8, 10_000  # of the environment: values, levels, characters in a text


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Plain values in few levels; a mapping that holds itself, or one that is short to write and endless to read, has many."""
    left: list[tuple[Any, int]] = [(facts, 0)]
    for _ in range(MOST_FACTS):
        if not left:
            return facts
        value, depth = left.pop()
        if depth > DEEPEST_FACT:
            raise ValueError(f"expected at most {DEEPEST_FACT} levels")
        if isinstance(value, dict):
            left += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            left += [(inner, depth + 1) for inner in value]
        elif not (value is None or isinstance(value, bool | str) or (isinstance(value, int | float) and abs(value) <= LARGEST)):
            raise ValueError(f"expected plain numbers and texts, got {shown(value)}")
        elif isinstance(value, str) and len(value) > LONGEST_FACT:
            raise ValueError(f"expected texts of at most {LONGEST_FACT:,} characters, got {len(value):,}")
    raise ValueError(f"expected at most {MOST_FACTS:,} values")


Facts = Annotated[dict[str, Any], AfterValidator(_plain)]


class KvMemory(Sourced):
    """KV memory: bytes per token in the target, and bytes per replica that are free for it."""

    bytes_per_token: Bytes
    memory_bytes: Bytes
    page_tokens: PageTokens = 16


class Drafter(Frozen):
    """One drafter of the target: its block, what drafting costs, and its recorded blocks; `acceptance_of` is the model that they are of, where that
    is not the target, and `counted` how many tokens were drafted where acceptance was counted, where those are fewer than `gamma`."""

    family: Family
    gamma: Gamma
    draft: DraftCost
    blocks: Inside
    confidence: Flag = False
    temperatures: list[Calibration] | None = None
    kv_bytes_per_token: BytesOrNone = 0.0
    acceptance_of: Label | None = None
    counted: Gamma | None = None
    note: str = ""

    @model_validator(mode="after")
    def _temperatures_fit(self) -> Self:
        if self.temperatures is not None and not self.confidence:
            raise ValueError("has calibration temperatures but no confidence head")
        if self.temperatures is not None and len(self.temperatures) != self.gamma:
            raise ValueError(f"expected {self.gamma} calibration temperatures, one per drafted token, got {len(self.temperatures)}")
        return self


class PublishedTable(Frozen):
    """A published curve of this system, drawn and compared with."""

    file: Inside
    x: str
    y: str
    label: str
    source: str


class Profile(Frozen):
    """All measured facts of (hardware, engine, target, drafters)."""

    format: Annotated[int, Within(1, 1)]
    name: Label
    hardware: str
    engine: str
    target: str
    gpus_per_replica: Gpus
    costs: Costs
    kv: KvMemory | None = None
    max_context_tokens: ContextTokens | None = None
    drafters: dict[Name, Drafter] = {}
    published: dict[Name, PublishedTable] = {}
    uncertainty: Uncertainty | None = None
    environment: Facts = {}
    assumed: list[str] = []
    not_identifiable: list[str] = []
    suspicious: list[str] = []
    notes: list[str] = []
    _folder: Path = PrivateAttr(default_factory=Path)
    _blocks: dict[str, RecordedBlocks] = PrivateAttr(default_factory=dict)
    _lent: dict[str, list[Unsure]] = PrivateAttr(default_factory=dict)  # what is not known of acceptance that a scenario gives a drafter

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        named = self._named()
        if twice := next((file for file in named if any(file != other and file.lower() == other.lower() for other in named)), None):
            raise ValueError(f"names two files that differ only in capital letters: '{twice}'")
        return self

    def _named(self) -> list[str]:
        """The files of its folder that its numbers come from."""
        costs: list[Cost | None] = [self.costs.verify, self.costs.prefill, *(drafter.draft for drafter in self.drafters.values())]
        return sorted({file for cost in costs if cost for file in cost.files} | {drafter.blocks for drafter in self.drafters.values()})

    @property
    def folder(self) -> Path:
        """Where it was read from."""
        return self._folder

    def moved(self, folder: Path) -> Self:
        """The profile, its files now in `folder`."""
        self._folder = folder
        return self

    def drafter(self, name: str, key: str = "drafter", where: Path | str | None = None) -> Drafter:
        """The drafter called `name`. Raises ProfileError that lists the available ones."""
        if name not in self.drafters:
            remedy = f"its drafters: {', '.join(sorted(self.drafters)) or 'none'}"
            raise ProfileError(f"profile '{self.name}' has no drafter '{name}'", where=where, key=key, remedy=remedy)
        return self.drafters[name]

    def blocks(self, name: str) -> RecordedBlocks:
        """Recorded blocks of a drafter, read once."""
        if name not in self._blocks:
            from simulator.measurements.draft_blocks import RecordedBlocks

            drafter, path = self.drafter(name), self.folder / self.drafter(name).blocks
            blocks = RecordedBlocks.load(path)
            if blocks.gamma != drafter.gamma:
                raise ProfileError(
                    f"expected blocks of {drafter.gamma} tokens (profile.yaml), got {blocks.gamma}", where=path, key=f"drafters.{name}.gamma"
                )
            if drafter.confidence and blocks.confidence is None:
                raise ProfileError("expected confidences (profile.yaml), got none", where=path, key=f"drafters.{name}.confidence")
            self._blocks[name] = blocks
        return self._blocks[name]

    def files(self) -> list[Path]:
        """All files that its numbers come from (not the published tables beside them)."""
        return [self.folder / file for file in ("profile.yaml", *self._named())]

    def kv_tokens(self, drafter: str | None) -> int | None:
        """Tokens of context that fit in a replica, the drafter's cache included; None where unknown."""
        if self.kv is None:
            return None
        beside = self.drafter(drafter).kv_bytes_per_token if drafter else 0.0
        return int(self.kv.memory_bytes / (self.kv.bytes_per_token + beside))

    def provenance(self) -> list[dict[str, str]]:
        """The origin of every table, one row each: table, provenance, source, note."""
        costs = self.costs
        rows: dict[str, Sourced | None] = {"verify cost": costs.verify, "prefill cost": costs.prefill}
        rows |= {"overhead per step": costs.overhead, "scheduling by prices": costs.scheduling, "memory for KV": self.kv}
        rows |= {f"draft cost of {name}": drafter.draft for name, drafter in self.drafters.items()}
        table = [{"table": what, "provenance": it.provenance, "source": it.source, "note": it.note} for what, it in rows.items() if it]
        for name, drafter in self.drafters.items():
            blocks = self.blocks(name)
            table.append({"table": f"acceptance of {name}", "provenance": blocks.provenance, "source": blocks.source, "note": drafter.note})
        return table


def load_profile(folder: Path | str, where: Path | str | None = None, key: str = "profile") -> Profile:
    """A checked profile: a folder, or the name of a shipped one. `where` is the file whose `key` names it, for the error when it is missing."""
    folder = shipped.profile(folder)
    path = folder / "profile.yaml"
    if not path.is_file():
        others, near = sorted(other.parent.name for other in folder.parent.glob("*/profile.yaml")), near_file(folder)
        remedy = "a profile is a folder that holds profile.yaml, or one that `dsim profile list` shows"
        if not folder.exists() and near.startswith("did you mean"):
            remedy = near
        elif not folder.exists():
            remedy = shipped.near_profile(folder) or (f"profiles there: {', '.join(others)}" if others else remedy)
        if folder.is_file() and (folder.parent / "profile.yaml").is_file():
            remedy = f"name its folder, '{folder.parent}'"
        raise ProfileError(f"no profile at '{folder}'", where=where, key=key if where else None, remedy=remedy)
    if leads_out(folder, path.name):
        raise ProfileError("is a link that leads out of the folder", where=path, remedy="put the file itself there")
    content = read_yaml(path, ProfileError)
    if content.get("format") != FORMAT:
        raise ProfileError(
            f"expected profile format {FORMAT}, got {shown(content.get('format'))}", where=path, key="format", remedy="measure or fit it again"
        )
    profile = validate(Profile, content, path, ProfileError, {"folder": folder})
    profile._folder = folder
    for cost in (profile.costs.verify, profile.costs.prefill, *(d.draft for d in profile.drafters.values())):
        if cost is not None:
            cost.attach(folder)
    _check_step(profile, path)
    files = {f"drafters.{name}.blocks": drafter.blocks for name, drafter in profile.drafters.items()}
    for table, file in (files | {f"published.{name}.file": curve.file for name, curve in profile.published.items()}).items():
        if not (folder / file).is_file():
            raise ProfileError(f"no such file '{file}'", where=path, key=table, remedy="restore it")
    return profile


def _check_step(profile: Profile, path: Path) -> None:
    """A step of one token takes some time, no longer than an engine could bear (else the unit is another one), and no longer than a large one."""
    verify, overhead = float(profile.costs.verify.seconds(1)), profile.costs.overhead.seconds
    if not LEAST_STEP_S <= verify + overhead <= MOST_STEP_S:
        problem = f"a step of one token takes {verify + overhead:g} s, expected {LEAST_STEP_S:g} to {MOST_STEP_S:g} s"
        raise ProfileError(problem, where=path, key="costs.verify", remedy="give all costs in seconds")
    if not verify > 0:
        raise ProfileError("a step of one token costs nothing", where=path, key="costs.verify", remedy="measure it, or leave less to costs.overhead")
    for name, drafter in profile.drafters.items():
        prompt = profile.costs.prefill.seconds(1) if profile.costs.prefill else verify
        left = min(verify, prompt) + overhead + drafter.draft.every_step_s
        if drafter.draft.every_step_s < 0 and left < LEAST_STEP_S:
            problem = f"leaves {left:g} s of a step of one token, expected at least {LEAST_STEP_S:g}"
            raise ProfileError(problem, where=path, key=f"drafters.{name}.draft.every_step_s", remedy="give what a step under it takes beside")
    most = profile.costs.verify.most("tokens") or 1.0
    if (last := float(profile.costs.verify.seconds(most))) < verify / 2 and not profile.suspicious:  # a noisy measurement says so itself
        problem = f"falls from {verify:g} s for 1 token to {last:g} s for {most:g}, expected to rise"
        raise ProfileError(problem, where=path, key="costs.verify", remedy="measure it again, or put its columns right")


def save_profile(profile: Profile, folder: Path, header: str = "") -> None:
    """Write profile.yaml, whole or not at all. Tables and blocks are saved by whoever makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = profile.model_dump(mode="json", exclude_defaults=False, exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    write_whole(folder / "profile.yaml", comment + text)
