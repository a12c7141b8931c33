"""The profile of a probed server: step costs from speed and requests in flight alone, as a curve, or as a table where no curve follows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.measurements.fit import Telemetry, fit_cost
from simulator.measurements.formats.loadgen import Loads
from simulator.study.profiles.about import SLOPE, About
from simulator.study.profiles.given_points import check_per_round
from simulator.study.profiles.importing import by_tokens
from simulator.study.profiles.parts import Parts


def import_load(about: About, tool: str, loads: Loads, length: float, budget: float, smooth_within: float = np.inf) -> dict[str, Any]:
    """Two operating points or more at `length` and `budget` tokens of a request and round. Where the fitted curve misses them by more than
    `smooth_within` (rms), their own step times become a table. Raises DsimError."""
    about.check()
    check_per_round(length, budget)
    points, parts = loads.points, Parts()
    telemetry = Telemetry(np.array([p.concurrency for p in points]), np.array([p.tps_per_user for p in points]))
    source = ", ".join(p.source for p in points[:4]) + (f" and {len(points) - 4} more" if len(points) > 4 else "")
    fit = fit_cost(telemetry, length, budget, source=source)
    parts.verify = fit.curve.model_copy(update={"provenance": "imported"})
    parts.assumed += [f"accepted length {length:g} and {budget:g} tokens per request and step", SLOPE]
    parts.unknown += ["drafting, host time and prompts as opposed to the rest of the step", "prefill cost and memory for KV"]
    told = f"fitted to {fit.points} operating points, error {fit.rms:.2%} rms, {fit.worst:.1%} at most"
    if fit.rms > smooth_within:  # a round commits `length` tokens of each request at the per-user speed
        rows = sorted((point.concurrency * budget, length / point.tps_per_user) for point in points)
        told = f"the step times of {len(points)} operating points, as a smooth curve misses them by {fit.rms:.1%} rms; interpolated linearly"
        parts.measured(by_tokens(rows), fit.curve.source, told)
        parts.unknown.append(f"steps of more than {rows[-1][0]:g} tokens")
    parts.first.append(f"step cost: {told}")
    parts.data["rms"] = fit.rms
    return parts.write(about, tool, loads.left_out)
