"""Is it one workload? What of the differences between files a fit can use, and what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.study.profiles.given_points import Cell

CROWDED = 1.25  # requests in flight (Little's law) against those allowed, above which a file contradicts itself
DIFFERS = 2.0  # ratio of mean lengths between files above which a fit has to know them all


def check_workload(cells: Sequence[Cell]) -> None:
    """Raises DsimError where the requests behind the cells are too unlike for what is known of them."""
    for cell in cells:
        if problem := crowded(cell.point):
            raise DsimError(problem, where=cell.point.source, remedy="measure it again: its numbers contradict each other")
    for what, name in (("prompts", "prompt_tokens"), ("answers", "output_tokens")):
        known = [(getattr(cell.point, name), cell.point.source) for cell in cells if getattr(cell.point, name)]
        if not known:
            continue
        (least, shortest), (most, longest) = min(known), max(known)
        if most > DIFFERS * least and (len(known) < len(cells) or any(cell.point.ttft_s is None for cell in cells)):
            problem = f"has {what} of {least:,.0f} tokens in the mean, and {longest} of {most:,.0f}"
            missing = "all files say how long prompts and answers were, and their TTFT"
            raise DsimError(problem, where=shortest, key=name, remedy=f"measure one workload, or give files where {missing}")


def crowded(point: LoadPoint) -> str:
    """Says where more requests would have been in flight than the client allowed: throughput, speed and TTFT are not of one run. Else empty."""
    inside = replace(point, ttft_s=point.ttft_s or 0.0).in_flight
    if point.offered and inside and inside > CROWDED * point.offered:
        return f"throughput, speed and TTFT say {inside:.1f} requests in flight, more than the {point.offered:.0f} that the client allowed"
    return ""
