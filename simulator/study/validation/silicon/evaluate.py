"""All runs of the sample, replica by replica: played once, kept when done, on the cores of this machine."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.study.estimate.hosts import Host, Hosts
from simulator.study.run.record import Record
from simulator.study.validation.silicon.played import play, seen_s
from simulator.study.validation.silicon.predicted import Predicted
from simulator.study.validation.silicon.priced import priced
from simulator.study.validation.silicon.sample import Run
from simulator.study.work.kept import Kept, Task, code_mark, digest
from simulator.study.work.local import local, worker_count

_MOST_BUSY = 1.25  # of its time may a replica spend on prompts alone, as measured: prices are that unsure
_TOO_FAST = "took in more prompts than its GPUs can process: several replicas, whose number the sample does not say"
TENTH = 10  # of the judged runs, in every group, for `make validation`


class Batch(Record):
    """The runs of one replica."""

    rows: tuple[Predicted, ...]


def evaluate(
    runs: Sequence[Run], hosts: Hosts, keep: Path | None = None, workers: int | None = None, say: Callable[[str], None] = lambda _: None
) -> list[Predicted]:
    """Every run as predicted, in the order of `runs`; those that the sample itself makes impossible are not asked for."""
    replicas: dict[Any, list[Run]] = {}
    for run in runs:
        if run.of is not None:
            replicas.setdefault(run.of, []).append(run)
    kept, mark = Kept(keep, Batch), digest([code_mark(), sorted([list(key), list(vars(host).values())] for key, host in hosts.fitted.items())])
    tasks = [_task(same, hosts, mark) for same in replicas.values()]
    rows = {run.id: Predicted(id=run.id, why=run.why_not) for run in runs if run.of is None}
    todo: deque[Task] = deque()
    for task in tasks:
        known = kept.read(task)
        if known is None:
            todo.append(task)
        else:
            rows.update((row.id, row) for row in known.rows)
    left, done = len(todo), 0
    with closing(local(todo, worker_count(workers), None, _nothing, keep)) as results:
        while done < left:
            task, batch = next(results)
            kept.write(task, batch)
            rows.update((row.id, row) for row in batch.rows)
            done += 1
            if done % 10 == 0 or done == left:
                say(f"{done} of {left} replicas")
    return [rows[run.id] for run in runs]


def _nothing() -> None:
    return None


def _task(same: list[Run], hosts: Hosts, mark: str) -> Task:
    ids = digest([run.id for run in same])
    return Task(ids, f"replica-{ids}", digest([mark, ids]), partial(_batch, same, hosts))


def _batch(same: list[Run], hosts: Hosts, _question: Any, _folder: Path | None) -> Batch:
    """All runs of one replica; runs that are filed several times are played once."""
    assert same[0].of is not None
    try:
        prices = priced(same[0].of)
    except DsimError as error:
        return Batch(rows=tuple(Predicted(id=run.id, why=_short(error)) for run in same))
    played: dict[Any, Predicted] = {}
    rows = []
    for run in same:
        question = run.columns, run.measurement, run.inferencemax
        if question not in played:
            played[question] = _one(run, prices, hosts.of(run.engine, run.series))
        rows.append(played[question].model_copy(update={"id": run.id}))
    return Batch(rows=tuple(rows))


def _one(run: Run, prices: Any, host: Host) -> Predicted:
    out = play(run, prices, host)
    static = prices.operators.static_s(run.prompt_tokens, run.prompt_tokens + run.output_tokens // 2, run.concurrency)
    per_s = run.concurrency / (run.ttft_s + run.tpot_s * (run.output_tokens - 1))
    if per_s * static[0] > _MOST_BUSY:
        return Predicted(id=run.id, why=_TOO_FAST)
    return Predicted(
        id=run.id, ttft_s=seen_s(run, out, host), tpot_s=out.tpot_s, alone_ttft_s=out.ttft_s, steps=out.steps,
        collective_s=prices.collective_s(run.concurrency), static_ttft_s=static[0], static_tpot_s=static[1],
        modelled=prices.modelled, borrowed=prices.borrowed,
    )  # fmt: skip


def _short(error: DsimError) -> str:
    """The package's refusal without its sizes, so that like ones are counted together."""
    text = str(error).split(" at /")[0]
    for mark, said in _REFUSALS.items():
        if mark in text:
            return said
    return text.split(": ", 1)[-1][:160]


_REFUSALS = {
    "MoE data missing": "the package has no expert kernels of this engine for it",
    "context attention data missing": "the package has no prompt attention of this engine for it",
    "context MLA data missing": "the package has no MLA of prompts of this engine for it",
    "weight_block_size": "block-wise quantised experts that the package cannot split so",
}


def tenth(runs: Sequence[Run]) -> list[Run]:
    """A fixed tenth of the judged runs: in every group those whose ids' digests are least."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.judged:
            groups.setdefault(run.group, []).append(run)
    picked = []
    for same in groups.values():
        order = sorted(same, key=lambda run: hashlib.sha256(f"tenth {run.id}".encode()).digest())
        picked += order[: -(-len(order) // TENTH)]
    return picked
