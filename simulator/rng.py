"""Random numbers: one stream per cause, so that a change in one place never changes the draws of another."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats, Integers

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _key(seed: int, cause: str, index: tuple[int, ...]) -> int:
    text = ":".join([str(seed), cause, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream(seed: int, cause: str, *index: int) -> np.random.Generator:
    """A generator that depends only on (seed, cause, index)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_key(seed, cause, index))))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser: a bijection of 64-bit words whose output bits look independent (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform_at(seed: int, cause: str, *index: int | Integers) -> Floats:
    """Uniforms in [0, 1) addressed by integer arrays (broadcast), e.g. `uniform_at(seed, "sequence", request, visit)`.

    The value at an address does not depend on which other addresses are drawn, nor on their order.
    """
    return np.asarray((word_of(seed, cause, *index) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def word_of(seed: int, cause: str, *index: int | Integers) -> NDArray[np.uint64]:
    """The 64-bit words behind `uniform_at`; the word of a longer address continues that of a shorter one."""
    word = np.asarray(_key(seed, cause, ()), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in index:
            word = _mix((word + _GOLDEN) ^ _mix(np.asarray(part, dtype=np.int64).astype(np.uint64) + _GOLDEN))
    return word
