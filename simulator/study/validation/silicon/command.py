"""`dsim validate --silicon`: the sample read, its judged runs predicted, and held against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from simulator.errors import DsimError
from simulator.study.estimate.hosts import Hosts, read_hosts
from simulator.study.estimate.package import sample_file
from simulator.study.validation.silicon.evaluate import evaluate, tenth
from simulator.study.validation.silicon.hosts import fit_hosts, with_host
from simulator.study.validation.silicon.result import Pair, SiliconComparison, compared
from simulator.study.validation.silicon.sample import read_sample

Say = Callable[[str], None]


def validate_silicon(
    only: Sequence[str] = (),
    a_tenth: bool = False,
    keep: Path | None = None,
    workers: int | None = None,
    command: str = "",
    say: Say = lambda _: None,
) -> tuple[SiliconComparison, list[Pair]]:
    """The judged half, or the groups of it whose names hold one of `only`, or a tenth of every group; with the runs that were predicted.

    Raises DsimError where the package is missing, or no group is called so.
    """
    sample = read_sample(sample_file())
    runs = [run for run in (tenth(sample) if a_tenth else sample) if run.judged and (not only or any(name in run.group for name in only))]
    if not runs:
        groups = ", ".join(sorted({run.group for run in sample})[:3])
        raise DsimError(f"no group is called '{only[0]}'", key="--only", remedy=f"there are {groups}, …")
    hosts = read_hosts()
    predicted = evaluate(runs, hosts, keep, workers, say)
    pairs = [(run, row) for run, row in zip(runs, predicted, strict=True) if not row.why]
    if not pairs:
        raise DsimError(f"cannot be predicted: {predicted[0].why}", key="--only", remedy="name other groups")
    return compared(runs, predicted, hosts, sample, command), pairs


def fit(keep: Path | None = None, workers: int | None = None, say: Say = lambda _: None) -> tuple[Hosts, list[Pair], list[Pair]]:
    """What engines add, from the runs of the even half whose measurement the judged half has not too; these runs as they are then predicted; and as
    they are where their own group (engine, model, precision, system) is left out of the fit, as a model is that nobody has measured."""
    sample = read_sample(sample_file())
    judged = {run.measurement for run in sample if run.judged}
    even = [run for run in sample if not run.judged and run.measurement not in judged]
    predicted = evaluate(even, Hosts(), keep, workers, say)
    known = [(run, row) for run, row in zip(even, predicted, strict=True) if not row.why]
    hosts, unseen = _fitted(known), []
    for group in sorted({run.group for run, _ in known}):
        others = _fitted([pair for pair in known if pair[0].group != group])
        unseen += [(run, with_host(run, row, others.of(run.engine, run.series))) for run, row in known if run.group == group]
    return hosts, [(run, with_host(run, row, hosts.of(run.engine, run.series))) for run, row in known], unseen


def _fitted(pairs: Sequence[Pair]) -> Hosts:
    runs, rows = zip(*pairs, strict=True)
    return fit_hosts(runs, rows)
