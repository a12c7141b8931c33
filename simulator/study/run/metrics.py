"""Every metric of a run as one record: what it is called, how it is computed from a run's totals, how it is shown, and what it means.
The columns of points.csv, the report's tables and the table in docs/design.md follow from METRICS. A new metric is one more record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Number = int | float | None  # int stays int in files
Verdict = Literal["stable", "backlogged", "overloaded"]
Speed = Literal["tps_per_user_mean", "tps_per_user_overall", "tps_per_user_p10", "tps_per_user_p50", "tps_per_user_p90"]
Place = Literal["points", "latency", "parts", ""]

SHARES = (0.01, 0.02, 0.05, *(i / 20 for i in range(2, 20)), 0.98, 0.99, 0.999)  # of requests, at which a distribution is kept
OF_GROUPS = (  # metrics that are known of a part of the replicas, too
    "throughput_tok_s_gpu", "goodput_rps_gpu", "goodput_share", "tps_per_user_mean", "tps_per_user_p10", "ttft_p50_s", "ttft_p99_s", "itl_p50_s",
    "itl_p99_s", "accepted_length", "verification_budget", "prefix_hit_share", "concurrency_mean", "waiting_mean", "busy_fraction",
)  # fmt: skip


@dataclass(frozen=True)
class Totals:
    """What a run added up to, over its measured window and requests: all that a metric is computed from."""

    sums: Mapping[str, float]  # by name, see Meter
    prompts: bool  # are they simulated?
    quantiles: Mapping[str, Mapping[int, Number]]  # of each spread of values, by percentile
    steps_by_tokens: tuple[float, float]  # median and largest number of tokens in a decode step
    window_s: float
    gpus: float
    replicas: int
    committed: float  # tokens of decode steps, less those that were thrown away and made again
    queued_s: float  # summed over requests in line at a front end or before a prefill worker
    good_share: Number  # of measured requests, those that keep every limit of `sla.goodput`; None without limits
    requests_per_s: float  # open loop: measured requests; closed loop: those that finish in the window
    requests_timed: int  # measured requests of more than one token
    preemptions: int
    unfinished: int
    rejected: int
    leave: bool = False  # does anybody not wait for the end?

    @property
    def throughput(self) -> Number:
        """Output tokens per second and GPU, None where there were none."""
        output = self.committed + self.sums["first_tokens"]
        return output / self.window_s / self.gpus if self.window_s > 0 and output else None

    @property
    def goodput(self) -> Number:
        """Requests per second of the fleet that keep every limit, None without limits."""
        return None if self.good_share is None else self.good_share * self.requests_per_s

    @property
    def client_wait_s(self) -> Number:
        """Mean seconds that requests were held back, None where none was."""
        return self.sums["client_wait_s"] / self.sums["requests_done"] if self.sums["client_wait_s"] else None

    def ended(self, name: str) -> Number:
        """Measured requests that ended so, None where nobody would."""
        return int(self.sums[name]) if self.leave else None

    @property
    def hit_share(self) -> Number:
        """Cached tokens of prompts, of all; None where none was."""
        return self.sums["cached_tokens"] / self.sums["prompt_tokens"] if self.sums["cached_tokens"] else None

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
    title: str
    unit: str
    of: Callable[[Totals], Number]
    doc: str
    factor: float = 1.0
    decimals: int | None = None
    place: Place = ""
    compared: bool = False


def _at(spread: str, percentile: int) -> Callable[[Totals], Number]:
    return lambda t: t.quantiles[spread][percentile]


def _decoded(of: Callable[[Totals], Number]) -> Callable[[Totals], Number]:
    """Not known where there was no decode step."""
    return lambda t: of(t) if t.decoded else None


def _times(name: str, doc: str, compared: int = 0) -> list[Metric]:
    """p50, p90 and p99 of a spread of times."""
    unit, factor, spread = ("s", 1.0, "e2e") if name == "E2E" else ("ms", 1000.0, name.lower())
    title = f"{name}\N{NO-BREAK SPACE}p"
    metrics = {q: Metric(f"{spread}_p{q}_s", f"{title}{q}", unit, _at(spread, q), doc, factor, place="latency") for q in (50, 90, 99)}
    return [replace(metric, compared=q == compared) for q, metric in metrics.items()]


def _part(name: str, title: str, total: str) -> Metric:
    """A cause of a user's time per token."""

    def of(t: Totals) -> Number:
        return t.sums[total] / t.committed if t.committed and (t.prompts or name != "prefill") else None

    return Metric(f"user_s_per_token_{name}", title, "ms", of, _PARTS, 1000.0, 2, "parts")


_SPEED = "over measured requests of more than one token: (output tokens − 1) ÷ (last − first token). p10 is the speed that nine of ten users exceed"
_PARTS = (
    "where a user's time per token goes: Σ over steps of running requests × that part of the step ÷ committed tokens. Verify time is split by "
    "tokens: rejected ones on one side, anchors and accepted ones on the other. Waiting is time that a request with a first token spends in no "
    "batch. `_prefill` is empty with `prefill: instant`"
)
_GOOD = (
    "goodput: requests per second that keep every limit of `sla.goodput`, or of their class, per GPU and of the fleet; empty without limits. Open "
    "loop: measured requests that do ÷ window. Closed loop: `goodput_share` × requests that finish in the window ÷ window"
)
_LOST = "measured requests without an end at the end; those that fit in no replica's memory, or whose prompt fills `engine.max_context_tokens`"
_LEFT = (
    "measured requests that ended otherwise: their users left before the first token, or stopped the answer, or their clients gave up after the last "
    "retry; `retries`: attempts of measured requests that were sent again. Empty where everybody waits. Such requests keep no SLA and are in no "
    "latency or speed; tokens that they were given are in the throughput"
)
_TOKENS = "B = requests + verified of decode steps"

METRICS: tuple[Metric, ...] = (
    Metric("tps_per_user_mean", "per-user speed, mean", "tok/s", lambda t: t.sums["speed"] / t.requests_timed if t.requests_timed else None,
           _SPEED, decimals=1, place="points", compared=True),
    Metric("tps_per_user_overall", "per-user speed, overall", "tok/s", _decoded(lambda t: t.committed / t.sums["running_s"]), decimals=1,
           doc="tokens committed in decode steps ÷ Σ over steps of running requests × step length: long answers and slow stretches weigh by their "
           "time; requests in the batch × this is the throughput less first tokens"),
    *(Metric(f"tps_per_user_p{q}", f"per-user speed, p{q}", "tok/s", _at("speed", q), _SPEED, decimals=1, place="points") for q in (10, 50, 90)),
    Metric("throughput_tok_s_gpu", "throughput", "tok/s/GPU", lambda t: t.throughput, decimals=0, place="points", compared=True,
           doc="output tokens of the window, those committed in decode steps and the first ones that prefill emits, ÷ window ÷ GPUs. GPUs are "
           "replicas × the profile's, and prefill workers where their number is given"),
    Metric("goodput_rps_gpu", "goodput", "req/s/GPU", lambda t: t.goodput and t.goodput / t.gpus, _GOOD, place="points", compared=True),
    Metric("goodput_rps", "goodput of the fleet", "req/s", lambda t: t.goodput, _GOOD),
    Metric("goodput_share", "requests within the SLA", "%", lambda t: t.good_share, factor=100.0, decimals=1, place="points",
           doc="share of measured requests that keep every limit of `sla.goodput`, or of their class, each judged on its own; refused, unfinished "
           "and abandoned ones keep none"),
    Metric("verification_budget", "verification budget, anchor incl.", "tok/request/step",
           _decoded(lambda t: 1 + t.sums["verified"] / t.sums["requests"]), decimals=2, place="points", compared=True,
           doc="1 + verified ÷ requests, summed over decode steps: anchor included"),
    Metric("accepted_length", "accepted length, bonus incl.", "tok/step", _decoded(lambda t: 1 + t.sums["accepted"] / t.sums["requests"]),
           decimals=2, place="points", compared=True,
           doc="1 + accepted ÷ requests, summed over decode steps: bonus included, not cut at the ends of answers"),
    *_times("TTFT", "first token − sending, which is the arrival unless `workload.max_concurrency` holds the request back; empty with "
            "`prefill: instant`, where it would mean nothing", compared=99),
    *_times("TPOT", "1 ÷ per-user speed of each request, then quantiles", compared=99),
    *_times("ITL", "gaps between the bursts that a user sees, each burst once per user, a request's first gap included. Bursts hold several tokens: "
            "never invert this into a speed"),
    *_times("E2E", "last token − sending; with `prefill: instant` without the time of the prompt"),
    Metric("client_wait_mean_s", "wait at the client", "s", lambda t: t.client_wait_s, place="latency",
           doc="sending − arrival, mean over measured requests: what `workload.max_concurrency` holds back; empty where nothing waited"),
    Metric("step_p50_s", "step time p50", "ms", _decoded(_at("step", 50)), "median length of a decode step", factor=1000.0, place="points"),
    Metric("waste_fraction", "verified in vain", "%",
           _decoded(lambda t: (t.sums["verified"] - t.sums["accepted"]) / (t.sums["requests"] + t.sums["verified"])), factor=100.0, decimals=1,
           place="points", doc="(verified − accepted) ÷ (requests + verified): share of the target's tokens that were thrown away"),
    Metric("concurrency_mean", "requests in service", "", lambda t: t.per_replica(t.sums["running_s"]), decimals=1, place="points",
           doc="requests in the batch over time, per replica: those that decode, or stand still while a step processes prompts alone. Σ running × "
           "step length ÷ window ÷ replicas"),
    Metric("waiting_mean", "requests waiting", "", lambda t: t.per_replica(t.sums["waiting_s"] + t.queued_s), decimals=1, place="points",
           doc="the same of requests waiting at a replica (mean of a step's start and end; admitted ones whose prompt gets nothing in the step "
           "included), in line at a front end or for a prefill worker. A request whose prompt is being processed, or whose keys and values are on "
           "their way, is in neither: with `concurrency_mean` this is less than the load"),
    Metric("busy_fraction", "busy", "%", lambda t: t.per_replica(t.sums["length_s"]), factor=100.0, decimals=1,
           doc="share of the window that a replica spends in steps"),
    Metric("prefix_hit_share", "prompt tokens from the prefix cache", "%", lambda t: t.hit_share, factor=100.0, decimals=1, place="points",
           doc="cached ÷ prompt tokens of measured requests: what a trace says of them, or what a simulated prefix cache had when each was first "
           "admitted; empty without a cache"),
    Metric("preemptions", "preemptions", "", lambda t: t.preemptions, decimals=0, place="points",
           doc="requests thrown out of KV memory and computed again, whole run (to its end: window over, measured requests done)"),
    Metric("unfinished", "unfinished", "", lambda t: t.unfinished, _LOST, decimals=0, place="points"),
    Metric("left", "left", "", lambda t: t.ended("left"), _LEFT, decimals=0, place="points"),
    Metric("stopped", "stopped", "", lambda t: t.ended("stopped"), _LEFT, decimals=0, place="points"),
    Metric("timed_out", "timed out", "", lambda t: t.ended("timed_out"), _LEFT, decimals=0, place="points"),
    Metric("retries", "retries", "", lambda t: t.ended("retries"), _LEFT, decimals=0, place="points"),
    Metric("rejected", "rejected", "", lambda t: t.rejected, _LOST, decimals=0),
    Metric("truncated", "truncated", "", lambda t: int(t.sums["truncated"]), decimals=0,
           doc="measured requests whose answers end early, at `engine.max_context_tokens`"),
    Metric("tokens_per_step_p50", "tokens in a step, p50", "", _decoded(lambda t: t.steps_by_tokens[0]), _TOKENS),
    Metric("tokens_per_step_max", "tokens in a step, most", "", _decoded(lambda t: t.steps_by_tokens[1]), _TOKENS, decimals=0),
    _part("draft", "draft", "draft_s"),
    _part("verify_accepted", "verify, accepted", "verify_accepted_s"),
    _part("verify_rejected", "verify, rejected", "verify_rejected_s"),
    _part("overhead", "overhead", "overhead_s"),
    _part("prefill", "prefill of others", "prefill_s"),
    _part("waiting", "waiting", "out_of_batch_s"),
)  # fmt: skip

# Of prefill workers, which take the place of replicas, and of the link to them.
OF_POOL = (
    Metric("busy_fraction", "busy", "%", lambda t: t.per_replica(t.sums["worker_s"]) if t.replicas else None, "", 100.0, 1),
    Metric("waiting_mean", "requests waiting", "", lambda t: t.per_replica(t.queued_s) if t.replicas else None, "", decimals=1),
    Metric(
        "prompt_tokens_s", "prompts computed", "tok/s", lambda t: t.sums["worker_tokens"] / t.window_s if t.window_s > 0 else None, "", decimals=0
    ),
    Metric("transfer_mean_s", "transfer, mean", "ms", lambda t: t.sums["move_s"] / t.sums["moves"] if t.sums["moves"] else None, "", 1000.0),
    Metric("transfer_bytes_s", "transferred", "GB/s", lambda t: t.sums["moved_bytes"] / t.window_s if t.window_s > 0 else None, "", 1e-9),
)

HEAD = {
    ("policy", "drafter", "load_kind", "load", "replication"): "which point; `load_kind` is `concurrency` (users per replica), `rate_rps` (fleet) "
    "or `rate_scale` (times the trace's speed)",
    ("requests",): "measured requests that finished",
}
_VERDICT = (
    "`overloaded`: open loop, and the requests that wait (at a replica, its front end, for a prefill worker or at a client's limit) grow over "
    "the window by more than 2 % of the arrivals and beyond noise: by more than 3 √arrivals and two standard errors (of 20 parts of the "
    "window), or at its end more wait than such noise of all arrivals since the start explains. Where nobody waits nothing is overloaded, even "
    "while a fleet fills. `backlogged`: on average at least one request, and a tenth of those running, waits. Else `stable`"
)
TAIL = {("verdict",): _VERDICT}


def names() -> tuple[str, ...]:
    """Of all metrics, in the order of the columns."""
    return tuple(metric.name for metric in METRICS)


def columns() -> list[str]:
    """Those of points.csv."""
    return [*(name for group in HEAD for name in group), *names(), *(name for group in TAIL for name in group)]


def columns_table() -> str:
    """The table of docs/design.md: every column of points.csv, those of one definition in a row."""
    docs: dict[str, tuple[str, ...]] = {}
    for metric in METRICS:
        docs[metric.doc] = (*docs.get(metric.doc, ()), metric.name)
    rows = HEAD | {group: doc for doc, group in docs.items()} | TAIL
    return "\n".join(["| column | definition |", "|---|---|", *(f"| {_listed(group)} | {doc} |" for group, doc in rows.items())])


def _listed(group: tuple[str, ...]) -> str:
    """Names side by side; after the first one, what they have in common is left out: `ttft_p50_s`, `_p90_s`."""
    first, last = min(group), max(group)
    alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    shared = max(first[:alike].rfind("_"), 0)
    return ", ".join(f"`{name[shared:] if place else name}`" for place, name in enumerate(group))
