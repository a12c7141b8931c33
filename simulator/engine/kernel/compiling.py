"""How the kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from simulator.engine.kernel.kept import kept_in

_HOW = {"error_model": "numpy", "_nrt": False}  # no counting of references: nothing is allocated in here
inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_HOW)
hot = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True, **_HOW)  # a call copies all of World's fields


def entry(function: Callable[..., Any]) -> Any:
    """Compiled with all that it calls, and kept for the next process where a folder can be written."""
    folder, before = kept_in(), numba.config.CACHE_DIR
    if folder is None:
        return numba.njit(**_HOW)(function)
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(cache=True, **_HOW)(function)
    finally:
        numba.config.CACHE_DIR = before
