"""What the commands check and set before they load a model. Torch is imported inside the functions that need it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import DsimError
from simulator.files import absent_folders, remove_empty, why_not_writable
from simulator.made import check_folder

if TYPE_CHECKING:
    from real_runner.prompts import PromptSet


def needs_torch(command: str) -> None:
    """Raises DsimError where what the `profile` extra installs is missing."""
    missing = [package for package in ("torch", "transformers", "safetensors", "psutil", "pynvml") if find_spec(package) is None]
    if missing:
        raise DsimError(f"needs {missing[0]}, which is not installed", where=f"dsim {command}", remedy="pip install 'dsim[profile]'")


def writable(out: Path) -> None:
    """Raises DsimError where the folder cannot be written to, or is the home folder."""
    check_folder(out)
    if (reason := why_not_writable(out)) is not None:
        raise DsimError(f"cannot write ({reason})", where=out, key="--out", remedy="choose another folder")


def can_be_made(out: Path) -> None:
    """Raises DsimError where the folder exists already or could not be written to. Makes none: a run that fails leaves nothing."""
    if out.exists():
        raise DsimError("exists already", where=out, key="--out", remedy="choose a new folder")
    absent = absent_folders(out)
    try:
        writable(out)
    finally:
        remove_empty(absent)


def quiet_on(device: str, threads: int | None = None) -> None:
    """Checks and selects the device; sets torch's threads; turns off the progress bars of transformers. Raises DsimError."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and number):
        raise DsimError(f"expected cpu, cuda or cuda:N, got {device!r}", key="--device")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DsimError("no CUDA device is visible", key="--device", remedy="use --device cpu")
    if number:  # graphs, streams and events are made on the current device
        if not number.isdigit() or int(number) >= torch.cuda.device_count():
            raise DsimError(f"expected a number below {torch.cuda.device_count()}, got {number!r}", key="--device", remedy="devices count from 0")
        torch.cuda.set_device(int(number))
    if threads is not None:
        torch.set_num_threads(threads)


def read_prompt_sets(files: Sequence[str]) -> list[PromptSet]:
    """Prompt sets from FILE or DOMAIN=FILE words; the built-in ones without any. Raises DsimError."""
    from real_runner.prompts import own_prompt_sets, read_prompt_set

    if not files:
        return [read_prompt_set(file, domain) for domain, file in own_prompt_sets().items()]
    words = [word.rpartition("=") for word in files]
    return [read_prompt_set(Path(file), domain or None) for domain, _, file in words]
