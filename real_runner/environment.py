"""What a measurement was taken on and with, and the memory that is left for keys and values."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from real_runner.drafters.spec import Drafter
from real_runner.layout import Tiers
from real_runner.target import Target
from simulator.errors import DsimError

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")  # that decide which kernels run
RESERVE = 0.1  # of a GPU's memory, for activations and captured graphs
SHARE = 0.5  # of a CPU's available memory
SMI = {"driver": "driver_version", "clock_sm_mhz": "clocks.sm", "clock_sm_most_mhz": "clocks.max.sm", "clock_memory_mhz": "clocks.mem",
       "power_limit_w": "power.limit"}  # fmt: skip


def fingerprint(target: Target) -> dict[str, Any]:
    """On what times were taken, in short."""
    cuda = target.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(target.device) if cuda else _processor(),
        "kind": target.device.type,
        "dtype": str(target.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
    }


def environment(target: Target, tiers: Tiers | None) -> dict[str, Any]:
    """The fingerprint with driver and clocks where they can be read, versions, kernels' flags, graph tiers and the commit (or version) of dsim."""
    found = fingerprint(target)
    if target.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(target.device)
        found |= {"compute_capability": f"{major}.{minor}", **_of_nvidia_smi(target.device.index or 0)}
    else:
        found["cpu_flags"] = [flag for flag in FLAGS if flag in _cpu_info("flags", "Features").split()]
    found |= {"python": platform.python_version(), "transformers": version("transformers"), "system": platform.system()}
    found["tiers"] = None if tiers is None else {name: list(sizes) for name, sizes in tiers.model_dump().items()}
    return {key: value for key, value in found.items() if value is not None} | {"dsim": _dsim()}


def kv(target: Target, drafters: Mapping[str, Drafter]) -> tuple[int, int, str]:
    """Bytes that a token takes in the target's cache, memory left for all caches, and how that was found. Gives back the caches there are."""
    target.tap(())
    target.allocate(1, 16)
    for drafter in drafters.values():
        drafter.allocate(1, 16)
    assert target.kv is not None
    if target.device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(target.device)
        memory, how = int(free - RESERVE * total), f"free beside the weights, less {RESERVE:.0%} of the device for activations and graphs (assumed)"
    else:
        memory, how = int(SHARE * available_bytes()), f"assumed: {SHARE:.0%} of the memory available when it was measured"
    if memory <= 0:
        raise DsimError("no memory is left for keys and values", where=target.name, remedy="use a smaller dtype or a larger device")
    return target.kv.bytes_per_token, memory, how


def available_bytes() -> int:
    """Memory of the machine that is free for use; all of it where the system does not say. Raises DsimError where neither is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError) as error:
        raise DsimError("this system does not say how much memory it has", remedy="measure on Linux or macOS") from error


def _cpu_info(*names: str) -> str:
    """The first line of /proc/cpuinfo with one of these names; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in names), "")


def _processor() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _of_nvidia_smi(device: int) -> dict[str, str]:
    """Driver, clocks and power limit, where the tool is there and answers."""
    if shutil.which("nvidia-smi") is None:
        return {}
    index = getattr(torch.cuda.get_device_properties(device), "uuid", device)
    name = f"GPU-{index}" if index is not device else str(index)
    command = ["nvidia-smi", f"--id={name}", f"--query-gpu={','.join(SMI.values())}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in said[0].split(",")] if said else []
    return {key: value for key, value in zip(SMI, values, strict=False) if value and not value.startswith("[")}


def _dsim() -> str:
    """The commit of the checkout, or the version installed."""
    try:
        told = version("dsim")
    except PackageNotFoundError:
        told = "no version"
    git = Path(__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            name = head.removeprefix("ref: ")
            packed = (git / "packed-refs").read_text().splitlines() if not (git / name).exists() else []
            head = (git / name).read_text().strip() if not packed else next(line.split()[0] for line in packed if line.endswith(f" {name}"))
        return f"{told}, commit {head[:12]}"
    except (OSError, StopIteration):
        return told
