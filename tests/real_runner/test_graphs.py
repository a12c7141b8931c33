"""What captured graphs rely on, shown without a GPU: replaying the first call of a key with new inputs is the same as calling anew."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from real_runner.engine import Engine
from real_runner.graphs import Eager, refuse_waiting_rope
from real_runner.layout import Tiers
from real_runner.records import ServedRequest
from real_runner.rounds import Device
from simulator.errors import DsimError
from simulator.policies.schedulers import VllmAdaptive
from simulator.policies.verification import FixedLength, NoSpeculation, Threshold

PROMPTS = [[3, 16], [10, 12, 10, 1, 13], [27, 7, 16, 3, 16, 18], [5], [11, 28, 10, 1], [9] * 17, [1, 2, 3, 4, 5, 6]]
TIERS = Tiers(tokens=(1, 2, 4, 8, 16, 32, 64), reach=(16, 32, 64))


class Replayed:
    """Behaves as a captured graph does: later calls run the first call's closure on its own inputs, and outputs die with the next call."""

    def __init__(self):
        self.steps, self.replays, self.alive = {}, 0, []

    @property
    def captured(self):
        return len(self.steps)

    def run(self, key, step, *inputs):
        if key in self.steps:
            first, held = self.steps[key]
            assert [t.shape for t in held] == [t.shape for t in inputs]
            for own, given in zip(held, inputs, strict=True):
                own.copy_(given)
            self.replays += 1
        else:
            first, held = step, tuple(t.clone() for t in inputs)
            self.steps[key] = first, held
        for tensor in self.alive:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 10**6)
        outputs = first(*held)
        self.alive = [t for t in outputs if t is not None]
        return outputs


def requests():
    return [ServedRequest(i, prompt, 20 + i) for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("name", ["dspark_rnn", "dflash", "eagle3", None])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replaying_is_the_same_as_calling(name, temperature, target, drafters):
    policy = NoSpeculation() if name is None else FixedLength(length=5) if name != "dspark_rnn" else Threshold(threshold=0.4)
    texts = []
    for runner in (None, Replayed()):
        engine = Engine(target, drafters.get(name), policy, slots=4, length=64, temperature=temperature, tiers=TIERS, seed=3, stop_at_eos=False)
        if runner is not None:
            engine.device.runner = runner
        texts.append({r.request: r.output for r in engine.run(requests())})
    assert texts[0] == texts[1]
    assert engine.device.runner is runner
    assert runner.replays >= runner.captured > 3
    assert sum(step.captured_graphs for step in engine.steps) == runner.captured


def test_steps_above_the_last_tier_are_not_captured(target, drafters):
    """Every count of tokens would be a graph of its own, hardly ever met again."""
    few = Tiers(tokens=(1, 2, 4, 8), reach=(16, 32, 64))
    texts = []
    for tiers in (None, few):
        engine = Engine(target, drafters["dspark_rnn"], Threshold(threshold=0.4), slots=4, length=64, tiers=tiers, stop_at_eos=False)
        engine.device.runner = Replayed()
        texts.append({r.request: r.output for r in engine.run(requests())})
    kept = [layout[0] for _, layout, *_ in engine.device.runner.steps]
    assert texts[0] == texts[1]
    assert max(step.tokens for step in engine.steps) > 8 >= max(kept)


@pytest.mark.parametrize("name", ["dspark_rnn", "eagle3", None])
def test_requests_close_up_so_that_few_pay_for_few_rows(name, target, drafters, monkeypatch):
    """Long requests stand in the last slots when the short ones are over: they move, with caches, seeds, places and the policy's memory of them."""
    policy = NoSpeculation() if name is None else VllmAdaptive() if name == "dspark_rnn" else FixedLength(length=5)
    costs = SimpleNamespace(round_s=lambda requests, context, gamma: 1 + 0.1 * np.arange(requests * gamma + 1))
    texts, rows = [], []
    real = Device.verify

    def watched(self, layout, plan, packed, proposal):
        live = int((plan.split(torch.from_numpy(plan.packed))[2][0] < engine.slots).sum())
        rows.append((layout.row_count, min(TIERS.pad(live), engine.slots)))
        return real(self, layout, plan, packed, proposal)

    monkeypatch.setattr(Device, "verify", watched)
    for tiers in (None, TIERS):
        rows.clear()
        engine = Engine(target, drafters.get(name), policy, slots=7, length=64, tiers=tiers, costs=costs, stop_at_eos=False)
        engine.device.runner = Eager() if tiers is None else Replayed()
        done = engine.run([ServedRequest(i, prompt, 4 + 5 * i) for i, prompt in enumerate(PROMPTS)])
        lengths = {}
        for step in engine.steps:
            for part in step.rounds:
                lengths.setdefault(part.request, []).append((part.verified, part.accepted))
        texts.append(({r.request: r.output for r in done}, lengths))
    assert texts[0] == texts[1]
    for (_, before), (count, needed) in itertools.pairwise(rows):
        assert needed <= count <= max(needed, before)  # whoever ends in a round is still in its rows
    assert [count for count, needed in rows if needed == 1][1:] == [1] * (sum(needed == 1 for _, needed in rows) - 1)
    assert {count for count, _ in rows} == {1, 2, 4, 7}


def test_rows_of_caches_end_where_a_reach_does(target):
    """At a tier, or at a multiple of 256: a last reach of 371 tokens would be a shape that no cost cell has, padded anew in every layer."""
    tiers = Tiers()
    assert [tiers.room(length) for length in (20, 256, 371, 2048, 2049, 4111)] == [256, 256, 512, 2048, 2304, 4352]
    assert tiers.pad_reach(4111, tiers.room(4111)) == 4352
    assert Engine(target, None, NoSpeculation(), slots=1, length=371, tiers=tiers).length == 512
    assert Engine(target, None, NoSpeculation(), slots=1, length=371).length == 371


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_wait_for_the_device_are_not_captured(kind):
    plain = {"rope_type": "default", "rope_theta": 1e4}
    config = SimpleNamespace(rope_parameters={"full_attention": plain | {"rope_type": kind}, "sliding_attention": plain})
    config.get_text_config = lambda: config
    with pytest.raises(DsimError, match=f"'{kind}' waits for the device in each step"):
        refuse_waiting_rope(config)
    config.rope_parameters = plain
    refuse_waiting_rope(config)


def test_the_replay_would_notice_a_host_value_baked_in():
    runner = Replayed()
    for value in (1, 2):
        out = runner.run("key", lambda given, value=value: (given + value,), torch.zeros(1))[0]
    assert out.item() == 1.0  # and not 2
