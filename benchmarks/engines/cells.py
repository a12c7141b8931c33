"""The plan as cells in the order in which they are measured, each with its files, its prompts and the client's command."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.engines.plan import PREFIXED, SEED, SERVED, Condition, Engine
from benchmarks.engines.prompts import PREFIX, prompts
from simulator.files import whole


@dataclass(frozen=True)
class Cell:
    """One benchmark: `folder`/`name`.json and its counters. `load` is users, or with `open_loop` requests per second. `prefix`: all prompts begin
    alike; `cached`: the server may keep that."""

    folder: Path
    name: str
    policy: str
    load: float
    requests: int
    seed: int
    answers: int = 64
    eos: bool = False
    prefix: bool = False
    open_loop: bool = False
    cached: bool = False
    repeat: int = 1

    @property
    def result(self) -> Path:
        """The client's file: there when the cell is done."""
        return self.folder / f"{self.name}.json"

    def command(self, tokenizer: Path, url: str, data: Path, out: Path, body: str = "", more: str = "") -> list[str]:
        """The words after `vllm bench serve` for this cell, its result into `out`; `body` is what requests say besides, `more` are more words."""
        words: list[object] = ["--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
        words += ["--model", SERVED, "--tokenizer", tokenizer, "--dataset-name", "custom", "--dataset-path", data, "--disable-shuffle"]
        words += ["--custom-output-len", self.answers, "--num-prompts", self.requests, "--seed", self.seed, "--temperature", 0]
        words += ["--request-rate", self.load] if self.open_loop else ["--max-concurrency", int(self.load)]
        words += [] if self.eos else ["--ignore-eos"]
        words += ["--extra-body", body] if body and not self.cached else []
        words += more.split()
        words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99", "--disable-tqdm"]
        words += ["--save-detailed"] if self.eos else []  # how long each answer was
        words += ["--save-result", "--result-dir", out.parent, "--result-filename", out.name]
        return [str(word) for word in words]


def texts(cell: Cell) -> list[str]:
    """The prompts of a cell: those of all policies at one load and repeat are the same."""
    return [(PREFIX if cell.prefix else "") + text for text in prompts("bench", cell.requests, cell.seed)]


def write_prompts(cell: Cell, file: Path) -> None:
    """The prompts as the client reads them."""
    with whole(file) as draft:
        draft.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts(cell)))


def probes(engine: Engine, out: Path) -> list[Cell]:
    """What the profile is made of. Its prompts are drawn with other seeds than those that are measured."""
    cells = []
    for number, probe in enumerate(engine.probes):
        name = "eos" if probe.eos else (engine.policy(probe.policy).drafter or "none") + (f"-{PREFIXED}" if probe.prefix else "")
        folder, answers = out / "identify" / name, 128 if probe.eos else 64
        cells.append(Cell(folder, f"c{probe.load}", probe.policy, probe.load, probe.requests, SEED * 1000 + number, answers, probe.eos, probe.prefix))
    return cells


def identified(engine: Engine, out: Path) -> Engine:
    """The engine with the policies that its probes know: one that could not be served is left out, and was said."""
    known = [policy for policy in engine.policies if any((out / "identify" / (policy.drafter or "none")).glob("c*.json"))]
    names = [policy.name for policy in known]
    conditions = [replace(each, policies=tuple(name for name in each.policies if name in names)) for each in engine.conditions]
    return replace(engine, policies=tuple(known), conditions=tuple(conditions))


def measured(engine: Engine, out: Path, knee_rps: float) -> list[Cell]:
    """All cells in their order: conditions and loads shuffled, and at each load all policies one after the other, shuffled, so that a machine that
    drifts drifts for all. Second repeats come after all first ones, but for those of the first load that has any, which come halfway: noise is known
    however early it ends."""
    draw, blocks = random.Random(SEED), list[tuple[Condition, float, int]]()
    for repeat in range(1, 1 + max(condition.repeats for condition in engine.conditions)):
        more = [(condition, load, repeat) for condition in engine.conditions if repeat <= condition.repeats for load in condition.loads]
        draw.shuffle(more)
        more.sort(key=lambda block: block[0].prefix and bool(engine.cached))  # other servers: one after the other, not to and fro
        blocks += more
    if again := [(condition, load, 2) for condition, load, _ in blocks if condition.repeats > 1]:
        firsts = sum(repeat == 1 for _, _, repeat in blocks)
        blocks.remove(again[0])
        blocks.insert((firsts + 1) // 2, again[0])
    cells = []
    for condition, load, repeat in blocks:
        policies = list(condition.policies)
        draw.shuffle(policies)
        cells += [_cell(engine, out, condition, policy, load, repeat, knee_rps) for policy in policies]
    return cells


def load_of(condition: Condition, load: float, knee_rps: float) -> float:
    """Users, or requests per second."""
    return round(load * knee_rps, 2) if condition.knee else load


def requests_of(condition: Condition, load: float) -> int:
    """How many the client sends at a load of the plan."""
    return condition.requests if condition.knee else max(condition.requests, int(condition.per_user * load))


def seed_of(engine: Engine, condition: Condition, load: float, repeat: int) -> int:
    """Of the prompts and the gaps between them: one for each condition, load and repeat, the same for all policies."""
    number = [(each.name, each_load) for each in engine.conditions for each_load in each.loads].index((condition.name, load))
    return SEED * 1000 + 100 * repeat + number


def _cell(engine: Engine, out: Path, condition: Condition, policy: str, load: float, repeat: int, knee_rps: float) -> Cell:
    offered = load_of(condition, load, knee_rps)
    name = (f"r{offered:g}" if condition.knee else f"c{offered:g}") + (f"-{repeat}" if repeat > 1 else "")
    return Cell(
        out / "measured" / condition.name / policy, name, policy, offered, requests_of(condition, load), seed_of(engine, condition, load, repeat),
        condition.answers, condition.eos, condition.prefix, condition.knee, condition.prefix, repeat,
    )  # fmt: skip


def missing(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Those without a result, in their order."""
    return (cell for cell in cells if not cell.result.exists())


def knee_rps(out: Path) -> float:
    """Requests per second of ordinary decoding with the most users of its probes."""
    files = sorted((out / "identify" / "none").glob("c*.json"), key=lambda file: int(file.stem[1:]))
    return float(json.loads(files[-1].read_text())["request_throughput"])
