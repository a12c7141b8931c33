"""Replicas that are away for a while: lost at once, with all that runs on them, or sent home when their requests are done."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import nan

import simpy
from pydantic import PositiveFloat

from simulator.engine.replica import Replica
from simulator.rng import stream
from simulator.schema import Frozen
from simulator.traffic.request import Request


@dataclass(frozen=True)
class Absence:
    """A replica takes no requests in [start_s, end_s). `abrupt`: it dies, its requests begin again elsewhere, and it restarts empty at the
    end; else it finishes what it holds."""

    replica: int
    start_s: float
    end_s: float
    abrupt: bool = False


class Failures(Frozen):
    """Replicas die at random: exponential times between failures, `every_hours` in the mean for each, and `restart_s` until it is back, empty."""

    every_hours: PositiveFloat
    restart_s: PositiveFloat = 120.0

    def drawn(self, replicas: int, until_s: float, seed: int, replication: int) -> tuple[Absence, ...]:
        """The failures of every replica in [0, until_s), the same for every policy; a larger fleet keeps those of the smaller."""
        found = []
        for number in range(replicas):
            luck, at = stream(seed, "failures", replication, number), 0.0
            while (at := at + luck.exponential(3600 * self.every_hours)) < until_s:
                found.append(Absence(number, at, at + self.restart_s, abrupt=True))
                at += self.restart_s
        return tuple(found)


def watch(
    env: simpy.Environment,
    absence: Absence,
    replicas: list[Replica],
    away: dict[int, int],
    fresh: Callable[[int], Replica],
    retired: list[Replica],
    again: Callable[[Request], None],
    back: Callable[[], None],
    lose: Callable[[int], None],
) -> Generator[simpy.Event, None, None]:
    """Play one absence: `away` counts the absences of each replica, `again` routes a request anew, `retired` keeps the dead for the
    records, `back` is told when one is there again, `lose` of the decoded tokens that are gone with one."""
    number = absence.replica
    yield env.timeout(absence.start_s)
    away[number] = away.get(number, 0) + 1
    if absence.abrupt:
        dead = replicas[number]
        lost = _kill(dead)
        lose(sum(max(request.emitted_tokens - 1, 0) for request in lost))  # the first token comes with the prompt
        retired.append(dead)
        replicas[number] = fresh(number)
        for request in lost:
            again(_from_the_start(request))
    yield env.timeout(absence.end_s - absence.start_s)
    away[number] -= 1
    back()


def present(replicas: Sequence[Replica], away: dict[int, int]) -> list[int]:
    """Numbers of the replicas that take requests."""
    return [n for n in range(len(replicas)) if not away.get(n)]


def _kill(replica: Replica) -> list[Request]:
    """End its process in the middle of whatever it does; returns what it held, in order of arrival, with what it had emitted."""
    running = [replica.batch.leave(slot)[0] for slot in reversed(range(len(replica.batch)))]
    lost = [*replica.waiting, *(request for request, _ in replica.prefilling), *running]
    replica.process.defused = True
    if replica.process.is_alive and replica.process.target is not None:
        replica.process.interrupt()
    return sorted(lost, key=lambda r: (r.spec.arrival_s, r.spec.index))


def _from_the_start(request: Request) -> Request:
    """All progress is lost: prompt, tokens, and its place in the recorded text. Its first token is now the one of the new attempt."""
    request.emitted_tokens = request.prefilled_tokens = request.visit = 0
    request.row, request.walk = -1, None
    request.first_token_s = request.last_emit_s = request.left_s = nan
    request.waited_s = 0.0
    return request
