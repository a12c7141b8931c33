"""When does speculation pay, and how long a fixed block is best? In the mean: batches of R, no queue, no prompts (see `fluid`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simulator.engine.simulate import Fleet
from simulator.measurements.cost import RoundCost
from simulator.measurements.replay import lay_out, nothing_drafted
from simulator.policies.verification import FixedLength, NoSpeculation
from simulator.study.planning.changes import moved_acceptance
from simulator.study.planning.fluid import operating
from simulator.study.planning.question import Plan
from simulator.study.point import fleet_of

ACCEPTANCE = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # times the conditional acceptance of the profile
SIZES = 12


def break_even(plan: Plan, cell: int) -> dict[str, Any] | None:
    """For one cell's profile and drafter: best fixed length by batch size, what it gains over no drafting, and the batch size from which
    nothing is gained, by acceptance. None where the cell drafts nothing."""
    scenario = plan.scenario(cell, 1)
    name = scenario.policies[0].drafter
    if name is None:
        return None
    base = fleet_of(scenario, scenario.policies[0], 0)
    blocks, known = scenario.known.blocks(name), scenario.known
    context = plan.shape.mean_prompt + plan.shape.mean_output / 2
    sizes = np.unique(np.geomspace(1, base.settings.max_batch, SIZES).round().astype(int)).tolist()
    plain = replace(base, replay=nothing_drafted(), policy=NoSpeculation(), prices=RoundCost(known.costs, None, 0, 0))
    plain = replace(plain, believed=plain.prices)
    alone = [operating(plain, n, context).tps for n in sizes]
    curves = []
    for factor in ACCEPTANCE:
        moved = blocks if factor == 1 else moved_acceptance(blocks, factor)
        replay = lay_out(moved, None, False, plan.asked.run.seed, 0)
        best, gain = [], []
        for n, nothing in zip(sizes, alone, strict=True):
            by_length = {0: nothing}
            for k in range(1, blocks.gamma + 1):
                by_length[k] = operating(
                    _fixed(base, replay, known.costs, known.drafter(name).draft, k), n, context, scenario.workload.domains, 2
                ).tps
            k = max(by_length, key=by_length.__getitem__)
            best.append(k)
            gain.append(by_length[k] / nothing - 1)
        curves.append({"acceptance": factor, "best_length": best, "gain": gain, "stops_at": next((n for n, k in zip(sizes, best) if k == 0), None)})
    return {"profile": known.name, "drafter": name, "batch": sizes, "tps_without": alone, "curves": curves}


def _fixed(base: Fleet, replay: Any, costs: Any, draft: Any, length: int) -> Fleet:
    prices = RoundCost(costs, draft, replay.gamma, length)
    return replace(base, replay=replay, policy=FixedLength(length=length), prices=prices, believed=prices)
