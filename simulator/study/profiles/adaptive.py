"""Points of adaptive verification whose engine does not say what it verified: the scheduler is simulated on the fitted costs and acceptance."""

from __future__ import annotations

from dataclasses import replace

from simulator.measurements.cost import Costs
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Drafter
from simulator.measurements.replay import lay_out
from simulator.policies.verification import ConfidenceScheduled
from simulator.study.profiles.one_replica import closed_loop

REQUESTS, ANSWER = 48, 256  # of a simulated point: at least so many requests, tokens of each


def uncounted(point: LoadPoint) -> bool:
    """Does the engine cut its blocks without saying how much it verifies?"""
    return point.adaptive and point.budget is None


def as_scheduled(point: LoadPoint, costs: Costs, drafter: Drafter, blocks: RecordedBlocks) -> LoadPoint:
    """The point with the accepted length and budget that the scheduler of the DSpark paper has at its users."""
    users = max(round(point.concurrency), 1)
    slots = min(point.slots or drafter.gamma, drafter.gamma)
    prices = RoundCost(costs, drafter.draft, drafter.gamma, slots)
    turns = max(2, REQUESTS // users)
    ran = closed_loop(users, turns, ANSWER, ConfidenceScheduled(), lay_out(blocks, None, False, 0, 0), prices)
    return replace(point, accepted_length=ran.known("accepted_length"), budget=ran.known("verification_budget"))
