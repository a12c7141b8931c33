"""What a measurement was taken on: the commit of a checkout, and what the GPU's driver tells."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from real_runner import environment

ROOT = Path(__file__).parents[2]


def test_a_checkout_names_its_commit_in_a_worktree_too() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a checkout")
    assert environment._dsim().endswith(f", commit {head.stdout[:12]}")


def test_facts_that_the_driver_does_not_tell_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that knows all but the clock of the memory, and one that does not answer."""
    nvml = environment.pynvml
    asked = []

    def clock(gpu: str, which: int) -> int:
        if which == nvml.NVML_CLOCK_MEM:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return 1980

    def answer(**functions: Any) -> None:
        for name, function in functions.items():
            monkeypatch.setattr(nvml, name, function)

    monkeypatch.setattr(environment, "_work", lambda device: asked.append("worked"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    answer(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=asked.append, nvmlSystemGetDriverVersion=lambda: "580.1", nvmlDeviceGetClockInfo=clock)
    answer(nvmlDeviceGetMaxClockInfo=lambda gpu, which: 2000, nvmlDeviceGetPowerManagementLimit=lambda gpu: 700_000)
    answer(nvmlDeviceGetPowerUsage=lambda gpu: 512_300)
    told = environment._gpu_facts(torch.device("cuda:0"))
    assert told.pop("attention").endswith("without cuDNN")
    assert told == {"driver": "580.1", "clock_sm_mhz": "1980", "clock_sm_most_mhz": "2000", "power_w": "512", "power_limit_w": "700.00"}
    assert asked == ["GPU-abc", "worked"]  # clocks are read while it works

    def silent() -> None:
        raise nvml.NVMLError(nvml.NVML_ERROR_DRIVER_NOT_LOADED)

    answer(nvmlInit=silent)
    assert set(environment._gpu_facts(torch.device("cuda:0"))) == {"attention"}
