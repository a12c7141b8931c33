"""One fit to many operating points with the simulated engine in the loop, and what it says of every point, fitted or kept apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.errors import DsimError
from simulator.measurements.cost import Bend, Costs, FittedCurve, FrontEnd, LinearDraft
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import MISSES, rms
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.surface import NOISE, TTFT_SD, SurfaceFit, fit_surface
from simulator.measurements.surface_priors import DraftKind, kind_of
from simulator.study.profiles.given_points import ALWAYS, Cell
from simulator.study.profiles.simulated import AS_MOST, MANNERS, Drafting, Manner, Seen, Working, simulate_point, users_of

PASSES = 4  # of the fit at most, each corrected by the simulation of the one before
SETTLED = 0.005  # change of a corrected speed below which the passes end
ONE_BUDGET = 1.02  # ratio of the most tokens a request and step to the fewest, up to which points cannot tell tokens from requests
FRONT_END = FrontEnd(provenance="synthetic", seconds=0.001, note="assumed: a request misses the step that begins as it is sent")
REPEATS = 2.0  # times the scatter of repeated measurements that a fit may miss them by

Say = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """A cell as measured and as simulated."""

    cell: Cell
    seen: Seen

    def difference(self, name: str) -> float | None:
        """Simulated ÷ measured - 1 of a number that both have."""
        ours, theirs = getattr(self.seen, name), getattr(self.cell.point, name)
        return ours / theirs - 1 if ours is not None and theirs else None

    @property
    def of_steps(self) -> float:
        """Difference of the speeds if as much were accepted in the simulation as in the benchmark: what is left to the costs of steps."""
        return (1 + (self.difference("tps_per_user") or 0.0)) / (1 + (self.difference("accepted_length") or 0.0)) - 1

    def to_json(self) -> dict[str, Any]:
        """A row of the comparison."""
        point, names = self.cell.point, ("tps_per_user", "throughput_tok_s", "accepted_length", "ttft_s")
        row = {"source": point.source, "drafter": self.cell.drafter or None, "slots": self.cell.slots, "users": point.offered or point.concurrency}
        numbers = {
            name: {"measured": getattr(point, name), "simulated": getattr(self.seen, name), "difference": self.difference(name)} for name in names
        }
        return {**row, "fitted": not self.cell.held_out, **numbers}


@dataclass(frozen=True)
class JointFit:
    """Costs and drafting that were fitted, and every cell simulated with them."""

    surface: SurfaceFit
    drafting: Mapping[str, Drafting]
    manner: Manner
    compared: Sequence[Compared]

    @property
    def costs(self) -> Costs:
        return self.surface.costs

    @property
    def rms(self) -> float:
        """Of the speeds of fitted cells."""
        return rms(speeds([row for row in self.compared if not row.cell.held_out]))

    @property
    def left(self) -> float:
        """Rms of what the costs of steps leave over."""
        return rms(np.array([row.of_steps for row in self.compared if not row.cell.held_out]))

    @property
    def misfit(self) -> float:
        """What is left over of speeds and of times to the first token, each against the error that the fit allows it; mean of squares."""
        fitted = [row for row in self.compared if not row.cell.held_out]
        waited = [np.log1p(left) for row in fitted if (left := row.difference("ttft_s")) is not None]
        return float(np.mean(np.square([*(row.of_steps / NOISE for row in fitted), *(left / TTFT_SD for left in waited)])))

    @property
    def worst(self) -> float:
        """Largest difference of a fitted speed."""
        return max(abs(row.difference("tps_per_user") or 0.0) for row in self.compared if not row.cell.held_out)


def fit_cells(
    cells: Sequence[Cell],
    blocks: Mapping[str, RecordedBlocks],
    apart: Collection[str],
    say: Say = lambda _: None,
    working: Working = AS_MOST,
) -> JointFit:
    """Costs such that the simulated benchmark has the measured speeds of the cells that are not held out: a surface fitted to them, then to what is
    measured × fitted ÷ simulated, until that does not change. Drafting is a cost of its own for the drafters in `apart`.
    Raises DsimError where no fit comes near the cells."""
    fitted = [cell for cell in cells if not cell.held_out]
    points = [_inside(cell.point, working) for cell in fitted]
    names = [cell.drafter if cell.drafter in apart else "" for cell in fitted]  # else drafting stays within the step
    laid = {name: Drafting.of(LinearDraft(provenance="fitted"), each) for name, each in blocks.items()}
    manner: Manner | None = None
    kinds: dict[str, DraftKind] = {name: "lookup" if _looks_up(name, fitted) else kind_of(name) for name in apart}
    waits: Floats | None = None
    best: JointFit | None = None
    for number in range(PASSES):
        surface = _fitted(points, names, waits, kinds, working)
        drafting = {name: replace(known, cost=surface.drafters[name].draft) if name in apart else known for name, known in laid.items()}
        manner = manner or _manner(fitted, surface.costs, drafting, working)
        compared = [Compared(cell, _simulated(cell, surface.costs, drafting, manner, working)) for cell in fitted]
        fit = JointFit(surface, drafting, manner, compared)
        best = fit if best is None or fit.misfit < best.misfit else best
        waits = surface.waits(points, names, [row.seen.waits for row in compared])
        before = points
        points = [_corrected(_inside(row.cell.point, working), told.predicted, row.seen) for row, told in zip(compared, surface.points, strict=True)]
        moved = max(abs(new.tps_per_user / old.tps_per_user - 1) for new, old in zip(points, before, strict=True))
        say(f"pass {number + 1}: {len(fitted)} points fitted and simulated, {fit.left:.1%} rms left over")
        if moved < SETTLED:
            break
    assert best is not None
    _check(best)
    kept_out = [Compared(cell, _simulated(cell, best.costs, best.drafting, best.manner, working)) for cell in cells if cell.held_out]
    return replace(best, compared=[*best.compared, *kept_out])


def _inside(point: LoadPoint, working: Working) -> LoadPoint:
    """The point as the engine has it: who waits for a place is not in it, and how long he waits tells nothing of its steps."""
    if working.max_batch is None or users_of(point) <= working.max_batch:
        return point
    return replace(point, offered=working.max_batch, ttft_s=None)


def _looks_up(name: str, cells: Sequence[Cell]) -> bool:
    """Does a drafter look up what it proposes, so that some rounds have nothing?"""
    shares = [cell.point.proposing for cell in cells if cell.drafter == name and cell.point.proposing is not None]
    return bool(shares) and max(shares) <= ALWAYS


def _fitted(points: Sequence[LoadPoint], names: Sequence[str], waits: Floats | None, kinds: Mapping[str, DraftKind], working: Working) -> SurfaceFit:
    """The surface; with one number of tokens for every request its slope is that of tokens."""
    budgets = [point.budget or 1.0 for point in points]
    alike = max(budgets) <= ONE_BUDGET * min(budgets)
    unified = working.cache == "unified"
    surface = fit_surface(points, names, kinds=kinds, by_tokens=alike, waits=waits, shared=unified, ahead=working.ahead)
    surface = replace(surface, costs=surface.costs.model_copy(update={"front_end": FRONT_END}))
    if working.cache == "split" and surface.costs.prefill is not None:
        prefill = surface.costs.prefill.model_copy(update={"apart": True})
        surface = replace(surface, costs=surface.costs.model_copy(update={"prefill": prefill}))
    verify = surface.costs.verify
    if not alike or not isinstance(verify, FittedCurve):
        return surface
    return replace(surface, costs=surface.costs.model_copy(update={"verify": by_tokens_alone(verify, float(np.mean(budgets)))}))


def by_tokens_alone(curve: FittedCurve, budget: float) -> FittedCurve:
    """The same time for steps of `budget` tokens a request, all that requests cost now a cost of their tokens."""
    bends = [bend if bend.of == "tokens" else Bend(of="tokens", above=bend.above * budget, add_s=bend.add_s / budget) for bend in curve.bends]
    bends.sort(key=lambda bend: bend.above)
    return curve.model_copy(update={"per_token_s": curve.per_token_s + curve.per_request_s / budget, "per_request_s": 0.0, "bends": bends})


def _simulated(cell: Cell, costs: Costs, drafting: Mapping[str, Drafting], manner: Manner, working: Working) -> Seen:
    drafts = drafting.get(cell.drafter)
    return simulate_point(cell.point, costs, drafts and drafts.on(cell.domain), manner, working)


def _manner(cells: Sequence[Cell], costs: Costs, drafting: Mapping[str, Drafting], working: Working) -> Manner:
    """How the users stood to each other: as explains speeds, throughput and TTFT best."""

    def misfit(manner: Manner) -> float:
        compared = [Compared(cell, _simulated(cell, costs, drafting, manner, working)) for cell in cells]
        of = ("tps_per_user", "throughput_tok_s", "ttft_s")
        left = [row.difference(name) for row in compared for name in of if row.difference(name) is not None]
        return float(np.sum(np.abs(np.log1p(np.array(left, dtype=np.float64)))))

    return min(MANNERS, key=misfit)


def _corrected(point: LoadPoint, fitted: float, seen: Seen) -> LoadPoint:
    """The point as the fit's own model would have to see it, for the simulation to come out as measured."""
    accepted = (point.accepted_length or seen.accepted_length) / seen.accepted_length  # the fit goes by what was counted
    speed = point.tps_per_user * fitted / (seen.tps_per_user * accepted)
    after_first = 1 - 1 / point.output_tokens if point.output_tokens and point.output_tokens > 1 else 1.0
    return replace(
        point, tps_per_user=speed, throughput_tok_s=speed * seen.requests / after_first, requests=None, answer_s=None
    )  # in flight: as simulated


def noise_of(cells: Sequence[Cell]) -> float | None:
    """Relative scatter of speeds that were measured more than once (same drafter, domain, length and load); None where none was."""
    same: dict[tuple[object, ...], list[float]] = {}
    for cell in cells:
        lengths = tuple(round(x) if x else None for x in (cell.point.prompt_tokens, cell.point.output_tokens))
        load = round(cell.point.offered or cell.point.concurrency)
        same.setdefault((cell.drafter, cell.domain, cell.slots, load, lengths), []).append(cell.point.tps_per_user)
    left = [np.log(np.array(speeds) / np.exp(np.mean(np.log(speeds)))) for speeds in same.values() if len(speeds) > 1]
    if not left:
        return None
    return float(np.sqrt(sum(float(np.sum(each**2)) for each in left) / sum(len(each) - 1 for each in left)))


def _check(fit: JointFit) -> None:
    """Raises DsimError where the fit misses its own points by more than measurements differ among each other."""
    noise = noise_of([row.cell for row in fit.compared]) or 0.0
    if fit.left <= max(MISSES, REPEATS * noise) and not fit.surface.astray:
        return
    worst = sorted(fit.compared, key=lambda row: -abs(row.of_steps))[:3]
    told = ", ".join(f"{row.cell.point.source} ({row.of_steps:+.0%})" for row in worst)
    remedy = "give files of one server and machine, say its --token-budget, or leave out those that are of other conditions"
    raise DsimError(f"no step cost fits the speeds: {fit.left:.0%} rms, most of it in {told}{fit.surface.astray}", key="fit", remedy=remedy)


def speeds(rows: Sequence[Compared]) -> Floats:
    """Differences of the speeds."""
    return np.array([row.difference("tps_per_user") for row in rows], dtype=np.float64)
