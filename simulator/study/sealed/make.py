"""Scenarios to a seal: each is simulated as `dsim run` does, with its prediction intervals."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from simulator.complaints import shown
from simulator.errors import DsimError, ScenarioError
from simulator.files import write_whole
from simulator.names import check_word
from simulator.reading.opening import read_text
from simulator.study.run.build import build_result
from simulator.study.run.facts import sources
from simulator.study.run.limits import check_limits
from simulator.study.run.result import PointResult, RunResult
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import bundle, swept
from simulator.study.sealed.decisions import decisions
from simulator.study.sealed.numbers import NUMBERS, SPEED, THROUGHPUT, predicted
from simulator.study.sealed.seal import (
    NOT_STATED,
    Condition,
    Seal,
    SealedCell,
    SealedNumber,
    SealedPolicy,
    SealedProfile,
    alike,
    digest_of,
    files_sha256,
    sha256,
)
from simulator.study.work.bundle import profile_files
from simulator.study.work.kept import PACKAGE, code_mark

At = Callable[[int, int], None]
WHAT_TO_DO = (
    "describe the benchmark that will be run: workload.arrivals {kind: benchmark, client: vllm, num_prompts: …}, its load the client's "
    "--max-concurrency, or with load_flag: request_rate its --request-rate"
)


def check_absent(path: Path) -> None:
    """Raises DsimError where a seal would overwrite anything: what was sealed stays."""
    if os.path.lexists(path):
        raise DsimError("exists, and a seal is never overwritten", where=path, key="--seal", remedy="name another file, or delete this one yourself")


def load_conditions(words: Sequence[str], overrides: Sequence[str]) -> dict[str, Scenario]:
    """The scenarios of [NAME=]SCENARIO words, by name. Raises DsimError before any work."""
    found: dict[str, Scenario] = {}
    for word in words:
        name, sign, rest = word.partition("=")
        if not sign or "/" in name or Path(word).exists():
            name, rest = Path(word).stem, word
        check_word(name, "SCENARIO", file=True)
        if name in found:
            raise DsimError(f"two conditions are called '{name}'", where=rest, remedy="name one of them: NAME=SCENARIO")
        scenario = load_scenario(rest, overrides)
        _check_client(scenario)
        _check_model(scenario, found.values())
        check_limits(scenario)
        found[name] = scenario
    return found


def _check_client(scenario: Scenario) -> None:
    """What is sealed is what a benchmark client prints: there has to be one, that counts as others do. Raises ScenarioError."""
    client, key = scenario.workload.client, "workload.arrivals"
    if client is None:
        problem = "expected a benchmark client, whose numbers can be scored later, got other arrivals"
        raise ScenarioError(problem, where=scenario.file, key=key, remedy=WHAT_TO_DO)
    if client.load_flag == "max_concurrency" and client.request_rate is not None:
        problem = "max_concurrency as the load and a request_rate besides: result files do not say which of them limits"
        raise ScenarioError(problem, where=scenario.file, key=f"{key}.request_rate", remedy="drop it, or set load_flag: request_rate")


def _check_model(scenario: Scenario, others: Iterable[Scenario]) -> None:
    """A score is of one model. Raises ScenarioError."""
    for other in others:
        target, before = scenario.known.target, other.known.target
        if NOT_STATED not in (target, before) and not alike(target, before):
            problem = f"its target is {shown(target)}, and that of {other.file.name} {shown(before)}"
            raise ScenarioError(problem, where=scenario.file, key="profile", remedy="seal every model by itself: a score is of one")


def sealed(conditions: dict[str, Scenario], keep: Path, at: Callable[[str], At], workers: int | None, ray: str | None) -> Seal:
    """All conditions simulated, finished points kept in folders of `keep`. `at(name)` begins a condition, and is told of its points."""
    made, read = [], {name: _inputs(scenario) for name, scenario in conditions.items()}  # all of them before the first is simulated
    for name, scenario in conditions.items():
        rows, moved = swept(scenario, keep / name, at(name), workers, (), ray, moved=True)
        if _inputs(scenario) != read[name]:
            problem = "the scenario or a file that it names changed while it was simulated"
            raise DsimError(problem, where=scenario.file, remedy="run it again: finished points are kept as far as they are of the same files")
        made.append(_condition(name, scenario, read[name], build_result(scenario, rows, moved=moved)))
    seal = Seal(
        kind="seal", dsim_version=version("dsim"), commit=_commit(), code=code_mark(), sealed_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        numbers={number.name: number.doc for number in NUMBERS.values()}, conditions=tuple(made), digest="0" * 64,
    )  # fmt: skip
    return seal.model_copy(update={"digest": digest_of(seal.to_json())})


def write_seal(seal: Seal, path: Path) -> None:
    """Raises DsimError where there is one."""
    from json import dumps

    check_absent(path)
    write_whole(path, dumps(seal.to_json(), indent=1, ensure_ascii=False) + "\n")


def _inputs(scenario: Scenario) -> tuple[str, str, str]:
    """The scenario's text, and digests of the profile's files and of all inputs."""
    profile = {place.removeprefix("profile/"): content for place, content in profile_files("profile", scenario.known).items()}
    return read_text(scenario.file), files_sha256(profile), files_sha256(bundle(scenario).files)


def _condition(name: str, scenario: Scenario, inputs: tuple[str, str, str], result: RunResult) -> Condition:
    cells = tuple(cell for point in result.frontier if (cell := _cell(scenario, point)))
    values = {(cell.policy, cell.load): {name: number.value for name, number in cell.numbers.items()} for cell in cells}
    closed = scenario.workload.load_kind == "concurrency"
    base = [values[policy, load][SPEED] for policy, load in values if policy == scenario.base]
    text, profile_sha256, inputs_sha256 = inputs
    assert scenario.workload.client is not None
    assert scenario.workload.load_kind != "rate_scale"
    return Condition(
        name=name, file=scenario.file.name, text=text, sha256=sha256(text.encode()), overrides=tuple(scenario.overrides),
        profile=SealedProfile.of(scenario.known, sha256=profile_sha256, provenance=sources(scenario.known)),
        inputs_sha256=inputs_sha256, client=scenario.workload.client.client, load_kind=scenario.workload.load_kind,
        held_to=scenario.workload.client.max_concurrency, burstiness=scenario.workload.client.burstiness,
        replicas=scenario.fleet.replicas, seed=scenario.run.seed, replications=scenario.run.replications, baseline=scenario.base,
        description=result.conditions,
        policies=tuple(
            SealedPolicy(name=policy.name, drafter=policy.drafter, rule=policy.rule, choosable=policy.name in result.choosable)
            for policy in result.policies
        ),
        cells=cells, decisions=decisions(values, result.choosable, scenario.sla.tps_per_user or base, closed),
    )  # fmt: skip


def _cell(scenario: Scenario, point: PointResult) -> SealedCell | None:
    """None where no answer would end."""
    client = scenario.workload.client
    assert client is not None
    counts = {name: estimate.mean for name, estimate in point.client.items() if estimate}
    found = predicted(client.client, point.client, point.prediction)
    if SPEED not in found or THROUGHPUT not in found or not (done := counts.get("completed")):
        return None
    return SealedCell(
        policy=point.policy, load=point.load, verdict=point.verdict, requests=client.prompts(point.load, scenario.fleet.replicas),
        prompt_tokens=counts["total_input_tokens"] / done, output_tokens=counts["total_output_tokens"] / done,
        numbers={name: SealedNumber(value=number.value, low=number.low, high=number.high) for name, number in found.items()},
    )  # fmt: skip


def _commit() -> str:
    """That of a clone, with + where files in git differ from it; empty elsewhere."""
    root = PACKAGE.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    told = [
        subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    return told[0].stdout.strip() + ("+" if told[1].stdout.strip() else "") if told[0].returncode == 0 else ""
