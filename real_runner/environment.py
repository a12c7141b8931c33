"""What a measurement was taken on and with, and the memory that is left for keys and values."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from real_runner.drafters.drafter import Drafter
from real_runner.layout import Tiers
from real_runner.target import Target
from real_runner.timing import Stopwatch
from simulator.errors import DsimError

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")  # that decide which kernels run
RESERVE = 0.1  # of a GPU's memory, for activations and captured graphs
SHARE = 0.5  # of a CPU's available memory


def machine(target: Target) -> dict[str, Any]:
    """The machine and software that times depend on, in short."""
    cuda = target.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(target.device) if cuda else _cpu_info("model name") or platform.processor() or platform.machine(),
        "kind": target.device.type,
        "dtype": str(target.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
    }


def environment(target: Target, tiers: Tiers | None) -> dict[str, Any]:
    """As `machine`, with driver and clocks if the driver tells them, versions, kernels' flags, graph tiers and the commit (or version) of dsim."""
    facts = machine(target)
    if target.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(target.device)
        facts |= {"compute_capability": f"{major}.{minor}", **_gpu_facts(target.device)}
    else:
        facts["cpu_flags"] = [flag for flag in FLAGS if flag in _cpu_info("flags", "Features").split()]
    facts |= {"python": platform.python_version(), "transformers": version("transformers"), "system": platform.system()}
    facts["tiers"] = None if tiers is None else {name: list(sizes) for name, sizes in tiers.model_dump().items()}
    return {key: value for key, value in facts.items() if value is not None} | {"dsim": _dsim()}


def kv(target: Target, drafters: Mapping[str, Drafter]) -> tuple[int, int, str]:
    """Bytes per token in the target's cache, bytes left for all caches, and how they were found. Releases the caches. Raises DsimError."""
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
        memory, how = int(SHARE * psutil.virtual_memory().available), f"assumed: {SHARE:.0%} of the memory available when it was measured"
    if memory <= 0:
        raise DsimError("no memory left for keys and values", where=target.name, remedy="use a smaller dtype or a larger device")
    return target.kv.bytes_per_token, memory, how


def _cpu_info(*names: str) -> str:
    """The first line of /proc/cpuinfo with one of these names; empty where there is none. No library that torch brings knows model and flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in names), "")


def _work(device: torch.device, seconds: float = 0.5) -> None:
    """Products for some time, the last of them still under way: clocks and power of an idle GPU say nothing of a measurement's."""
    side = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        torch.cuda.synchronize(device)
        for _ in range(100):
            torch.mm(side, side)


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes, the fastest of some."""
    cuda = device.type == "cuda"
    size = min(2**30, torch.cuda.mem_get_info(device)[0] // 4) if cuda else 2**25
    source = torch.ones(size, dtype=torch.uint8, device=device)
    into, watch, seconds = torch.empty_like(source), Stopwatch(device), []
    for _ in range(10):
        watch.mark("")
        into.copy_(source)
        watch.mark("copy")
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(watch.read()["copy"])
    return 2 * source.numel() / min(seconds)


def _gpu_facts(device: torch.device) -> dict[str, str]:
    """Driver, attention kernels, clocks and power while it works, as far as the driver tells them."""
    facts: dict[str, str] = {"attention": "scaled_dot_product_attention with a mask, without cuDNN"}
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return facts
    _work(device)
    for name, read in {
        "driver": pynvml.nvmlSystemGetDriverVersion,
        "clock_sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "clock_sm_most_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "clock_memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
        "power_w": lambda: f"{pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3:.0f}",
        "power_limit_w": lambda: f"{pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3:.2f}",
    }.items():
        with suppress(pynvml.NVMLError):
            facts[name] = str(read())
    return facts


def _dsim() -> str:
    """The installed version, with the commit if this is a checkout."""
    try:
        installed = version("dsim")
    except PackageNotFoundError:
        installed = "no version"
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return installed
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return f"{installed}, commit {head.stdout.strip()}" if head.returncode == 0 else installed
