"""Where compiled code is kept. Without numba, which takes a while to import.

numba looks at the file of the entry alone, so the folder is named by all the sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile

from simulator.files import make_own, own_temporary_folder, user_cache

SOURCES = Path(__file__).parent


def is_compiled() -> bool:
    """Has the kernel been compiled and kept?"""
    folder = kept_in()
    return folder is not None and any(folder.glob("*/*.nbc"))


def kept_in() -> Path | None:
    """The folder for these sources, which nobody else can write to: under NUMBA_CACHE_DIR, else beside them, in the user's cache or in a temporary
    folder of the user's; None where there can be none."""
    sources = blake2b(digest_size=8)
    for file in sorted(SOURCES.glob("*.py")):
        sources.update(file.name.encode() + file.read_bytes())
    name = f"kernel-{sources.hexdigest()}"
    for place in _places():
        if not make_own(place / name):  # what is in it is executed
            continue
        try:
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
    if own := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(own)
    yield SOURCES / "__pycache__"
    yield user_cache()
    if (folder := own_temporary_folder()) is not None:
        yield folder
