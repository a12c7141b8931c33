"""What is not known of published acceptance: how far published ones lie apart, between texts and between models, on the logit scale."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.models import line_of, plain_name
from simulator.measurements.uncertainty import Parameter, Unsure

MOST = 15.0  # logits; what accepts nothing, or all


class Told(NamedTuple):
    """What was published of one target, family of drafters and benchmark. `level` is the logit of the acceptance that, alike at every slot, gives
    the accepted length; `tilt` by how much logits rise from the first slot to the last, where that was published."""

    target: str
    family: str
    domain: str
    kind: str
    level: float
    tilt: float | None


class Apart(NamedTuple):
    """A standard deviation, and what it is the spread of."""

    sd: float
    of: str


def level_of(accepted_length: float, gamma: int) -> float:
    """The logit of the acceptance that, alike at every slot of γ, gives an accepted length of 1 … γ + 1; within ± MOST."""
    from scipy.optimize import brentq

    powers = np.arange(1, gamma + 1)

    def beyond(level: float) -> float:
        return 1 + float(((1 / (1 + np.exp(-level))) ** powers).sum()) - accepted_length

    return MOST if beyond(MOST) <= 0 else -MOST if beyond(-MOST) >= 0 else float(brentq(beyond, -MOST, MOST))


def tilt_of(conditional: Sequence[float]) -> float:
    """By how much the logits of conditional acceptance rise from the first slot to the last: those of a straight course whose accepted lengths at
    k = 1 … γ are nearest."""
    from scipy.optimize import least_squares

    c = np.array(conditional)
    if len(c) < 2:
        return 0.0
    wanted, slots = np.cumsum(np.cumprod(c)), np.linspace(-0.5, 0.5, len(c))

    def apart(course: Floats) -> Floats:
        return np.asarray(np.cumsum(np.cumprod(1 / (1 + np.exp(-course[0] - course[1] * slots)))) - wanted)

    return float(least_squares(apart, [float(np.log(c[0] / (1 - c[0]))), 0.0]).x[1])


def between_texts(told: Sequence[Told], family: str, one_kind: bool) -> Apart:
    """Of levels of the benchmarks of one model and family; with `one_kind`, of those of one kind of text (mathematics, code, conversation)."""
    rows = _of(told, family)
    spread = _pooled(rows, lambda it: it.level, lambda it: (it.target, it.family, it.kind if one_kind else ""))
    return Apart(spread, "published benchmarks of one kind of text" if one_kind else "published benchmarks")


def between_models(told: Sequence[Told], family: str, one_line: bool) -> Apart:
    """Of levels of two models with a drafter of the same family, on the same benchmark: of models of one line, or of different ones. Where none were
    published, of different lines, else of all families."""
    mine = _of(told, family)
    for rows, line in ((mine, one_line), (mine, False), (told, one_line), (told, False)):
        apart = [a.level - b.level for a, b in _pairs(rows, line)]
        if apart:
            return Apart(
                float(np.sqrt(np.mean(np.square(apart)))), f"published models of {'one line' if line else 'different lines'} on the same benchmark"
            )
    return Apart(between_texts(told, family, one_kind=False).sd, "published benchmarks, for want of two models")


def between_shapes(told: Sequence[Told], family: str, line: str | None) -> Apart:
    """Of published tilts of a family; of the models of one line, where it is given and has several."""
    rows = [it for it in _of(told, family) if it.tilt is not None]
    near = [it for it in rows if line_of(it.target) == line]
    few = len(near) if len(near) > 1 else 0
    return Apart(_pooled(near if few else rows, lambda it: it.tilt or 0.0, lambda it: it.family), "published courses over the slots")


def acceptance_unsure(mine: Sequence[Told], told: Sequence[Told], target: str, drafter: str, one_kind: bool) -> list[Unsure]:
    """What is not known of the acceptance `mine` of `drafter` where it stands in for that of a drafter of `target`, as far as all that is `told`
    tells. `one_kind`: it is known of which kind the texts are."""
    family, model = mine[0].family, mine[0].target
    other, line = plain_name(target) != plain_name(model), line_of(model)
    texts = between_texts(told, family, one_kind)
    found = [_unsure("level", drafter, texts, "your texts are others", "accepted length of one benchmark on your traffic")]
    if other:
        found.append(of_another_model(told, family, model, target, drafter))
    if other or not all(it.tilt is not None for it in mine):
        shapes = between_shapes(told, family, line if line_of(target) == line else None)
        found.append(
            _unsure("tilt", drafter, shapes, "how acceptance falls along a block was published of another model", "accepted tokens by position")
        )
    return [unsure for unsure in found if unsure.sd > 0]


def of_another_model(told: Sequence[Told], family: str, model: str, target: str, drafter: str) -> Unsure:
    """By how much the level of a drafter's acceptance may be off that is of `model`, not of `target`."""
    apart = between_models(told, family, line_of(target) == line_of(model))
    return _unsure("level", drafter, apart, f"it is that of {model}, not of {target}", f"accepted length of one benchmark of {target}")


def _unsure(parameter: Parameter, drafter: str, apart: Apart, why: str, measurement: str) -> Unsure:
    note = f"{why}: the spread of {apart.of}; {measurement} would tell"
    return Unsure(parameter=parameter, drafter=drafter, sd=round(apart.sd, 4), note=note)


def _of(told: Sequence[Told], family: str) -> Sequence[Told]:
    """Those of a family; all where it has none."""
    return [it for it in told if it.family == family] or told


def _pairs(told: Sequence[Told], one_line: bool) -> Iterator[tuple[Told, Told]]:
    for a, b in combinations(told, 2):
        same = (a.family, a.domain) == (b.family, b.domain) and plain_name(a.target) != plain_name(b.target)
        if same and (line_of(a.target) == line_of(b.target)) == one_line:
            yield a, b


def _pooled(told: Iterable[Told], value: Callable[[Told], float], group: Callable[[Told], Hashable]) -> float:
    """Standard deviation within groups; 0 where no group has two."""
    groups: dict[Hashable, list[float]] = {}
    for it in told:
        groups.setdefault(group(it), []).append(value(it))
    several: list[Floats] = [np.array(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    return float(np.sqrt(sum(((values - values.mean()) ** 2).sum() for values in several) / freedom)) if freedom else 0.0
