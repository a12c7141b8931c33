"""How fast a core is right now: a fixed piece of work, timed. Prints its seconds; run on the core in question.

The work is that of decoding in small, in float32: weights that no cache holds, read for one request and for a batch, and steps of a Python program.
A core that others share, or whose memory they do, takes longer for it, as an engine does.
"""

from __future__ import annotations

import time

import numpy as np

MATRICES, ROWS, COLUMNS = 8, 2048, 4096  # 268 MB
BATCH, ROUNDS, LOOP = 16, 8, 600_000


def pace_s() -> float:
    """Seconds of the work, once the weights are there."""
    weights = [np.full((ROWS, COLUMNS), 1e-3, np.float32) for _ in range(MATRICES)]
    one, many = np.ones((COLUMNS, 1), np.float32), np.ones((COLUMNS, BATCH), np.float32)
    begun, total = time.perf_counter(), 0
    for _ in range(ROUNDS):
        for matrix in weights:
            matrix @ one
        for matrix in weights:
            matrix @ many
        for number in range(LOOP):
            total += number
    return time.perf_counter() - begun


if __name__ == "__main__":
    print(f"{pace_s():.4f}")
