"""The real engine on the requests of a scenario: what `dsim validate --engine` holds the simulator against. One folder of tables per run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from real_runner.costs import ProfileCosts
from real_runner.drafters.drafter import Drafter
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.environment import machine
from real_runner.layout import Tiers
from real_runner.prompts import PromptSet, encoded
from real_runner.records import ServedRequest
from real_runner.rounds import Device
from real_runner.serve import serve, summary, write
from real_runner.target import Target
from simulator.errors import DsimError
from simulator.measurements.profile import Profile
from simulator.policies.verification import VerificationPolicy
from simulator.progress import Progress
from simulator.reading.json_files import read_json
from simulator.reading.opening import read_bytes

WARM_STEPS = 3


@dataclass(frozen=True, slots=True)
class Served:
    """One run asked for: `policy` (its name, its drafter in the profile, its rule) at `concurrency` or, with `rate`, as arrivals in time."""

    policy: str
    drafter: str | None
    rule: VerificationPolicy
    concurrency: int
    arrivals: tuple[float, ...] | None = None

    @property
    def folder(self) -> str:
        """Its folder's name."""
        plain = "".join(c if c.isalnum() else "-" for c in self.policy.lower()).strip("-")
        return f"{plain}-{'open' if self.arrivals is not None else f'r{self.concurrency}'}"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of each run: `turns` for every place in the engine and one before and one after, of `max_tokens` at most, up to the text's end."""

    turns: int = 2
    max_tokens: int = 96
    temperature: float = 1.0
    seed: int = 0
    least: int = 12  # measured requests


def serve_all(
    target: Target, models: Path, profile: Profile, runs: Sequence[Served], sets: Sequence[PromptSet], load: Load, out: Path, tiers: Tiers | None,
    progress: Progress,
) -> None:  # fmt: skip
    """Serves every run into `out/<folder>`; what is there already is left. Raises DsimError where the models do not fit the profile."""
    prompts = encoded(target, sets)
    mixed = _mixed(prompts)
    for name in {run.drafter for run in runs if run.drafter}:
        if not (models / name).is_dir():
            raise DsimError(
                f"no drafter {name!r}", where=models, key="engine", remedy=f"the folder needs target/ and {name}/, as the profile's drafters"
            )
    conditions = {
        "load": asdict(load), "profile": profile.name, "measured": _digest(profile), "target": target.name, "machine": machine(target),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
    }  # fmt: skip
    folders = [run.folder for run in runs]
    if (twice := next((run for run in runs if folders.count(run.folder) > 1), None)) is not None:
        raise DsimError(
            f"policy {twice.policy!r} at {twice.concurrency} and another run share the folder {twice.folder}", key="policies", remedy="rename one"
        )
    drafters: dict[str, Drafter] = {}
    engine: Engine | None = None
    held: tuple[str | None, int] | None = None  # what it was made for
    with progress.stage("serving", len(runs), sum((out / run.folder).exists() for run in runs)) as stage:
        for run in runs:
            mine = conditions | {"drafter": run.drafter, "rule": run.rule.model_dump(mode="json")}  # type: ignore[attr-defined]
            mine |= {} if run.arrivals is None else {"arrivals": list(run.arrivals)}
            if (out / run.folder).exists():
                _same(out / run.folder, mine)
                continue
            if run.drafter is not None and run.drafter not in drafters:
                drafters[run.drafter] = _drafter(models / run.drafter, target, profile)
            requests, numbers = _requests(run, mixed, load)
            make = partial(_engine, target, drafters.get(run.drafter or ""), profile, run, requests, load, tiers)
            if held != (run.drafter, run.concurrency):  # caches and graphs of others are gone before new ones are made
                held, engine, target.kv = (run.drafter, run.concurrency), None, None
                for drafter in drafters.values():
                    drafter.kv = None
            at_once = run.concurrency if run.arrivals is None else None
            engine = serve(make, requests, at_once, None if engine is None else engine.device)
            report = summary(engine, target, run.policy, WARM_STEPS) | {
                "asked": mine,
                "concurrency": run.concurrency,
                "open_loop": run.arrivals is not None,
                "prompt_numbers": numbers,
            }
            write(out / run.folder, engine, run.policy, report)
            stage.advance(1, f"{run.policy} at {run.concurrency}")


def _mixed(prompts: Sequence[tuple[str, int, list[int]]]) -> list[tuple[str, int, list[int]]]:
    """Domain after domain in turn, so that every stretch of requests has them alike."""
    domains = list(dict.fromkeys(domain for domain, _, _ in prompts))
    each = {domain: [one for one in prompts if one[0] == domain] for domain in domains}
    return [each[domain][i] for i in range(min(map(len, each.values()))) for domain in domains]


def _requests(run: Served, prompts: list[tuple[str, int, list[int]]], load: Load) -> tuple[list[ServedRequest], list[int]]:
    """The requests of a run, and which prompt of its domain each one is."""
    count = len(run.arrivals) if run.arrivals is not None else run.concurrency * 2 + max(run.concurrency * load.turns, load.least)
    requests, numbers = [], []
    for i in range(count):
        domain, number, ids = prompts[(i + load.seed) % len(prompts)]
        numbers.append(number)
        requests.append(ServedRequest(i, ids, load.max_tokens, run.arrivals[i] if run.arrivals is not None else 0.0, domain))
    return requests, numbers


def _drafter(folder: Path, target: Target, profile: Profile) -> Drafter:
    """The profile's drafter of the folder's name."""
    drafter = load_drafter(str(folder), target)
    ProfileCosts(profile, folder.name).fits(drafter)
    return drafter


def _engine(
    target: Target, drafter: Drafter | None, profile: Profile, run: Served, requests: Sequence[ServedRequest], load: Load, tiers: Tiers | None,
    device: Device | None,
) -> Engine:  # fmt: skip
    known = ProfileCosts(profile, run.drafter)
    length = max(len(r.prompt) + r.max_tokens for r in requests) + (2 * (drafter.gamma + drafter.spec.block) if drafter else 0) + 2
    return Engine(
        target, drafter, run.rule, slots=run.concurrency, length=length, temperature=load.temperature, seed=load.seed, tiers=tiers,
        costs=known, survival=known.survival, temperatures=known.temperatures, device=device,
    )  # fmt: skip


def _digest(profile: Profile) -> str:
    """Of all that its numbers come from."""
    digest = hashlib.sha256()
    for file in profile.files():
        digest.update(file.name.encode() + read_bytes(file))
    return digest.hexdigest()


def _same(folder: Path, conditions: dict[str, Any]) -> None:
    before = read_json(folder / "run.json").get("asked", {})
    if before != json.loads(json.dumps(conditions)):
        raise DsimError("holds a run with another load, rule, profile or machine", where=folder, remedy="give another folder, or remove it")
