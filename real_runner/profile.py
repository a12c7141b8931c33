"""`dsim profile`: a target, its drafters, prompts and a device become a folder that the simulator reads.

Order of work: everything the user gave is checked, texts, recorded blocks, calibration, step costs, profile.yaml last. What is done is kept in
`out/work` until the profile is whole, so that an interrupted measurement goes on from where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from real_runner.blocks import record_blocks
from real_runner.cost_files import TABLES, CostTables
from real_runner.cost_tables import measure_cost_tables
from real_runner.drafters.drafter import Drafter
from real_runner.drafters.loading import load_drafter
from real_runner.environment import environment, kv
from real_runner.failures import same_options
from real_runner.layout import Tiers
from real_runner.prompts import PromptSet, encoded
from real_runner.setup import writable
from real_runner.target import Target, checkpoint_folder
from real_runner.texts import Text, digest, generate_texts, mark
from simulator.errors import DsimError
from simulator.files import holds_files, write_whole
from simulator.made import check_made
from simulator.measurements.calibration import calibrate
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.profile import Drafter as ProfileDrafter
from simulator.measurements.profile import KvMemory, Profile, load_profile, save_profile
from simulator.names import check_word
from simulator.progress import Progress
from simulator.reading.json_files import read_json
from simulator.reading.opening import read_bytes
from simulator.schema import validate

ENGINE = "dsim real_runner"
BEGUN = "measurement.json"  # in `work`: what is being measured there
WEIGHTS = 1024  # numbers of a tensor, at most, that tell it from another


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How acceptance is measured: `prompts` of each set at most, `max_tokens` said to each at `temperature`."""

    temperature: float = 1.0
    prompts: int = 40
    max_tokens: int = 256
    at_once: int = 32


@dataclass(frozen=True, slots=True)
class CostPlan:
    """Which step costs are measured, in `budget_s` seconds."""

    budget_s: float = 600.0
    max_requests: int = 32
    max_context: int = 1024


def named_drafts(words: Sequence[str]) -> dict[str, str]:
    """`name=folder` or a folder, called by its last part. Raises DsimError where two share a name."""
    places: dict[str, str] = {}
    for one in words:
        name, _, place = one.rpartition("=")
        name = name or Path(place).name
        check_word(name, "--draft", file=True)
        if name.lower() in map(str.lower, places):
            raise DsimError(f"two drafters are called {name!r}", key="draft", remedy=f"use --draft OTHER={place}")
        places[name] = place
    return places


def may_write(out: Path) -> None:
    """Refuses, before anything long, a folder that holds a finished profile or files of others, or cannot be written to. Only an unfinished
    measurement may have left tables, which are taken as they are, and `work`, which is removed in the end."""
    if os.path.lexists(out / "profile.yaml"):
        raise DsimError("already holds a profile", where=out, remedy="give another folder, or remove it to measure again")
    check_word(out.resolve().name, "--out")
    begun = (out / "work" / BEGUN).is_file()
    tables = [path.name for pattern in ("blocks-*.parquet", *(file.format("*") for file, _, _ in TABLES.values())) for path in out.glob(pattern)]
    work = ["work"] if holds_files(out / "work") or os.path.islink(out / "work") else []
    check_made(out, [*tables, *work], replace=begun, remedy="give another folder, or move it away")
    writable(out)


def measure_profile(
    target: Target, drafts: dict[str, str], sets: Sequence[PromptSet], out: Path, *, acceptance: Acceptance, costs: CostPlan, tiers: Tiers | None,
    seed: int = 0, given: list[Text] | None = None, command: str = "dsim profile", target_name: str | None = None, keep_work: bool = False,
    progress: Progress | None = None,
) -> Profile:  # fmt: skip
    """Measures everything into `out` and returns the profile as loaded from there; acceptance along the target's own texts where they are `given`.
    Raises DsimError for what does not fit."""
    progress = progress or Progress(quiet=True)
    may_write(out)
    work = out / "work"
    for place in drafts.values():
        read_spec(checkpoint_folder(place), target.layers)
    prompts = encoded(target, sets, acceptance.prompts) if given is None else [(text.domain, text.of, text.prompt) for text in given]
    drafters = {name: load_drafter(place, target) for name, place in drafts.items()}
    _same_measurement(work, target, drafts, drafters, prompts, given, acceptance, seed)
    blocks = measure_blocks(target, drafters, prompts, out, work, acceptance, seed, progress, given)
    tables = measure_cost_tables(
        target, drafters, temperature=acceptance.temperature, max_requests=costs.max_requests, max_context=costs.max_context,
        budget_s=costs.budget_s, folder=work, tiers=tiers, progress=progress, seed=seed,
    )  # fmt: skip
    profile = assemble(target, drafters, blocks, tables, out, tiers, command, target_name=target_name)
    if not keep_work:
        shutil.rmtree(work, ignore_errors=True)
    return profile


def _same_measurement(
    work: Path, target: Target, drafts: dict[str, str], drafters: dict[str, Drafter], prompts: list[tuple[str, int, list[int]]],
    given: list[Text] | None, acceptance: Acceptance, seed: int,
) -> None:  # fmt: skip
    """What an interrupted run left must be of the same measurement: the same texts and weights, not only the same names."""
    texts = prompts if given is None else [asdict(text) for text in given]
    plan = {"target": target.name, "dtype": str(target.dtype), "device": target.device.type, "drafts": drafts, **asdict(acceptance), "seed": seed}
    plan |= {"prompts_given": len(prompts), "prompt_tokens": sum(len(ids) for _, _, ids in prompts), "texts": digest(json.dumps(texts).encode())}
    plan |= {"target_weights": mark(target), "drafter_weights": {name: _weights_of(drafter) for name, drafter in drafters.items()}}
    file = work / BEGUN
    if file.exists():
        same_options(read_json(file), plan, "an unfinished measurement", work)
    write_whole(file, json.dumps(plan, indent=1))


def _weights_of(drafter: Drafter) -> str:
    """A digest of its config and of some numbers of every tensor: training again changes nearly all of them."""
    some = [tensor.flatten()[:: -(-tensor.numel() // WEIGHTS) or 1].float().cpu().numpy().tobytes() for tensor in drafter.state_dict().values()]
    return digest(read_bytes(drafter.spec.folder / "config.json") + b"".join(some))


def measure_blocks(
    target: Target, drafters: dict[str, Drafter], prompts: list[tuple[str, int, list[int]]], out: Path, work: Path, acceptance: Acceptance,
    seed: int, progress: Progress, given: list[Text] | None = None,
) -> dict[str, RecordedBlocks]:  # fmt: skip
    """Texts of the target, then every drafter's blocks along them, in `out/blocks-<drafter>.parquet`; what is there already is taken."""
    if not drafters:
        return {}
    texts = given or generate_texts(target, prompts, temperature=acceptance.temperature, max_tokens=acceptance.max_tokens, slots=acceptance.at_once,
                                    seed=seed, file=work / "texts.jsonl", progress=progress)  # fmt: skip
    blocks = {}
    for name, drafter in drafters.items():
        file = out / f"blocks-{name}.parquet"
        if not file.exists():
            at = acceptance.temperature
            record_blocks(target, drafter, name, texts, temperature=at, seed=seed, progress=progress, given=given is not None).save(file)
        blocks[name] = RecordedBlocks.load(file)
    return blocks


def _temperatures(blocks: RecordedBlocks) -> list[float] | None:
    """Of sequential temperature scaling; none where there are too few texts to fit on some and judge on others."""
    return calibrate(blocks).temperatures if len(blocks.length) > 1 else None


def assemble(
    target: Target, drafters: dict[str, Drafter], blocks: dict[str, RecordedBlocks], tables: CostTables, out: Path, tiers: Tiers | None,
    command: str, *, target_name: str | None = None, notes: Sequence[str] = (),
) -> Profile:  # fmt: skip
    """Tables and profile.yaml in `out`, whose blocks are there; temperatures fitted on the first half of each domain's texts."""
    tables.write(out)
    per_token, memory, how = kv(target, drafters)
    facts = environment(target, tiers)
    described = {}
    for called, drafter in drafters.items():
        has_confidence = blocks[called].confidence is not None
        assert drafter.kv is not None
        described[called] = ProfileDrafter(
            family=drafter.spec.family, gamma=drafter.gamma, draft=tables.draft_cost(called), blocks=f"blocks-{called}.parquet",
            confidence=has_confidence, temperatures=_temperatures(blocks[called]) if has_confidence else None,
            kv_bytes_per_token=drafter.kv.bytes_per_token,
            note=f"texts of the target at temperature {blocks[called].temperature:g}" if blocks[called].temperature is not None else "",
        )  # fmt: skip
    content = {
        "format": 1, "name": out.resolve().name, "hardware": str(facts["device"]), "engine": ENGINE, "target": target_name or Path(target.name).name,
        "gpus_per_replica": 1, "costs": tables.costs, "drafters": described, "environment": facts, "suspicious": tables.suspicious,
        "notes": [*notes, *tables.notes],
        "kv": KvMemory(provenance="measured", source=how, bytes_per_token=per_token, memory_bytes=memory, page_tokens=1),
    }  # fmt: skip
    save_profile(validate(Profile, content, out, DsimError), out, f"Measured with: {command}\nSee docs/profiles.md.")
    try:
        return load_profile(out)
    except DsimError:  # what was measured stays, and is no profile
        (out / "profile.yaml").unlink()
        raise
