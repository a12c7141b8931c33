"""`make fuzz`: mutated files into every reader, on all cores, for some minutes or a number of inputs."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from tests.fuzz.corpus import prepare, warm
from tests.fuzz.guard import judge, workshop
from tests.fuzz.mutants import Mutant, mutant
from tests.fuzz.readers import Family, of_family

FAMILIES: tuple[Family, ...] = get_args(Family)
BATCH = 200  # inputs of a task
NOW = "now"  # the file in which a process says what it is at
HANGS_S = 300.0
SHOWN = 300  # bytes of a failing file that are printed


@dataclass
class Failure:
    """An input that failed; the family, seed and number make it again."""

    family: Family
    number: int
    reader: str
    detail: str
    files: str

    @property
    def kind(self) -> tuple[str, str]:
        """Failures of one kind are printed once."""
        place = self.detail.rpartition(" at ")[2] if " at " in self.detail else ""
        return self.reader, place or re.sub(r"/dev/shm\S*|/tmp\S*|\d+", "", self.detail)[:60]

    def line(self, seed: int) -> str:
        """What it takes to see it again."""
        return f"FAILED --family {self.family} --seed {seed} --replay {self.number} [{self.reader}]\n    {self.detail}\n    {self.files}"


@dataclass
class Tally:
    """What became of some inputs of a family."""

    family: Family
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


def fuzz(family: Family, seed: int, numbers: range, base: Path) -> Tally:
    """Reads the inputs of these numbers."""
    tally = Tally(family)
    for number in numbers:
        one, folder = mutant(family, seed, number), base / f"{family}-{number}"
        folder.mkdir()
        one.write(folder)
        verdict = judge(one.reader.read, folder)
        tally.ends[verdict.end] += 1
        if verdict.end == "failed":
            tally.failures.append(Failure(family, number, one.reader.name, verdict.detail, _shown(one)))
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def _shown(one: Mutant) -> str:
    """What was changed, short."""
    parts = [f"{name}: {what or 'missing'}" for name, what in one.special.items()]
    for name, content in one.changed.items():
        valid = one.reader.files()[name]
        first = next((at for at, (a, b) in enumerate(zip(content, valid, strict=False)) if a != b), min(len(content), len(valid)))
        parts.append(f"{name} ({len(content)} bytes) from byte {first}: {content[max(0, first - 40) : first + SHOWN]!r}")
    return "; ".join(parts)


def _worker(family: Family, seed: int, first: int, count: int, base: str) -> Tally:
    """A batch in a process of its own, which says what it is at: who kills the process can say what for."""
    own = Path(base) / str(os.getpid())
    prepare(own)
    for reader in of_family(family):
        warm(reader, own)
    tally = Tally(family)
    for number in range(first, first + count):
        (own / NOW).write_text(f"--family {family} --seed {seed} --replay {number}")
        one = fuzz(family, seed, range(number, number + 1), own)
        tally.ends += one.ends
        tally.failures += one.failures
    (own / NOW).unlink()
    return tally


def _batches(families: list[Family], start: int, inputs: int) -> Iterator[tuple[Family, int]]:
    for first in range(start, start + inputs, BATCH):
        for family in families:
            yield family, first


def main() -> int:
    """Runs until the minutes or the inputs are over; 1 where anything failed."""
    options = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    options.add_argument("--minutes", type=float, default=5.0, help="how long")
    options.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    options.add_argument("--start", type=int, default=0, help="number of the first input: where an earlier run stopped")
    options.add_argument("--inputs", type=int, default=10**9, help="inputs of each family")
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options.add_argument("--family", choices=FAMILIES, action="append", help="only this one; repeatable")
    options.add_argument("--replay", type=int, help="read one input again, with --family, and show how it ends")
    chosen = options.parse_args()
    families = chosen.family or list(FAMILIES)
    with workshop() as base:
        if chosen.replay is not None:
            return _replay(families[0], chosen.seed, chosen.replay, base)
        return _run(chosen, families, base)


def _replay(family: Family, seed: int, number: int, base: Path) -> int:
    one, folder = mutant(family, seed, number), base / "one"
    prepare(base)
    warm(one.reader, base)
    folder.mkdir()
    one.write(folder)
    print(f"{one.reader.name}: {_shown(one)}\n{judge(one.reader.read, folder)}")
    return 0


def _run(chosen: argparse.Namespace, families: list[Family], base: Path) -> int:
    """All batches, on all cores, each kind of failure printed once."""
    end, told, last = time.monotonic() + 60 * chosen.minutes, time.monotonic(), chosen.start + chosen.inputs
    totals: dict[Family, Counter[str]] = {family: Counter() for family in families}
    seen: set[tuple[str, str]] = set()
    batches, reached, running = _batches(families, chosen.start, chosen.inputs), chosen.start, set()
    with ProcessPoolExecutor(chosen.workers) as pool:
        while True:
            while len(running) < 2 * chosen.workers and time.monotonic() < end and (batch := next(batches, None)):
                family, first = batch
                running.add(pool.submit(_worker, family, chosen.seed, first, min(BATCH, last - first), str(base)))
                reached = min(first + BATCH, last)
            if not running:
                break
            done, running = wait(running, timeout=10, return_when=FIRST_COMPLETED)
            _end_what_hangs(base)
            try:
                tallies = [future.result() for future in done]
            except BrokenProcessPool:
                print("a process ended at one of", *(file.read_text() for file in base.glob(f"*/{NOW}")), sep="\n    ")
                return 1
            for tally in tallies:
                totals[tally.family] += tally.ends
                for failure in tally.failures:
                    if (kind := failure.kind) not in seen:
                        seen.add(kind)
                        print(failure.line(chosen.seed), flush=True)
            if time.monotonic() > told + 10:
                told = time.monotonic()
                inputs, failed = (sum(counts.total() if what == "" else counts[what] for counts in totals.values()) for what in ("", "failed"))
                print(f"{inputs:,} inputs, {failed:,} failed", file=sys.stderr, flush=True)
    print(f"{'family':<12} {'inputs':>9} {'accepted':>9} {'refused':>9} {'failed':>7}   seed {chosen.seed}, numbers {chosen.start} to {reached - 1}")
    for family, counts in totals.items():
        print(f"{family:<12} {counts.total():>9,} {counts['accepted']:>9,} {counts['refused']:>9,} {counts['failed']:>7,}")
    return int(any(counts["failed"] for counts in totals.values()))


def _end_what_hangs(base: Path) -> None:
    """Ends processes that have been at one input for long: a loop in C, which no signal ends."""
    for file in base.glob(f"*/{NOW}"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if time.time() - file.stat().st_mtime > HANGS_S:
                os.kill(int(file.parent.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
