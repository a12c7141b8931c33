"""`dsim export`: a profile in formats that engines load: SGLang's SPS table and calibration, vLLM's draft lengths by batch size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.measurements.calibration import fit_temperatures
from simulator.measurements.formats.sglang import AdditiveSps, additive_sps_json, sampled_sps_json, sts_json
from simulator.measurements.formats.vllm import lengths_by_batch_json
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Drafter, Profile
from simulator.measurements.statistics import visited_rows


def export_sglang_sps(profile: Profile, drafter: str, path: Path, form: str, max_batch: int, context_tokens: float) -> str:
    """Writes an SPS table of whole rounds; a line that says so.

    sampled: at 1 … max_batch requests of whole blocks. additive: bias + alpha(requests) + theta(tokens), the averages over the grid; exact where
    the profile's cost is a sum of both.
    """
    known, price = _priced(profile, drafter)
    requests = _grid(max_batch)
    if form == "sampled":
        tokens = [r * (known.gamma + 1) for r in requests]
        seconds = [float(price.round_s(r, context_tokens)[-1]) for r in requests]
        write_whole(path, sampled_sps_json(tokens, seconds))
        return f"{path}: {len(tokens)} probes, {tokens[0]} to {tokens[-1]} tokens"
    table = additive_table(price, requests, known.gamma, context_tokens)
    write_whole(path, additive_sps_json(table))
    return f"{path}: {len(table.requests)} × {len(table.tokens)} probes"


def additive_table(price: RoundCost, requests: list[int], gamma: int, context_tokens: float) -> AdditiveSps:
    """The least-squares sum for the profile's rounds on the grid of requests × tokens."""
    tokens = sorted({r * k for r in requests for k in (1, gamma + 1)})
    verify = np.array([price.costs.verify.seconds(tokens, r, context_tokens) for r in requests])  # [requests, tokens]
    step = verify + price.overhead_s + np.array([price.draft_s(r, context_tokens) for r in requests])[:, None]
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
    write_whole(path, sts_json(temperatures, blocks.source, blocks.rows))
    return f"{path}: temperatures {', '.join(f'{t:.3f}' for t in temperatures)}" + ("" if known.temperatures else " (fitted to the recorded blocks)")


def export_vllm_lengths(profile: Profile, drafter: str, path: Path, max_batch: int, context_tokens: float) -> str:
    """Writes the best fixed length at every batch size as ranges; a line that says so."""
    table = best_lengths(profile, drafter, max_batch, context_tokens)
    write_whole(path, lengths_by_batch_json(table))
    return f"{path}: " + ", ".join(f"{first}-{last}: {length}" for first, last, length in table)


def best_lengths(profile: Profile, drafter: str, max_batch: int, context_tokens: float) -> list[tuple[int, int, int]]:
    """[first, last, length] of the length with most expected tokens per second, from the recorded blocks and the price of rounds; 0 is
    ordinary decoding, which drafts nothing. A shorter length wins a tie."""
    known, price = _priced(profile, drafter)
    blocks, lengths = profile.blocks(drafter), range(known.gamma + 1)
    committed = []
    for length in lengths:
        visited = visited_rows(blocks, np.full(blocks.rows, length))
        committed.append(float(1 + np.minimum(blocks.accepted[visited], length).mean()))
    best = []
    for requests in range(1, max_batch + 1):
        verify = price.round_s(requests, context_tokens)[::requests] - price.draft_s(requests, context_tokens)  # [γ+1]
        drafting = np.array([known.draft.seconds(requests, context_tokens, k) if k else 0.0 for k in lengths])
        best.append(int(np.argmax(np.array(committed) / (verify + drafting))))
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(best)) if a != b), len(best)]
    return [(first + 1, last, best[first]) for first, last in pairwise(starts)]


def _priced(profile: Profile, drafter: str) -> tuple[Drafter, RoundCost]:
    known = profile.drafter(drafter, "--drafter", profile.folder)
    return known, RoundCost(profile.costs, known.draft, known.gamma, known.gamma)


def _grid(most: int) -> list[int]:
    """1, 2, 4, 8, then steps of 8 or 25 %, whichever is larger, up to `most`."""
    grid = [r for r in (1, 2, 4, 8) if r <= most]
    while grid[-1] < most:
        grid.append(min(max(grid[-1] + 8, grid[-1] * 5 // 4), most))
    return grid
