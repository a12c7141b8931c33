"""What a profile's page, picture and JSON show of acceptance and calibration: numbers with 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.measurements.calibration import Calibration, calibrate
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Profile
from simulator.measurements.statistics import (
    AcceptanceStatistics,
    ThresholdPoint,
    acceptance_statistics,
    autocorrelation,
    threshold_sweep,
    visited_rows,
)
from simulator.study.run.result import Estimate

LAGS = 20
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(20))
LEVEL = 0.95
FEW = 10  # texts of a domain, below which its intervals are hardly to be trusted


@dataclass(frozen=True)
class DomainAcceptance:
    """Acceptance of one drafter in one domain, over the anchors that a run which verifies everything visits (the paper's Figure 2)."""

    domain: str
    visited: int
    sequences: int
    accepted_length: Estimate
    conditional: tuple[Estimate | None, ...]  # [γ], None where nothing got as far
    over_all_anchors: Estimate  # accepted length


@dataclass(frozen=True)
class DrafterNumbers:
    """All that is shown of one drafter. `calibration` is fitted on one half of the texts and judged on the other; None without confidences."""

    name: str
    drafter: Drafter
    blocks: RecordedBlocks
    domains: tuple[DomainAcceptance, ...]
    thresholds: tuple[ThresholdPoint, ...]
    autocorrelation: NDArray[np.float64]  # [LAGS + 1], shorter for few rows
    calibration: Calibration | None


def drafter_numbers(profile: Profile) -> list[DrafterNumbers]:
    """Every drafter of the profile. Raises ProfileError where its blocks cannot be read."""
    return [_numbers(name, drafter, profile.blocks(name)) for name, drafter in profile.drafters.items()]


def _numbers(name: str, drafter: Drafter, blocks: RecordedBlocks) -> DrafterNumbers:
    rows = visited_rows(blocks)
    domains = []
    for domain in blocks.domains:
        visited, whole = acceptance_statistics(blocks, domain, rows), acceptance_statistics(blocks, domain)
        shares = zip(visited.conditional, visited.conditional_error, strict=True)
        domains.append(
            DomainAcceptance(
                domain=domain,
                visited=visited.rows,
                sequences=visited.sequences,
                accepted_length=_length(visited),
                conditional=tuple(_around(share, error, visited.sequences, most=1.0) for share, error in shares),
                over_all_anchors=_length(whole),
            )
        )
    sure = drafter.confidence
    return DrafterNumbers(
        name=name,
        drafter=drafter,
        blocks=blocks,
        domains=tuple(domains),
        thresholds=tuple(threshold_sweep(blocks, THRESHOLDS, drafter.temperatures)) if sure else (),
        autocorrelation=autocorrelation(blocks, min(LAGS, blocks.rows - 1)),
        calibration=calibrate(blocks) if sure and len(blocks.length) > 1 else None,
    )


def _length(statistics: AcceptanceStatistics) -> Estimate:
    return _around(statistics.accepted_length, statistics.accepted_length_error, statistics.sequences) or Estimate(math.nan, None, None)


def _around(mean: float, error: float, sequences: int, most: float = math.inf) -> Estimate | None:
    """Student's interval with whole texts as the independent units; without bounds for a single text."""
    from scipy.special import stdtrit

    if not math.isfinite(mean):
        return None
    if sequences < 2 or not math.isfinite(error):
        return Estimate(float(mean), None, None)
    half = float(stdtrit(sequences - 1, (1 + LEVEL) / 2)) * error
    return Estimate(float(mean), float(max(mean - half, 0.0)), float(min(mean + half, most)))


def remarks(profile: Profile, drafters: list[DrafterNumbers]) -> list[str]:
    """What a reader should know before relying on the profile, beside what its measurement marked as suspicious."""
    lines = []
    made_up = [f"{row['table']} ({row['provenance']})" for row in profile.provenance() if row["provenance"] == "synthetic"]
    if made_up:
        lines.append(f"Not measured but made up: {', '.join(made_up)}.")
    if estimated := [row["table"] for row in profile.provenance() if row["provenance"] == "estimated"]:
        lines.append(f"Estimated from kernel times of others, not measured: {', '.join(estimated)}.")
    if profile.costs.prefill is None:
        lines.append("No prefill cost: only scenarios with instant prefill can use this profile.")
    if profile.kv is None:
        lines.append("Memory for keys and values is not known: it does not limit the batch in a simulation unless the scenario gives it.")
    for numbers in drafters:
        if numbers.drafter.acceptance_of is not None:
            lines.append(f"Acceptance of {numbers.name} is that of {numbers.drafter.acceptance_of}, not of {profile.target}.")
        few = [f"{d.domain} ({d.sequences})" for d in numbers.domains if d.sequences < FEW]
        if few:
            lines.append(f"Few texts for {numbers.name}: {', '.join(few)}; its intervals are rough.")
        if numbers.drafter.confidence and numbers.drafter.temperatures is None:
            lines.append(f"{numbers.name} has confidences but no calibration temperatures: rules that use them see the raw ones.")
        if (fit := numbers.calibration) is not None:
            worse = [str(k) for k, (after, before) in enumerate(zip(fit.after.error, fit.before.error, strict=True), 1) if after > before]
            if worse:
                lines.append(f"Calibration of {numbers.name} does not help on texts it was not fitted on at position {', '.join(worse)}.")
    return lines


def profile_data(profile: Profile) -> dict[str, Any]:
    """What a profile holds, as plain data for JSON."""
    drafters = {}
    for name, drafter in profile.drafters.items():
        blocks = profile.blocks(name)
        drafters[name] = {key: getattr(drafter, key) for key in ("family", "gamma", "confidence")} | {
            "calibrated": drafter.temperatures is not None,
            "rows": len(blocks.accepted),
            "domains": list(blocks.domains),
            "mean_survival": [round(float(s), 4) for s in blocks.mean_survival()],
        }
    return {key: getattr(profile, key) for key in ("name", "hardware", "engine", "target", "gpus_per_replica", "suspicious")} | {
        "verify_tokens": list(profile.costs.verify.tokens_range()),
        "kv_tokens": profile.kv_tokens(None),
        "drafters": drafters,
        "provenance": profile.provenance(),
        "assumed": profile.assumed,
        "not_identifiable": profile.not_identifiable,
    }


def drafter_data(numbers: DrafterNumbers) -> dict[str, Any]:
    """Plain data for JSON; None where a number does not exist."""
    fit = numbers.calibration
    calibration: dict[str, Any] | None = None
    if fit is not None:
        calibration = {
            "temperatures_in_profile": numbers.drafter.temperatures,
            "temperatures_of_the_fitted_half": list(fit.temperatures),
            "conditional_auroc": _finite(fit.conditional_auroc),
        }
        for when, report in (("before", fit.before), ("after", fit.after)):
            calibration[when] = {"ece": _finite(report.error), "auroc": _finite(report.auroc), "brier": _finite(report.brier)}
    return {
        "domains": {
            d.domain: {
                "texts": d.sequences,
                "visited_anchors": d.visited,
                "accepted_length": d.accepted_length.to_json(),
                "accepted_length_all_anchors": d.over_all_anchors.to_json(),
                "conditional_acceptance": [c.to_json() if c else None for c in d.conditional],
            }
            for d in numbers.domains
        },
        "threshold_sweep": [
            {key: getattr(p, key) for key in ("threshold", "steps", "committed_tokens", "rejected_tokens")} for p in numbers.thresholds
        ],
        "autocorrelation": _finite(numbers.autocorrelation),
        "calibration": calibration,
    }


def _finite(values: NDArray[np.float64]) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
