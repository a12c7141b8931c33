"""Continuous batching, limits, tiers, what a round may wait for, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from real_runner.engine import Engine
from real_runner.layout import Tiers, lay_out
from real_runner.records import REQUEST_COLUMNS, STEP_COLUMNS, ServedRequest, request_table, step_table
from real_runner.serve import closed_loop
from simulator.errors import DsimError
from simulator.policies.verification import ConfidenceScheduled, FixedLength, NoSpeculation, Oracle, Threshold, Uniform

PROMPTS = [[3, 16], [10, 12, 10, 1, 13], [27, 7, 16, 3, 16, 18], [5], [11, 28, 10, 1], [9] * 17, [1, 2, 3, 4, 5, 6]]


def outputs(engine, requests):
    return {r.request: r.output for r in engine.run(requests)}


def requests(tokens=20, **kwargs):
    return [ServedRequest(i, prompt, tokens + i, **kwargs) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def truth(target):
    return outputs(Engine(target, None, NoSpeculation(), slots=7, length=64, stop_at_eos=False), requests())


def test_without_a_drafter_it_decodes_as_transformers_does(truth, plain):
    assert truth == {i: plain(prompt, 20 + i) for i, prompt in enumerate(PROMPTS)}


def test_requests_that_have_not_arrived_cost_a_step_no_time(target):
    """However many a trace still holds: the host's time would count as the engine's."""
    looked = []

    class Arrival(float):
        def __le__(self, now):
            looked.append(now)
            return float(self) <= now

    engine = Engine(target, None, NoSpeculation(), slots=2, length=64, stop_at_eos=False)
    for i in range(50):
        engine.submit(ServedRequest(i, [3, 16], 20, Arrival(0.0 if i < 5 else 1e6)))
    engine.begin()
    for _ in range(5):
        engine.step()
    assert [step.waiting for step in engine.steps] == [3] * 5
    assert len(looked) < 5 * 10


@pytest.mark.parametrize("name", ["dspark_gated", "eagle3"])
def test_requests_join_and_leave_as_slots_come_free(name, target, drafters, truth):
    engine = Engine(target, drafters[name], FixedLength(length=3), slots=3, length=64, prefill_tokens=6, stop_at_eos=False)
    assert outputs(engine, requests()) == truth
    assert max(len(step.rounds) for step in engine.steps) == 3
    joins = [step for step in engine.steps if step.prefill_tokens and step.rounds]
    assert joins, "nobody joined a running batch"
    assert engine.steps[0].waiting > 0
    assert engine.steps[-1].waiting == 0


@pytest.mark.parametrize("name", ["dspark_vanilla", "eagle3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_to_tiers_changes_nothing(name, temperature, target, drafters):
    tiers = Tiers(tokens=(4, 16, 48, 64), reach=(32, 64))
    options = {"slots": 5, "length": 64, "temperature": temperature, "stop_at_eos": False}
    plain = Engine(target, drafters[name], Threshold(threshold=0.5) if name != "eagle3" else FixedLength(length=4), **options)
    padded = Engine(target, drafters[name], plain.policy, tiers=tiers, **options)
    if temperature == 0.0:
        assert outputs(padded, requests()) == outputs(plain, requests())
    else:  # other shapes draw other numbers: only that it runs and stays in the vocabulary
        assert all(0 <= token < 30 for text in outputs(padded, requests()).values() for token in text)


def test_tiers_make_few_shapes():
    tiers = Tiers(tokens=(8, 16, 32), reach=(128, 256))
    seen = set()
    for count in range(1, 9):
        layout = lay_out(np.arange(count), np.full(count, 3), 60 + count, (8, 256), tiers, width=8)
        seen.add(layout.key)
        assert layout.ints.shape[1] == tiers.pad(3 * count)
        assert (layout.ints[0, 3 * count :] == 8).all()  # the spare row
    assert len(seen) == 3
    assert tiers.pad(33) == 33


def test_eos_inside_the_accepted_prefix_ends_the_text_there(target, drafters, truth, monkeypatch):
    text = truth[1]
    eos = next(token for token in text[3:] if token not in text[:3])
    monkeypatch.setattr(type(target), "eos", frozenset([eos]))
    engine = Engine(target, drafters["dspark_vanilla"], FixedLength(length=7), slots=7, length=64)
    done = outputs(engine, requests())
    assert done[1] == text[: text.index(eos) + 1]
    cut = {i: out[: out.index(eos) + 1] if eos in out else out for i, out in truth.items()}
    assert done == cut
    assert sum(len(out) - 1 for out in done.values()) == sum(step.committed for step in engine.steps)
    parts = [part for step in engine.steps for part in step.rounds]
    assert any(part.ended for part in parts)
    assert all(part.verified == 7 for part in parts)  # what went through the target, wherever the text ended
    assert all(part.tokens == part.accepted + (0 if eos in part.drafted[: part.accepted] else 1) for part in parts)


@pytest.mark.parametrize("name", ["dspark_rnn", "eagle3"])
@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_prefill_in_chunks_is_the_same(name, chunk, target, drafters):
    rounds = []
    for size in (2048, chunk):
        engine = Engine(target, drafters[name], FixedLength(length=7), slots=7, length=64, prefill_chunk=size, stop_at_eos=False)
        texts = outputs(engine, requests())
        rounds.append((texts, [(p.request, p.drafted, p.accepted) for step in engine.steps for p in step.rounds]))
    assert rounds[0] == rounds[1]


def test_two_engines_of_one_target_take_turns(target, drafters, truth):
    first = Engine(target, drafters["dflash"], FixedLength(length=7), slots=7, length=64, stop_at_eos=False)
    second = Engine(target, None, NoSpeculation(), slots=2, length=70, stop_at_eos=False)
    assert outputs(first, requests()) == truth
    assert outputs(second, requests()) == truth


def test_records_add_up(target, drafters):
    engine = Engine(target, drafters["dspark_gated"], Threshold(threshold=0.6), slots=4, length=64, stop_at_eos=False)
    done = engine.run(requests())
    steps, table = step_table(engine.steps), request_table(done, "mine")
    assert tuple(steps.columns) == tuple(STEP_COLUMNS)
    assert tuple(table.columns) == tuple(REQUEST_COLUMNS)
    assert (steps.tokens == steps.requests + steps.verified).all()
    assert (steps.accepted <= steps.verified).all()
    assert (steps.start_s.to_numpy()[1:] == steps.end_s.to_numpy()[:-1]).all()
    spent = steps.draft_s + steps.verify_s + steps.overhead_s + steps.prefill_s
    assert np.allclose(spent, steps.end_s - steps.start_s, atol=1e-4)
    assert steps.prefill_tokens.sum() == sum(map(len, PROMPTS))
    assert (table.output_tokens == [20 + i for i in range(7)]).all()
    assert steps.committed.sum() == (table.output_tokens - 1).sum()
    assert (table.ttft_s > 0).all()
    assert (table.finish_s > table.first_token_s).all()
    part = engine.steps[1].rounds[0]
    assert part.confidence.shape == (7,)
    assert ((part.confidence > 0) & (part.confidence < 1)).all()
    first_below = np.argmax(np.append(part.confidence < 0.6, True))
    assert part.verified == first_below


def test_arrivals_are_waited_for(target):
    engine = Engine(target, None, NoSpeculation(), slots=4, length=64, stop_at_eos=False)
    done = engine.run([ServedRequest(0, [3], 2), ServedRequest(1, [4], 2, arrival_s=0.15)])
    late = next(r for r in done if r.request == 1)
    assert late.first_token_s >= 0.15


def test_closed_loop_keeps_the_concurrency(target):
    engine = Engine(target, None, NoSpeculation(), slots=2, length=64, stop_at_eos=False)
    done = closed_loop(engine, [ServedRequest(i, [3 + i], 5) for i in range(5)], 2)
    assert sorted(r.request for r in done) == [0, 1, 2, 3, 4]
    assert max(len(step.rounds) for step in engine.steps) == 2
    assert done[-1].arrival_s > 0


class Waits(TorchDispatchMode):
    """Counts operations that make the host wait for a device."""

    OPS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "repeat_interleave.Tensor")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        masks = name.startswith(("aten.index.", "aten.index_put")) and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1] if t is not None
        )
        if masks or any(op in name for op in self.OPS):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["dspark_rnn", "dflash", "eagle3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_round_waits_for_the_device_in_its_one_read_only(name, temperature, target, drafters, monkeypatch):
    engine = Engine(target, drafters[name], FixedLength(length=5), slots=4, length=64, temperature=temperature, tiers=Tiers(), stop_at_eos=False)
    for request in requests():
        engine.submit(request)
    engine.step()
    reads = []
    read = engine.device.read
    monkeypatch.setattr(engine.device, "read", lambda *parts: reads.append(1) or read(*parts))
    with Waits() as waits:
        for _ in range(3):
            assert engine.step()
    assert waits.seen == []
    assert len(reads) == 3


def test_the_watch_for_waits_sees_one():
    with Waits() as waits:
        torch.arange(3)[torch.tensor([True, False, True])]
        torch.ones(1).item()
    assert len(waits.seen) >= 2


@pytest.mark.parametrize(
    "policy, options, words",
    [
        (ConfidenceScheduled(), {}, "needs the time of a round"),
        (Uniform(), {"name": "dflash"}, "needs the time of a round|needs survivals"),
        (Threshold(threshold=0.5), {"name": "dflash"}, "no confidence head"),
        (Oracle(), {}, "knows outcomes in advance"),
        (FixedLength(length=3), {"name": None}, "there is no drafter"),
    ],
)
def test_policies_that_lack_something_are_refused(policy, options, words, target, drafters):
    drafter = drafters.get(options.get("name", "dspark_vanilla"))
    with pytest.raises(DsimError, match=words):
        Engine(target, drafter, policy, slots=2, length=64)


@pytest.mark.parametrize(
    "request_, words",
    [
        (ServedRequest(0, [], 4), "needs a prompt"),
        (ServedRequest(0, [3] * 60, 10), "a slot holds 64"),
        (ServedRequest(0, [31], 4), "outside the vocabulary"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(request_, words, target):
    engine = Engine(target, None, NoSpeculation(), slots=2, length=64)
    with pytest.raises(DsimError, match=words):
        engine.submit(request_)


def test_running_out_of_memory_is_one_line(target):
    with pytest.raises(DsimError, match="out of memory for the KV cache of 1000000 slots") as raised:
        Engine(target, None, NoSpeculation(), slots=1_000_000, length=10_000_000)
    assert "\n" not in raised.value.line()


def test_policies_that_peek_are_labelled_at_temperature_1(target, drafters):
    peeking = ConfidenceScheduled(lag=0)

    class Flat:
        def round_s(self, requests, context_tokens, gamma):
            return np.ones(requests * gamma + 1)

    assert not Engine(target, drafters["dspark_rnn"], peeking, slots=2, length=64, temperature=1.0, costs=Flat()).lossless
    assert Engine(target, drafters["dspark_rnn"], peeking, slots=2, length=64, costs=Flat()).lossless
