"""Lengths of requests whose classes have their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.traffic.impatience import RequestClass
from simulator.traffic.lengths import Lengths, Mixture, Part


def laws(classes: Mapping[str, RequestClass], name: str, usual: Lengths | None) -> list[Lengths | None]:
    """Of each class by its name, as `Senders` count them: its own `prompt_tokens` or `output_tokens`, else the usual; the usual without classes."""
    return [getattr(one, name) or usual for _, one in sorted(classes.items())] or [usual]


def together(classes: Mapping[str, RequestClass], name: str, usual: Lengths | None) -> Lengths | None:
    """Of all requests: those of classes in proportion to their shares, long ones last. None where lengths are recorded."""
    of = laws(classes, name, usual)
    if of[0] is None or len(set(of)) == 1:
        return of[0]
    shares = [one.share for _, one in sorted(classes.items())]
    parts = [Part(weight=share, lengths=law) for share, law in zip(shares, of, strict=True) if law is not None]
    return Mixture(parts=tuple(sorted(parts, key=lambda part: part.lengths.expected_tokens())))


def drawn(of: Sequence[Lengths | None], u: Floats, group: Integers | None) -> Integers:
    """Lengths at uniforms in [0, 1), each of its group. # [...] -> [...]"""
    if group is None or len(set(of)) == 1:
        assert of[0] is not None
        return of[0].at(u)
    lengths = np.empty(u.shape, dtype=np.int64)
    for place, law in enumerate(of):
        assert law is not None
        lengths[group == place] = law.at(u[group == place])
    return lengths
