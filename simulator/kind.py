"""What a file chooses by `kind`: a frozen object that is parameters, method, facts and words at once, and how it is said to the compiled engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.schema import Frozen


class Kind(Frozen):
    """One way of several. Facts that others ask of it are class variables, properties or methods with a default.

    A kind that the compiled engine knows has `lowered`, a class variable or a method (arguments: see the base class of its union); the others run in
    Python.
    """

    kind: str

    @property
    def words(self) -> str:
        """What it is called in a sentence of a report."""
        return self.kind.replace("_", " ")


class Lowered(NamedTuple):
    """A kind as plain numbers: the engine's branch for it, the settings of that branch, and a table where it goes by one."""

    branch: str
    settings: Mapping[str, float] = {}
    table: NDArray[np.int64] | None = None


def lowering(kind: Any, *about: Any) -> Lowered | None:
    """`kind` for the compiled engine; None where it runs in Python. Not inherited: a subclass that says nothing does something else."""
    own: Lowered | Callable[..., Lowered | None] | None = vars(type(kind)).get("lowered")
    return own(kind, *about) if callable(own) else own
