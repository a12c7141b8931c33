"""How fast a core is while an engine runs on it: a small fixed piece of work, timed again and again. Prints the CPU seconds of each.

The work is that of decoding in small: weights that no cache holds, and steps of a Python program. CPU seconds do not count how long it waits for the
core; a core that others share, or whose memory they do, takes longer for it, as an engine does. It takes some hundredth of the core.
"""

from __future__ import annotations

import time
from itertools import cycle

import numpy as np

MATRICES, ROWS, COLUMNS = 8, 1024, 2048  # 67 MB, 8 of them read at a time
LOOP, EVERY_S = 40_000, 0.3


def watch() -> None:
    """Prints until it is ended."""
    one = np.ones((COLUMNS, 1), np.float32)
    for matrix in cycle([np.full((ROWS, COLUMNS), 1e-3, np.float32) for _ in range(MATRICES)]):
        begun, total = time.thread_time(), 0
        matrix @ one
        for number in range(LOOP):
            total += number
        print(f"{time.thread_time() - begun:.6f}", flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    watch()
