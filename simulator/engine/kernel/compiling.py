"""How the kernel is compiled, and where that is kept: numba looks at the file of the entry alone, so the folder is named by all the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile
from typing import Any

import numba

_HOW = {"error_model": "numpy", "_nrt": False}  # no counting of references: nothing is allocated in here
inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_HOW)
hot = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True, **_HOW)  # a call copies all of World's fields
SOURCES = Path(__file__).parent


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


def kept_in() -> Path | None:
    """The folder for these sources: under NUMBA_CACHE_DIR, else beside them, else in the user's cache; None where none can be written."""
    sources = blake2b(digest_size=8)
    for file in sorted(SOURCES.glob("*.py")):
        sources.update(file.name.encode() + file.read_bytes())
    name = f"kernel-{sources.hexdigest()}"
    for place in _places():
        try:
            (place / name).mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=place / name).close()
        except OSError:
            continue
        if place.parent == SOURCES:  # nobody else's: what earlier sources were compiled to is of no more use
            for old in place.glob("kernel-*"):
                if old.name != name:
                    rmtree(old, ignore_errors=True)
        return place / name
    return None


def _places() -> Iterator[Path]:
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
        return
    yield SOURCES / "__pycache__"
    from pooch import os_cache

    yield Path(os_cache("dsim"))
