"""Pictures of a result. matplotlib is imported here and nowhere else: callers import this lazily."""

from __future__ import annotations

from simulator.report.plots.frontier import pareto
from simulator.report.plots.load import accepted_length, against_load, latency, latency_tells
from simulator.report.plots.style import PHONE, WIDE, Look, inline, save, svg
from simulator.report.plots.tokens import time_per_token

__all__ = [
    "PHONE",
    "WIDE",
    "Look",
    "accepted_length",
    "against_load",
    "inline",
    "latency",
    "latency_tells",
    "pareto",
    "save",
    "svg",
    "time_per_token",
]
