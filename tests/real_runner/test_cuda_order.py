"""The order of capture, replay and timing on CUDA, run with a stand-in for torch.cuda."""

from __future__ import annotations

import gc

import pytest
import torch

from real_runner.graphs import Captured
from real_runner.timing import Stopwatch

from .cuda import Fake


@pytest.fixture
def cuda(monkeypatch):
    return Fake(monkeypatch)


def test_the_first_call_runs_on_a_side_stream_and_is_captured_without_running(cuda):
    """Work that is under way is waited for, and the capture waits for the first run: state moves once per call."""
    ran, runner = [], Captured()

    def step(given):
        assert gc.isenabled() != cuda.capturing  # an older graph that is collected meanwhile would break the capture
        ran.append("captured" if cuda.capturing else cuda.now.name)
        return (given + 1,)

    given = torch.zeros(2)
    out = runner.run("a", step, given)[0]
    assert ran == ["side 1", "captured"]
    assert cuda.log == ["side 1 waits for main", "on side 1", "main waits for side 1", "capture", "captured"]
    assert out.tolist() == [1.0, 1.0]
    runner.run("a", step, torch.ones(2))
    assert ran == ["side 1", "captured"]  # a replay calls nothing
    assert cuda.log[-1] == "replay"
    runner.run("b", step, given)
    assert (cuda.made, runner.captured) == (1, 2)  # one side stream for all
    assert cuda.pools[0] is None
    assert cuda.pools[1][0] == "pool of"  # and one pool, the first graph's
    assert gc.isenabled()


def test_a_replay_sees_new_inputs_and_leaves_those_of_the_caller_alone(cuda):
    runner, seen = Captured(), []
    first, second = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    runner.run("a", lambda given: seen.append(given) or (given,), first)
    held = seen[-1]
    assert held.data_ptr() != first.data_ptr()
    runner.run("a", lambda given: (given,), second)
    assert held.tolist() == [1.0, 2.0, 3.0]
    assert first.tolist() == [0.0] * 3
    runner.run("a", lambda given: (given,), held)  # its own input is not copied onto itself
    assert held.tolist() == [1.0, 2.0, 3.0]


def test_a_capture_that_runs_out_of_memory_leaves_no_graph(cuda):
    runner, given = Captured(), torch.zeros(1)
    cuda.fail = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        runner.run("a", lambda given: (given,), given)
    assert runner.captured == 0
    assert gc.isenabled()
    cuda.fail = None
    runner.run("a", lambda given: (given,), given)
    assert (runner.captured, cuda.log[-1]) == (1, "captured")


def test_a_stopwatch_reads_the_clock_of_the_device(cuda):
    """Parts of the same name add up, the empty name is nobody's, and a read starts anew."""
    watch = Stopwatch(torch.device("cuda"))
    for at, name in ((0.0, ""), (0.5, "verify"), (0.75, "draft"), (2.0, ""), (3.0, "draft")):
        cuda.device_s = at
        watch.mark(name)
    assert watch.read() == {"verify": 0.5, "draft": 1.25}
    assert watch.read() == {}
    cuda.device_s = 4.0
    watch.mark("verify")
    assert watch.read() == {}
