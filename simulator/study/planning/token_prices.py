"""What a fleet costs by kind of token: prompts that are processed, prompts that are in the cache, and answers.

A fleet is paid for by the hour. The sum is split by the time of the GPUs that each kind takes, by the simulated steps and the cost model.
A step's time for prompts belongs to prompts, all else to answers; idle time is split alike. Of the time for prompts, cached tokens take what
attention over them adds to the tokens after them: the cost of a mean request's new tokens behind its cached ones, less that of as many tokens
at the beginning of a prompt. Output costs less by this split than where it pays for the whole fleet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.study.planning.question import Plan
from simulator.study.planning.result import TokenPrices
from simulator.study.planning.trial import TrialRow
from simulator.study.run.fleet import fleet_of


def token_prices(plan: Plan, cell: int, dollars_per_hour: float, rows: Sequence[TrialRow]) -> TokenPrices | None:
    """Of a choice whose fleet costs so much, from its rows at the peak; None where prompts are not simulated."""
    if not rows or any(row["prompt_time_share"] is None or not row["output_tokens_mean"] for row in rows):
        return None
    names = ("prompt_time_share", "prefix_hit_share", "prompt_tokens_mean", "output_tokens_mean")
    prompts, hit, prompt, output = (float(np.mean([row[name] or 0.0 for row in rows])) for name in names)
    cached = _of_attention(plan, cell, prompt * hit, prompt * (1 - hit))
    output_mtok = plan.shape.tokens_per_s * 3600 / 1e6
    prompt_mtok = output_mtok * prompt / output
    return TokenPrices(
        input=dollars_per_hour * prompts * (1 - cached) / (prompt_mtok * (1 - hit)) if hit < 1 else 0.0,
        cached=dollars_per_hour * prompts * cached / (prompt_mtok * hit) if hit else None,
        output=dollars_per_hour * (1 - prompts) / output_mtok,
        prompt_share=prompts,
        cached_share=cached,
    )


def _of_attention(plan: Plan, cell: int, cached: float, new: float) -> float:
    """The share of a mean prompt's time that goes to attention over what of it is cached, tokens each."""
    scenario = plan.scenario(cell, 1)
    prices = fleet_of(scenario, scenario.policies[0], 0).prices
    if not cached or new < 1:
        return 0.0
    alone_s, behind_s = (prices.prefill_s(new, before + new / 2) for before in (0.0, cached))
    return max(1 - alone_s / behind_s, 0.0) if behind_s > 0 else 0.0
