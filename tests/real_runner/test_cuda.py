"""What only a CUDA device can show: captured rounds equal eager ones, and the host waits once a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.expect import compare
from real_runner.graphs import Captured
from real_runner.layout import Tiers
from real_runner.records import ServedRequest
from real_runner.target import load_target
from simulator.policies.verification import FixedLength, Threshold

GOLDEN = Path(__file__).parents[1] / "golden"
TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def on_cuda():
    torch.backends.cuda.matmul.allow_tf32 = False
    return load_target(str(GOLDEN / "target"), "cuda")


def requests(name, tokens=64):
    expected = json.loads((GOLDEN / name / "greedy_decode.json").read_text())
    return [ServedRequest(i, one["prompt"], tokens) for i, one in enumerate(expected)]


@pytest.mark.parametrize("name", TRAINED)
def test_golden_parity_in_float32(name, on_cuda):
    drafter = load_drafter(str(GOLDEN / name), on_cuda)
    assert all(difference.holds for difference in compare(GOLDEN / name, on_cuda, drafter))


@pytest.mark.parametrize("name", TRAINED)
def test_captured_rounds_say_what_eager_ones_say(name, on_cuda):
    drafter = load_drafter(str(GOLDEN / name), on_cuda)
    policy = Threshold(threshold=0.4) if name.startswith("dspark") else FixedLength(length=5)
    texts = []
    for tiers in (None, Tiers(reach=(64, 128, 256))):
        engine = Engine(on_cuda, drafter, policy, slots=4, length=192, tiers=tiers, stop_at_eos=False)
        texts.append({r.request: r.output for r in engine.run(requests(name))})
    assert isinstance(engine.device.runner, Captured)
    assert engine.device.runner.captured > 2
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_host_waits_once_a_round(name, temperature, on_cuda, monkeypatch):
    drafter = load_drafter(str(GOLDEN / name), on_cuda)
    engine = Engine(on_cuda, drafter, FixedLength(length=5), slots=6, length=192, temperature=temperature, tiers=Tiers(), stop_at_eos=False)
    for request in requests(name, 96):
        engine.submit(request)
    for _ in range(6):  # admission and capture are not rounds of serving
        engine.step()
    read, reads = engine.device.read, []

    def allowed(*parts):
        torch.cuda.set_sync_debug_mode("default")
        reads.append(1)
        told = read(*parts)
        torch.cuda.set_sync_debug_mode("error")
        return told

    monkeypatch.setattr(engine.device, "read", allowed)
    made = engine.device.runner.captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(reads) == 5
    assert engine.device.runner.captured == made  # every length is full, so that sampling changes no shape


def test_bfloat16_runs_and_stays_close():
    target = load_target(str(GOLDEN / "target"), "cuda", "bfloat16")
    for name in TRAINED:
        found = compare(GOLDEN / name, target, load_drafter(str(GOLDEN / name), target))
        forward = [difference for difference in found if not difference.what.startswith("greedy")]
        assert all(difference.worst < 0.1 for difference in forward), forward
