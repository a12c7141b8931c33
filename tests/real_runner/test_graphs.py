"""What captured graphs rely on, shown without a GPU: replaying the first call of a key with new inputs is the same as calling anew."""

from __future__ import annotations

import pytest
import torch

from real_runner.engine import Engine
from real_runner.layout import Tiers
from real_runner.records import ServedRequest
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


def test_the_replay_would_notice_a_host_value_baked_in():
    runner = Replayed()
    for value in (1, 2):
        out = runner.run("key", lambda given, value=value: (given + value,), torch.zeros(1))[0]
    assert out.item() == 1.0  # and not 2
