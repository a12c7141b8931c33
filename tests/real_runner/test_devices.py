"""Everything stays where the model is, and the host waits once a round: shown without a GPU, on the meta device as one that is not the host's.

Meta tensors have no values: whoever reads one fails. A mode sees every operation: tensors of two devices are refused, and masks as indices, which on
CUDA wait for their count.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from real_runner import engine as engine_module
from real_runner import layout, rounds
from real_runner.drafters import drafter as drafter_module
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.records import ServedRequest
from real_runner.rounds import Device, Report
from real_runner.target import Target, load_target
from real_runner.training.checkpoints import Shape, new_drafter
from real_runner.training.corpus import Piece
from real_runner.training.loop import Schedule, Trainer
from simulator.policies.verification import FixedLength, NoSpeculation

from .conftest import GOLDEN, TRAINED
from .test_graphs import PROMPTS, TIERS

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "item"}


class Apart(TorchDispatchMode):
    """Refuses operations that mix the host with the device, or that wait on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device.type for tensor in tensors if tensor.ndim}
        name = func._schema.name.partition("::")[2]
        assert len(places) < 2 or name in ("copy_", "_to_copy"), f"{name} of tensors on {sorted(places)}"
        if "meta" in places:
            assert name not in WAITS, f"{name} waits for the device"
            indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
            assert not any(one is not None and one.dtype == torch.bool for one in indices), "a mask as an index waits for its count"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch):
    """Ships to the meta device as to a GPU, draws there, and reads made-up outcomes; returns the reads."""
    reads = []

    def ship(array, device):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def read(self, outcome, first, confidence):
        reads.append(1)
        rows = 0 if outcome is None else len(outcome.accepted)
        drafted = np.zeros((rows, 0 if outcome is None else outcome.drafted.shape[1]), dtype=np.int64)
        accepted = np.full(rows, len(reads) % 2 if drafted.shape[1] else 0)
        logits = None if confidence is None else np.zeros(tuple(confidence.shape))
        return Report(accepted, np.ones(rows, dtype=np.int64), drafted, np.ones(0 if first is None else len(first), dtype=np.int64), logits)

    for module in (layout, engine_module, rounds, drafter_module):
        monkeypatch.setattr(module, "ship", ship)
    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: real())
    monkeypatch.setattr(Device, "draws", lambda self, *shape: torch.rand(shape, device="meta"))
    monkeypatch.setattr(Device, "read", read)
    return reads


@pytest.fixture(scope="module")
def models():
    """The golden target and drafters, moved to the meta device."""
    target = load_target(str(GOLDEN / "target"))
    drafters = {name: load_drafter(str(GOLDEN / name), target) for name in TRAINED}
    away = Target(target.model.to("meta"), "meta")
    for drafter in drafters.values():
        drafter.to("meta")
        if drafter.d2t is not None:
            drafter.d2t = drafter.d2t.to("meta")
    return away, drafters


@pytest.mark.parametrize(
    "name, temperature, tiers", [*((name, 1.0, TIERS) for name in (*TRAINED, None)), ("dspark_rnn", 0.0, None), ("eagle3", 0.0, None)]
)
def test_a_round_waits_once_and_mixes_no_devices(name, temperature, tiers, models, elsewhere):
    target, drafters = models
    drafter = drafters.get(name)
    policy = NoSpeculation() if drafter is None else FixedLength(length=drafter.gamma)
    with Apart():
        engine = Engine(target, drafter, policy, slots=3, length=64, temperature=temperature, tiers=tiers, prefill_chunk=4, stop_at_eos=False)
        done = engine.run([ServedRequest(i, prompt, 2 + 2 * i) for i, prompt in enumerate(PROMPTS[:4])])
    assert [len(request.output) for request in sorted(done, key=lambda r: r.request)] == [2, 4, 6, 8]
    assert len(elsewhere) == len(engine.steps) > 4


@pytest.mark.parametrize("family", ["dspark", "dflash", "eagle3", "mtp"])
def test_a_training_step_mixes_no_devices(family, models, tmp_path, monkeypatch):
    """Texts are the host's, as a corpus on disk is; model, loss and gradients are the device's."""
    target, hidden = models[0], models[0].hidden
    shape = Shape(family, 1 if family == "mtp" else 3, (0, 1, 2), layers=1, markov_rank=4, mask_token=target.vocabulary - 1)
    drafter = new_drafter(shape, target, tmp_path, None, seed=0)
    piece = Piece(torch.arange(16), 4, torch.randn(16, 3 * hidden), torch.randn(16, hidden), torch.zeros(16))

    class Texts:
        def __len__(self):
            return 3

        def piece(self, text):
            return piece

    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 1.0)  # the losses are read
    with Apart():
        loss, _ = Trainer(drafter, target, Texts(), Schedule(steps=1, texts=1, anchors=8, held_out=1))._heard(0, np.random.default_rng(0))
        loss.backward()
    assert loss.device.type == "meta"
    assert all(p.grad is not None for name, p in drafter.named_parameters() if p.requires_grad and "confidence" not in name)


@pytest.mark.parametrize(
    "mistake", [lambda x: x + torch.arange(3), lambda x: x[x > 0], lambda x: x[torch.tensor([0, 1])], lambda x: x.sum().item(), lambda x: x.nonzero()]
)
def test_the_mode_would_notice(mistake):
    x = torch.zeros(3, device="meta")
    with Apart(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        mistake(x)
