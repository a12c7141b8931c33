"""`dsim export`: a profile in formats that engines load: SGLang's SPS table and calibration, vLLM's draft lengths by batch size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.measurements.calibration import fit_temperatures
from simulator.measurements.formats.sglang import AdditiveSps, additive_sps_json, sampled_sps_json, sts_json
from simulator.measurements.formats.vllm import lengths_by_batch_json
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Drafter, Profile
from simulator.quantities import MOST_TOKENS
from simulator.study.profiles.lengths import Range, length_table, unmeasured


def export_sglang_sps(profile: Profile, drafter: str, path: Path, form: str, max_batch: int, context_tokens: float) -> str:
    """Writes an SPS table of whole rounds; a line that says so.

    sampled: at 1 … max_batch requests of whole blocks. additive: bias + alpha(requests) + theta(tokens), the averages over the grid; exact where
    the profile's cost is a sum of both.
    """
    _check(context_tokens)
    known, price = _priced(profile, drafter)
    requests = batch_sizes(max_batch)
    if form == "sampled":
        tokens = [r * (known.gamma + 1) for r in requests]
        seconds = [float(price.round_s(r, context_tokens)[-1]) for r in requests]
        _write(profile, path, sampled_sps_json(tokens, seconds))
        return f"{path}: {len(tokens)} probes, {tokens[0]} to {tokens[-1]} tokens"
    table = additive_table(price, requests, known.gamma, context_tokens)
    _write(profile, path, additive_sps_json(table))
    return f"{path}: {len(table.requests)} × {len(table.tokens)} probes"


def additive_table(price: RoundCost, requests: list[int], gamma: int, context_tokens: float) -> AdditiveSps:
    """The least-squares sum for the profile's rounds on the grid of requests × tokens."""
    tokens = sorted({r * k for r in requests for k in (1, gamma + 1)})
    verify = np.array([price.costs.verify.seconds(tokens, r, context_tokens) for r in requests])  # [requests, tokens]
    absorbed = price.draft.absorb_s(tokens, context_tokens) if price.draft else 0.0
    beside = [price.draft_s(r, context_tokens) + price.costs.overhead.per_request_s * r for r in requests]
    step = verify + absorbed + price.overhead_s + np.array(beside)[:, None]
    alpha = (step - step[:1]).mean(axis=1)
    theta = (step - step[:, :1]).mean(axis=0)
    bias = float((step - alpha[:, None] - theta[None, :]).mean())
    return AdditiveSps(bias, [float(r) for r in requests], alpha.tolist(), [float(t) for t in tokens], theta.tolist())


def export_sglang_sts(profile: Profile, drafter: str, path: Path) -> str:
    """Writes the drafter's calibration, fitted to its recorded blocks if the profile has none; a line that says so. Raises DsimError."""
    known, blocks = profile.drafter(drafter, "--drafter", profile.folder), profile.blocks(drafter)
    if blocks.confidence is None:
        raise DsimError(f"drafter '{drafter}' has no confidence head", where=profile.folder, key="--drafter", remedy="choose a drafter with one")
    temperatures = known.temperatures or fit_temperatures(blocks.confidence, blocks.accepted)
    _write(profile, path, sts_json(temperatures, blocks.source, blocks.rows))
    return f"{path}: temperatures {', '.join(f'{t:.3f}' for t in temperatures)}" + ("" if known.temperatures else " (fitted to the recorded blocks)")


def export_vllm_lengths(profile: Profile, drafter: str, path: Path, max_batch: int, context_tokens: float, tolerance: float) -> dict[str, Any]:
    """Writes the draft length by batch size as few ranges; what they gain and give up, for people and programs."""
    _check(context_tokens, tolerance)
    table = length_table(profile, drafter, max_batch, context_tokens, tolerance)
    _write(profile, path, lengths_by_batch_json([(row.first, row.last, row.length) for row in table.ranges]))
    few = f"the fewest that lose at most {100 * tolerance:g} % (--tolerance) against the best lengths in batches that wander by a quarter"
    lines = [f"{path}: {len(table.ranges)} {'range' if len(table.ranges) == 1 else 'ranges'} of batch sizes, {few}"]
    lines += [f"  {row.first}-{row.last}: k = {row.length}, {_worth(row, table.fixed)}" for row in table.ranges]
    exact = f"the best k at every single size, which changes {table.changes} times"
    lines.append(f"{100 * table.lost:.1f} % below {exact}; {100 * table.lost_most:.0f} % at {table.lost_at} requests")
    lines.append("means are over doublings of the batch")
    warnings = unmeasured(profile, drafter, table)
    lines += [f"warning: {warning}" for warning in warnings]
    return {"file": str(path), "drafter": drafter, "tolerance": tolerance, **asdict(table), "warnings": warnings, "text": "\n".join(lines)}


def _worth(row: Range, fixed: int) -> str:
    """What a range gains, and what a table without it would lose."""
    gained = f"{100 * row.gain:+.1f} % over k = {fixed} everywhere in the mean"
    return gained if row.missed is None else f"{gained}; without this range {100 * row.missed:.1f} % lost at {row.missed_at} requests"


def _write(profile: Profile, path: Path, content: str) -> None:
    """Write a file that is none of the profile's own."""
    if path.resolve() in {file.resolve() for file in profile.files()}:
        raise DsimError("is a file of the profile", where=path, remedy="use another --out")
    write_whole(path, content)


def _check(context_tokens: float, tolerance: float = 0.0) -> None:
    """Raises DsimError where an option is no number that it may be."""
    if not 0 <= context_tokens <= MOST_TOKENS:
        raise DsimError(f"expected 0 to {MOST_TOKENS:g} tokens, got {context_tokens:g}", key="--context")
    if not 0 <= tolerance < 1:
        raise DsimError(f"expected a share from 0 up to 1, got {tolerance:g}", key="--tolerance", remedy="for example 0.02")


def _priced(profile: Profile, drafter: str) -> tuple[Drafter, RoundCost]:
    known = profile.drafter(drafter, "--drafter", profile.folder)
    return known, RoundCost(profile.costs, known.draft, known.gamma, known.gamma)


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, 8, then steps of 8 or 25 %, whichever is larger, up to `most`."""
    grid = [r for r in (1, 2, 4, 8) if r <= most]
    while grid[-1] < most:
        grid.append(min(max(grid[-1] + 8, grid[-1] * 5 // 4), most))
    return grid
