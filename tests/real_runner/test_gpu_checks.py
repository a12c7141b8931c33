"""The questions that only a GPU answers, asked of a stand-in: each can be asked, and says `wrong` where something is."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import gpu_checks, gpu_doubts
from benchmarks.gpu_doubts import Answer, Lab
from real_runner import rounds
from real_runner.slots import SlotCache

from .cuda import Fake
from .test_graphs import Replayed


@pytest.fixture(scope="module")
def lab():
    return Lab("cpu", True)


def asked(lab, name):
    return gpu_checks.ask(lab, lambda line: None, [name])[name]


def test_what_has_no_meaning_on_a_cpu_is_not_judged_there(lab, monkeypatch):
    """Times are rehearsed, what needs CUDA is not tried; every doubt has a line, and what is over time is skipped."""
    timed = lambda lab: Answer(False, "3 ms")  # noqa: E731
    timed.__name__ = "launch_share"
    monkeypatch.setattr(gpu_checks, "TIMED", (timed,))
    lines = []
    answers = gpu_checks.ask(lab, lines.append, ["driver", "launch_share", "draws"])
    assert answers["driver"]["seen"] == "needs CUDA"
    assert answers["launch_share"]["seen"] == "needs CUDA (rehearsed: 3 ms)"
    assert [answer["verdict"] for answer in answers.values()] == ["skipped", "ok", "skipped"]
    assert [line.split()[0] for line in lines] == list(answers)
    assert gpu_checks.ask(lab, lines.append, ["draws"], seconds=-1)["draws"]["seen"] == "-1 s are over"


def test_a_draw_of_weight_zero_is_wrong(lab, monkeypatch):
    monkeypatch.setattr(gpu_doubts, "draw", lambda weights, uniform: torch.ones(len(weights), dtype=torch.long))
    assert asked(lab, "draws")["verdict"] == "wrong"


def test_a_check_that_raises_is_wrong_and_the_others_are_asked(lab, monkeypatch):
    def raises(*args):
        raise RuntimeError("Expected all tensors to be on the same device\nand more")

    monkeypatch.setattr(gpu_doubts, "build_corpus", raises)
    answers = gpu_checks.ask(lab, lambda line: None, ["training", "draws"])
    assert answers["training"]["seen"] == "RuntimeError: Expected all tensors to be on the same device"
    assert answers["draws"]["verdict"] == "ok"


def test_graphs_that_would_fill_the_device_are_wrong(lab, monkeypatch):
    """So much memory is gone after the engine as its caches take and each graph takes 3 MiB, then 3 GiB."""
    monkeypatch.setattr(rounds, "Eager", Replayed)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    total, counts = 2**37, []
    for each, ok in ((3 * 2**20, True), (3 * 2**30, False)):
        calls = itertools.count()

        def left(each=each, calls=calls):
            if next(calls) == 0:
                return total, total
            target, drafter = lab.pair
            caches = sum(t.numel() * t.element_size() for kv in (target.kv, drafter.kv) for layer in kv._layers.values() for t in layer)
            return total - caches - each * counts[-1], total

        monkeypatch.setattr(torch.cuda, "mem_get_info", left)
        real = Lab.served

        def served(self, *args, real=real):
            engine = real(self, *args)
            counts.append(engine.device.runner.captured)
            return engine

        monkeypatch.setattr(Lab, "served", served)
        answer = gpu_doubts.captures(lab)
        monkeypatch.setattr(Lab, "served", real)
        assert answer.numbers["mib_each"] == pytest.approx(each / 2**20)
        assert answer.numbers["graphs"] > 1
        assert answer.ok == ok


@pytest.mark.parametrize("name", ["collecting", "shipping", "fewer_kernels"])
def test_captures_of_the_checks_run(name, lab, monkeypatch):
    Fake(monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    answer = getattr(gpu_doubts, name)(lab)
    assert answer.ok or name == "shipping"  # which is a time
    assert answer.numbers


@pytest.mark.parametrize("leak", [False, True])
def test_memory_that_a_refusal_keeps_is_wrong(leak, lab, monkeypatch):
    write, allocated = SlotCache.write, itertools.chain([100], itertools.repeat(2**30 if leak else 100))

    def refused(self, *args):
        if self.slots > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return write(self, *args)

    monkeypatch.setattr(SlotCache, "write", refused)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(allocated))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**24, 2**24))
    answer = gpu_doubts.memory(lab)
    assert answer.numbers["refused"]
    assert answer.ok == (not leak)


def test_a_driver_that_does_not_tell_its_clocks_is_wrong(lab, monkeypatch):
    facts = dict.fromkeys(("driver", "clock_sm_mhz", "clock_sm_most_mhz", "clock_memory_mhz", "power_w", "power_limit_w"), "1")
    monkeypatch.setattr(gpu_doubts, "_gpu_facts", lambda device: facts)
    assert gpu_doubts.driver(lab).ok
    del facts["clock_sm_mhz"]
    assert gpu_doubts.driver(lab).seen.endswith("not told: clock_sm_mhz")
    assert not gpu_doubts.driver(lab).ok
