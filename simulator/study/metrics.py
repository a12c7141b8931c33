"""Records of one run to its numbers. Definitions as vLLM and AIPerf users know them, see docs/design.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.engine.simulate import Run
from simulator.traffic.request import Request

Floats = NDArray[np.float64]
Columns = dict[str, Floats]

NUMBERS = (
    "tps_per_user_mean", "tps_per_user_overall", "tps_per_user_p10", "tps_per_user_p50", "tps_per_user_p90", "throughput_tok_s_gpu",
    "verification_budget", "accepted_length",
    "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_p50_s", "tpot_p90_s", "tpot_p99_s", "itl_p50_s", "itl_p90_s",
    "itl_p99_s", "e2e_p50_s", "e2e_p90_s", "e2e_p99_s", "step_p50_s", "waste_fraction", "concurrency_mean", "waiting_mean", "busy_fraction",
    "preemptions", "unfinished", "rejected", "tokens_per_step_p50", "tokens_per_step_max", "user_s_per_token_draft",
    "user_s_per_token_verify_accepted", "user_s_per_token_verify_rejected", "user_s_per_token_overhead", "user_s_per_token_prefill",
    "user_s_per_token_waiting",
)  # fmt: skip

ROUND_NUMBERS = (
    "tps_per_user_overall", "verification_budget", "accepted_length", "step_p50_s", "waste_fraction", "tokens_per_step_p50", "tokens_per_step_max",
)  # fmt: skip


def summarise(run: Run, gpus: float, replicas: int, ttft_known: bool, open_loop: bool) -> dict[str, Any]:
    """All metrics of a run: request quantiles over the measured requests, the rest over its window. Unknown ones are None."""
    measured = [r for r in run.requests if r.measured and r.finished]
    steps = run.steps.within(run.start_s, run.end_s)
    decoding = {name: column[steps["requests"] > 0] for name, column in steps.items()}
    row: dict[str, Any] = {"requests": len(measured)}
    row |= _per_request(measured, ttft_known)
    row |= _per_step(decoding, steps, run.end_s - run.start_s)
    row |= _per_second(run, steps, gpus, replicas)
    row |= _inter_token(run, steps)
    row |= _time_per_token(run, steps)
    row |= {"preemptions": run.preemptions, "unfinished": run.unfinished, "rejected": run.rejected}
    row["verdict"] = _verdict(run, row["waiting_mean"], row["concurrency_mean"], open_loop)
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _quantiles(values: Floats, stem: str, unit: str, points: tuple[int, ...] = (50, 90, 99)) -> dict[str, float | None]:
    if not len(values):
        return {f"{stem}_p{q}{unit}": None for q in points}
    return {f"{stem}_p{q}{unit}": float(v) for q, v in zip(points, np.percentile(values, points), strict=True)}


def _per_request(measured: list[Request], ttft_known: bool) -> dict[str, float | None]:
    """Speed is (tokens - 1) / (last token - first token) of each request, then quantiles over requests; TPOT its inverse."""
    stamps = np.array([(r.spec.arrival_s, r.first_token_s, r.finish_s, r.spec.output_tokens) for r in measured], dtype=np.float64).reshape(-1, 4)
    arrival, first, last, tokens = stamps.T
    several = (tokens > 1) & (last > first)
    speed = (tokens[several] - 1) / (last[several] - first[several])
    row = {"tps_per_user_mean": float(speed.mean()) if len(speed) else None}
    row |= _quantiles(speed, "tps_per_user", "", (10, 50, 90))
    row |= _quantiles((first - arrival) if ttft_known else first[:0], "ttft", "_s")
    row |= _quantiles(1 / speed, "tpot", "_s")
    row |= _quantiles(last - arrival, "e2e", "_s")
    return row


def _per_step(decoding: Columns, steps: Columns, window_s: float) -> dict[str, float | None]:
    """Batch-level numbers: budget counts the anchor, accepted length the bonus token; waste is rejected over all verified tokens;
    overall speed is tokens of rounds over the time that requests spent in the batch."""
    requests, verified, accepted = (decoding[name].sum() for name in ("requests", "verified", "accepted"))
    tokens = decoding["requests"] + decoding["verified"]
    if not requests or window_s <= 0:
        return dict.fromkeys(ROUND_NUMBERS)
    return {
        "tps_per_user_overall": decoding["committed"].sum() / (steps["running"] * (steps["end_s"] - steps["start_s"])).sum(),
        "verification_budget": 1 + verified / requests,
        "accepted_length": 1 + accepted / requests,
        "step_p50_s": float(np.median(decoding["end_s"] - decoding["start_s"])),
        "waste_fraction": (verified - accepted) / (requests + verified),
        "tokens_per_step_p50": float(np.median(tokens)),
        "tokens_per_step_max": tokens.max(),
    }


def _per_second(run: Run, steps: Columns, gpus: float, replicas: int) -> dict[str, float | None]:
    """Over the window's time: output tokens (first ones included) per GPU; requests in the batch, requests waiting (before a replica, the
    queue taken as linear between a step's start and end, or before a prefill worker) and the share of time in steps, per replica."""
    window_s = run.end_s - run.start_s
    if window_s <= 0:
        return {"throughput_tok_s_gpu": None, "concurrency_mean": 0.0, "waiting_mean": 0.0, "busy_fraction": 0.0}
    length = steps["end_s"] - steps["start_s"]
    firsts = sum(run.start_s < r.first_token_s <= run.end_s for r in run.requests)
    output = steps["committed"].sum() + firsts
    waited = ((steps["waiting"] + steps["waiting_end"]) / 2 * length).sum()
    begin, end = (np.clip(run.prefill_waits[:, side], run.start_s, run.end_s) for side in (0, 1))
    return {
        "throughput_tok_s_gpu": output / window_s / gpus if output else None,
        "concurrency_mean": (steps["running"] * length).sum() / window_s / replicas,
        "waiting_mean": (waited + (end - begin).sum()) / window_s / replicas,
        "busy_fraction": length.sum() / window_s / replicas,
    }


def _inter_token(run: Run, steps: Columns) -> dict[str, float | None]:
    """ITL: gaps between the bursts a user sees, each burst once per user. Never inverted into a speed."""
    gaps, weights = [run.join_gaps[(run.join_gaps[:, 0] > run.start_s) & (run.join_gaps[:, 0] <= run.end_s), 1]], []
    weights.append(np.ones(len(gaps[0])))
    for replica in np.unique(steps["replica"]):
        mine = (steps["replica"] == replica) & (steps["requests"] > 0)
        ends, stayed = steps["end_s"][mine], (steps["requests"] - steps["joined"])[mine]
        gaps.append(np.diff(ends))
        weights.append(stayed[1:])
    gap, weight = np.concatenate(gaps), np.concatenate(weights)
    gap, weight = gap[weight > 0], weight[weight > 0]
    if not len(gap):
        return dict.fromkeys(("itl_p50_s", "itl_p90_s", "itl_p99_s"))
    order = np.argsort(gap, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.minimum(np.searchsorted(share, (0.5, 0.9, 0.99)), len(gap) - 1)
    return dict(zip(("itl_p50_s", "itl_p90_s", "itl_p99_s"), gap[order][at].tolist(), strict=True))


def _time_per_token(run: Run, steps: Columns) -> dict[str, float | None]:
    """Where a user's time per token goes: every running request lives through the whole step; times summed over requests ÷ tokens."""
    names = ("draft", "verify_accepted", "verify_rejected", "overhead", "prefill", "waiting")
    committed = steps["committed"].sum()
    if not committed:
        return {f"user_s_per_token_{name}": None for name in names}
    users, sent = steps["running"], np.maximum(steps["requests"] + steps["verified"], 1)
    rejected = steps["verify_s"] * (steps["verified"] - steps["accepted"]) / sent
    waits = run.join_gaps[(run.join_gaps[:, 0] > run.start_s) & (run.join_gaps[:, 0] <= run.end_s), 2].sum()
    parts = (
        (users * steps["draft_s"]).sum(),
        (users * (steps["verify_s"] - rejected)).sum(),
        (users * rejected).sum(),
        (users * steps["overhead_s"]).sum(),
        (users * steps["prefill_s"]).sum(),
        waits,
    )
    return {f"user_s_per_token_{name}": part / committed for name, part in zip(names, parts, strict=True)}


def _verdict(run: Run, waiting: float, running: float, open_loop: bool) -> str:
    """overloaded: requests in the system grow by more than 5 % of the arrivals, beyond their noise; backlogged: a queue stands
    before the replicas (at least one request, a tenth of those running) but does not grow; else stable."""
    if open_loop:
        arrivals = sorted(r.spec.arrival_s for r in run.requests)
        ends = sorted(r.finish_s for r in run.requests if r.finished)
        grid = np.linspace(run.start_s, run.end_s, 200)
        inside = np.searchsorted(arrivals, grid, side="right") - np.searchsorted(ends, grid, side="right")
        growth = np.polyfit(np.linspace(0, 1, len(grid)), inside, 1)[0]
        came = int(np.searchsorted(arrivals, run.end_s) - np.searchsorted(arrivals, run.start_s))
        if growth > max(0.05 * came, 3 * np.sqrt(max(came, 1))) or run.unfinished > 0.02 * max(came, 1):
            return "overloaded"
    return "backlogged" if waiting >= max(1.0, 0.1 * running) else "stable"
