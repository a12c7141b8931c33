"""Operating points of load generators, whichever wrote them (bench.py, aiperf.py, guidellm.py), and what a reader has to know about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.fit import SPEED, USERS
from simulator.measurements.formats.rounds import SpecCounters
from simulator.quantities import spoken

STREAMED = "measure streamed answers of two tokens or more"
THROUGHPUT = (1e-3, 1e9)  # tokens per second
NAMED_FAILED, MOST_FAILED = 0.02, 0.1  # share of requests that failed, above which it is said, and the point refused
PIECES = 0.04  # relative difference of the gaps between pieces and the time per token, up to which a piece is one token
LEAST_TURNS, LEAST_SHARE = 5, 0.9  # requests of a user, and mean share of users in flight, below which it is said


def after_first(whole_s: float | None, ttft_s: float | None) -> float | None:
    """Mean seconds from the first token to the last, where a file says those of the whole answer and of the first token, and they can be."""
    return whole_s - ttft_s if whole_s and ttft_s and whole_s > ttft_s else None


@dataclass(frozen=True)
class LoadPoint:
    """What users saw at one load. Speed is the inverse of the mean over requests of (last - first token) / (tokens - 1); tokens committed
    and verified per decode round (bonus and anchor included), and survival by position over the rounds that proposed, are None where the file says
    nothing of them."""

    source: str
    tps_per_user: float
    throughput_tok_s: float
    ttft_s: float | None = None
    accepted_length: float | None = None
    budget: float | None = None
    survival: list[float] | None = None
    engine: str = ""
    model: str = ""
    proposing: float | None = None  # share of decode rounds in which anything was drafted; 0 without speculation
    slots: int | None = None  # most tokens drafted of a request and round (k); 0 without speculation
    rounds: float | None = None  # decode rounds of all requests that acceptance was counted over
    prompt_tokens: float | None = None  # mean of a request
    output_tokens: float | None = None  # mean of a request, the first included
    requests: int | None = None  # that finished
    failed: int | None = None
    offered: float | None = None  # most requests in flight that the client allowed (--max-concurrency), where it kept them up
    held_to: int | None = None  # the same where they came at a rate
    burstiness: float | None = None  # of those arrivals: shape of the gamma process, 1 for Poisson
    answer_s: float | None = None  # from the first token to the last, in the mean over requests
    duration_s: float | None = None
    rate_rps: float | None = None  # at which the client sent, where it had a rate
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p90_s: float | None = None
    measured_at: str = ""  # as the file has it
    pace_s: float | None = None  # of a fixed piece of work on the same machine, beside it
    engines: int = 1  # that served together, each with a batch of its own (data parallel)
    gpus: int = 1  # of one of them
    adaptive: bool = False  # drafts were shorter than `slots`: cut by the engine, which never tried the rest, or no longer proposed

    @property
    def in_flight(self) -> float | None:
        """Requests between sending and last token, in the mean over the run (Little's law)."""
        if not self.output_tokens or self.ttft_s is None:
            return None
        return self.throughput_tok_s / self.output_tokens * (self.ttft_s + self._decoding_s)

    @property
    def _decoding_s(self) -> float:
        """Mean seconds of an answer after its first token. Where files do not say it, answers of all lengths are taken to have the mean speed."""
        assert self.output_tokens
        return self.answer_s if self.answer_s is not None else (self.output_tokens - 1) / self.tps_per_user

    @property
    def concurrency(self) -> float:
        """Requests decoding at once as one of them sees it: throughput, less first tokens, ÷ speed (Little's law). Where the client kept `offered`
        in flight and the mean is below, their number fell at the end of the run. Speeds are of users, who were mostly there before: with a mean
        share r in flight after a linear fall, users see (1 - 4 (1 - r) / 3) ÷ r of those offered, and throughput says r."""
        if self.output_tokens and self.output_tokens > 1:
            mean = self.throughput_tok_s / self.output_tokens * self._decoding_s
        else:
            mean = self.throughput_tok_s / self.tps_per_user
        if not self.offered or not self.requests or self.in_flight is None:
            return mean
        lost = min(max(1 - self.in_flight / self.offered, 0.0), self.offered / self.requests, 0.5)  # a fall takes two answers' time at most
        return mean * (1 - 4 * lost / 3) / (1 - lost) ** 2

    def one_token_pieces(self, gap_s: float | None) -> LoadPoint:
        """The point as one of a server that does not speculate, where pieces of answers, `gap_s` apart in the mean, are one token each. A client that
        found no counters says nothing; but accepted drafts make pieces of several tokens. A last, empty piece may count too: n gaps of n - 1."""
        if not gap_s or not self.output_tokens or self.output_tokens <= 2 or self.accepted_length is not None:
            return self
        tokens = gap_s * (self.output_tokens - 1) / self._decoding_s
        if not (1 - PIECES) * (1 - 1 / self.output_tokens) <= tokens <= 1 + PIECES:
            return self
        rounds = self.requests * (self.output_tokens - 1) if self.requests else None
        return replace(self, accepted_length=1.0, budget=1.0, proposing=0.0, slots=0, rounds=rounds)

    def remarks(self) -> list[str]:
        """What makes the point less than it seems. Raises DsimError where too many requests failed."""
        found, requests = [], self.requests or 0
        if self.failed and self.failed > MOST_FAILED * (every := self.failed + requests):
            problem = f"{self.failed:,} of {every:,} requests failed, and the numbers are of the others"
            raise DsimError(problem, where=self.source, key="failed", remedy="measure a load that the server carries")
        if self.failed and self.failed > NAMED_FAILED * (self.failed + requests):
            found.append(f"{self.source}: {self.failed:,} of {self.failed + requests:,} requests failed, and the numbers are of the others")
        flight = self.in_flight
        if self.offered and flight and flight < LEAST_SHARE * self.offered:
            few = f": {requests:,} requests are few" if requests and requests < LEAST_TURNS * self.offered else ""
            mean = f"{self.source}: {flight:.3g} of {self.offered:g} users were in flight in the mean{few}"
            found.append(f"{mean}; users are taken to have seen {self.concurrency:.3g} decoding; measure {LEAST_TURNS} requests a user or more")
        elif self.offered and requests and requests < LEAST_TURNS * self.offered and self.offered > 1 and flight is None:
            found.append(f"{self.source}: {requests:,} requests are few for {self.offered:g} users: measure {LEAST_TURNS} for each or more")
        return found

    def counted(self, counters: SpecCounters) -> LoadPoint:
        """The point with what an engine counted of its rounds."""
        return replace(
            self, accepted_length=counters.accepted_length, budget=counters.budget, survival=counters.survival or None, proposing=counters.proposing,
            slots=counters.slots if counters.slots or not counters.drafts else None, rounds=counters.rounds or counters.drafts, adaptive=counters.cut,
            engines=counters.engines,
        )  # fmt: skip


@dataclass(frozen=True)
class Loads:
    """Operating points of some files, which of them had no finished request and were left out, and what a reader has to know about them."""

    points: list[LoadPoint]
    left_out: list[str]
    remarks: list[str] = field(default_factory=list)  # each begins with the name of what it is about

    def called(self, folder: str) -> Loads:
        """The same with a folder before every name."""
        points = [replace(point, source=folder + point.source) for point in self.points]
        return Loads(points, [folder + name for name in self.left_out], [folder + remark for remark in self.remarks])


def read_loads(files: Iterable[Path], read: Callable[[Path], Loads]) -> Loads:
    """The points of all files, told apart by their folders where files have one name. Raises DsimError, also where a point is there twice, where they
    are of two engines or models, and where no request finished at all."""
    every = _told_apart([(file, read(file)) for file in files])
    seen: dict[LoadPoint, str] = {}
    for file, loads in every:
        for point in loads.points:
            _check_range(point, file)
            numbers = replace(point, source="", survival=None)
            if numbers in seen:
                raise DsimError(f"{point.source} has the numbers of {seen[numbers]}", where=file, remedy="give every measurement once")
            first = next(iter(seen), point)
            if point.engine != first.engine:
                raise DsimError(f"{point.source} and {seen[first]} are of two engines", where=file, remedy="give the results of one server")
            if point.model != first.model and point.model and first.model:
                problem = f"{point.source} is of model {shown(point.model)}, and {seen[first]} of {shown(first.model)}"
                raise DsimError(problem, where=file, remedy="give the results of one server")
            seen[numbers] = point.source
    left_out = [name for _, loads in every for name in loads.left_out]
    if left_out and not seen:
        raise DsimError("no request finished", where=every[0][0], remedy="measure lower loads, or for longer")
    points = [point for _, loads in every for point in loads.points]
    remarks = [remark for _, loads in every for remark in loads.remarks]
    return Loads(points, left_out, remarks + [remark for point in points for remark in point.remarks()])


def _told_apart(every: list[tuple[Path, Loads]]) -> list[tuple[Path, Loads]]:
    """The same, with the folder before every name, remarks included, where points of two folders have one name."""
    names = [point.source for _, loads in every for point in loads.points]
    if len(set(names)) == len(names) or len({file.absolute().parent for file, _ in every}) == 1:
        return every
    return [(file, loads.called(f"{file.absolute().parent.name}/")) for file, loads in every]


def _check_range(point: LoadPoint, file: Path) -> None:
    """Raises DsimError where no server is that slow, fast or large: the unit is another one."""
    for what, value, (least, most) in (
        ("tokens per second and user", point.tps_per_user, SPEED),
        ("tokens per second", point.throughput_tok_s, THROUGHPUT),
        ("requests in flight (throughput ÷ speed)", point.concurrency, USERS),
    ):
        if not least <= value <= most:
            problem = f"{point.source}: expected {spoken(least)} to {spoken(most)} {what}, got {value:g}"
            raise DsimError(problem, where=file, remedy="check the units")
