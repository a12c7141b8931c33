"""Every metric of a run as one record: what it is called, how it is computed from a run's totals, how it is shown, and what it means.
The columns of points.csv, the report's tables and the table in docs/design.md follow from METRICS. A new metric is one more record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Number = int | float | None  # int stays int in files
Verdict = Literal["stable", "backlogged", "overloaded"]
Place = Literal["points", "latency", "parts", ""]


@dataclass(frozen=True)
class Totals:
    """What a run added up to, over its measured window and requests: all that a metric is computed from."""

    sums: Mapping[str, float]  # by name, see Meter
    quantiles: Mapping[str, Mapping[int, Number]]  # of each spread of values, by percentile
    steps_by_tokens: tuple[float, float]  # median and largest number of tokens in a decode step
    window_s: float
    gpus: float
    replicas: int
    committed: float  # tokens of decode steps, less those that were thrown away and made again
    queued_s: float  # summed over requests before a prefill worker
    requests_timed: int  # measured requests of more than one token
    preemptions: int
    unfinished: int
    rejected: int

    @property
    def decoded(self) -> bool:
        """Was there a decode step in the window?"""
        return bool(self.sums["requests"]) and self.window_s > 0

    def per_replica(self, seconds: float) -> float:
        """A mean over the window's time and the replicas."""
        return seconds / self.window_s / self.replicas if self.window_s > 0 else 0.0


@dataclass(frozen=True)
class Metric:
    """One number of a run. `unit`, `factor` and `decimals` (None: by size) are those in which a report shows it under `title`, `place` the
    table that it stands in; `compared` by `dsim compare`. Metrics of one `doc` are one row in the documentation."""

    name: str
    of: Callable[[Totals], Number]
    doc: str
    title: str
    unit: str = ""
    factor: float = 1.0
    decimals: int | None = None
    place: Place = ""
    compared: bool = False


def _quantile(spread: str, percentile: int) -> Callable[[Totals], Number]:
    return lambda t: t.quantiles[spread][percentile]


def _speeds(*percentiles: int) -> tuple[Metric, ...]:
    return tuple(
        Metric(f"tps_per_user_p{q}", _quantile("speed", q), _SPEED, f"per-user speed, p{q}", "tok/s", decimals=1, place="points") for q in percentiles
    )


def _times(name: str, doc: str, compared: int = 0) -> tuple[Metric, ...]:
    """p50, p90 and p99 of a spread of times."""
    unit, factor = ("s", 1.0) if name == "E2E" else ("ms", 1000.0)
    stem = name.lower()
    return tuple(
        Metric(
            f"{stem}_p{q}_s", _quantile(stem, q), doc, f"{name}\N{NO-BREAK SPACE}p{q}", unit, factor, place="latency", compared=q == compared
        )
        for q in (50, 90, 99)
    )  # fmt: skip


def _part(name: str, title: str, total: str) -> Metric:
    """A cause of a user's time per token."""
    return Metric(f"user_s_per_token_{name}", lambda t: t.sums[total] / t.committed if t.committed else None, _PARTS, title, "ms", 1000.0, 2, "parts")


def _round(name: str, of: Callable[[Totals], Number], doc: str, title: str, unit: str = "", **shown: object) -> Metric:
    """A metric of decode steps: not known where there was none."""
    return Metric(name, lambda t: of(t) if t.decoded else None, doc, title, unit, **shown)  # type: ignore[arg-type]


_SPEED = "over measured requests of more than one token: (output tokens − 1) ÷ (last − first token). p10 is the speed that nine of ten users exceed"
_PARTS = (
    "where a user's time per token goes: Σ over steps of running requests × that part of the step ÷ committed tokens. Verify time is split by "
    "tokens: rejected ones on one side, anchors and accepted ones on the other. Waiting is time that a request with a first token spends in no batch"
)
_LOST = "measured requests without an end at the end; those that fit in no replica's memory"
_TOKENS = "B = requests + verified of decode steps"

METRICS: tuple[Metric, ...] = (
    Metric(
        "tps_per_user_mean",
        lambda t: t.sums["speed"] / t.requests_timed if t.requests_timed else None,
        _SPEED,
        "per-user speed, mean",
        "tok/s",
        decimals=1,
        place="points",
        compared=True,
    ),
    _round(
        "tps_per_user_overall",
        lambda t: t.committed / t.sums["running_s"],
        "tokens committed in decode steps ÷ Σ over steps of running requests × step length: long answers and slow stretches weigh by their time; "
        "requests in the batch × this is the throughput less first tokens",
        "per-user speed, overall",
        "tok/s",
        decimals=1,
    ),
    *_speeds(10, 50, 90),
    Metric(
        "throughput_tok_s_gpu",
        lambda t: output / t.window_s / t.gpus if t.window_s > 0 and (output := t.committed + t.sums["first_tokens"]) else None,
        "output tokens of the window, those committed in decode steps and the first ones that prefill emits, ÷ window ÷ GPUs. GPUs are replicas × "
        "the profile's, and prefill workers where their number is given",
        "throughput",
        "tok/s/GPU",
        decimals=0,
        place="points",
        compared=True,
    ),
    _round(
        "verification_budget",
        lambda t: 1 + t.sums["verified"] / t.sums["requests"],
        "1 + verified ÷ requests, summed over decode steps: anchor included",
        "verification budget, anchor incl.",
        "tok/request/step",
        decimals=2,
        place="points",
        compared=True,
    ),
    _round(
        "accepted_length",
        lambda t: 1 + t.sums["accepted"] / t.sums["requests"],
        "1 + accepted ÷ requests, summed over decode steps: bonus included, not cut at the ends of answers",
        "accepted length, bonus incl.",
        "tok/step",
        decimals=2,
        place="points",
        compared=True,
    ),
    *_times("TTFT", "first token − arrival; empty with `prefill: instant`, where it would mean nothing", compared=99),
    *_times("TPOT", "1 ÷ per-user speed of each request, then quantiles", compared=99),
    *_times(
        "ITL",
        "gaps between the bursts that a user sees, each burst once per user, a request's first gap included. Bursts hold several tokens: never "
        "invert this into a speed",
    ),
    *_times("E2E", "last token − arrival"),
    _round("step_p50_s", _quantile("step", 50), "median length of a decode step", "step time p50", "ms", factor=1000.0, place="points"),
    _round(
        "waste_fraction",
        lambda t: (t.sums["verified"] - t.sums["accepted"]) / (t.sums["requests"] + t.sums["verified"]),
        "(verified − accepted) ÷ (requests + verified): share of the target's tokens that were thrown away",
        "verified in vain",
        "%",
        factor=100.0,
        decimals=1,
        place="points",
    ),
    Metric(
        "concurrency_mean",
        lambda t: t.per_replica(t.sums["running_s"]),
        "running requests over time, per replica: Σ running × step length ÷ window ÷ replicas",
        "requests in service",
        decimals=1,
        place="points",
    ),
    Metric(
        "waiting_mean",
        lambda t: t.per_replica(t.sums["waiting_s"] + t.queued_s),
        "the same of requests waiting at a replica (mean of a step's start and end) or for a prefill worker",
        "requests waiting",
        decimals=1,
        place="points",
    ),
    Metric("busy_fraction", lambda t: t.per_replica(t.sums["length_s"]), "share of the window that a replica spends in steps", "busy", "%", 100.0, 1),
    Metric(
        "preemptions",
        lambda t: t.preemptions,
        "requests thrown out of KV memory and computed again, whole run (to its end: window over, measured requests done)",
        "preemptions",
        decimals=0,
        place="points",
    ),
    Metric("unfinished", lambda t: t.unfinished, _LOST, "unfinished", decimals=0, place="points"),
    Metric("rejected", lambda t: t.rejected, _LOST, "rejected", decimals=0),
    _round("tokens_per_step_p50", lambda t: t.steps_by_tokens[0], _TOKENS, "tokens in a step, p50"),
    _round("tokens_per_step_max", lambda t: t.steps_by_tokens[1], _TOKENS, "tokens in a step, most", decimals=0),
    _part("draft", "draft", "draft_s"),
    _part("verify_accepted", "verify, accepted", "verify_accepted_s"),
    _part("verify_rejected", "verify, rejected", "verify_rejected_s"),
    _part("overhead", "overhead", "overhead_s"),
    _part("prefill", "prefill of others", "prefill_s"),
    _part("waiting", "waiting", "out_of_batch_s"),
)

HEAD = (
    (
        ("policy", "drafter", "load_kind", "load", "replication"),
        "which point; `load_kind` is `concurrency` (users per replica), `rate_rps` (fleet) or `rate_scale` (times the trace's speed)",
    ),
    (("requests",), "measured requests that finished"),
)
TAIL = (
    (
        ("verdict",),
        "`overloaded`: open loop, and requests in the system grow over the window by more than 5 % of the arrivals (and more than three times "
        "their square root), or more than 2 % never finish. `backlogged`: on average at least one request, and a tenth of those running, waits. "
        "Else `stable`",
    ),
)


def names() -> tuple[str, ...]:
    """Of all metrics, in the order of the columns."""
    return tuple(metric.name for metric in METRICS)


def columns() -> list[str]:
    """Those of points.csv."""
    return [*(name for group, _ in HEAD for name in group), *names(), *(name for group, _ in TAIL for name in group)]


def columns_table() -> str:
    """The table of docs/design.md: every column of points.csv, those of one definition in a row."""
    docs: dict[str, list[str]] = {}
    for metric in METRICS:
        docs.setdefault(metric.doc, []).append(metric.name)
    rows = [*HEAD, *((tuple(group), doc) for doc, group in docs.items()), *TAIL]
    return "\n".join(["| column | definition |", "|---|---|", *(f"| {_listed(group)} | {doc} |" for group, doc in rows)])


def _listed(group: tuple[str, ...]) -> str:
    """Names side by side; after the first one, what they have in common is left out: `ttft_p50_s`, `_p90_s`."""
    shared = 0
    while len({name[: shared + 1] for name in group}) == 1 and len(group) > 1:
        shared += 1
    shared = max(group[0][:shared].rfind("_"), 0)
    return ", ".join(f"`{name[shared:] if place else name}`" for place, name in enumerate(group))
