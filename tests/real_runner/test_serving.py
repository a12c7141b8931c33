"""What `dsim validate --engine` serves: arrivals in time, and times without the capture of graphs in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from real_runner import rounds
from real_runner.engine import Engine
from real_runner.layout import Tiers
from real_runner.records import ServedRequest, step_table
from real_runner.serve import serve
from real_runner.serving import Serving, _arrivals
from simulator.errors import DsimError
from simulator.policies.verification import FixedLength, NoSpeculation, Threshold

from .test_graphs import PROMPTS, Replayed


def test_arrivals_of_a_trace_are_played_at_the_rate(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at},9,9\n" for at in (5.0, 7.0, 6.0, 9.0)))
    assert _arrivals(Serving(arrivals=trace)) == (0.0, 1.0, 2.0, 4.0)
    assert _arrivals(Serving(arrivals=trace, rate=1.5, open_requests=3)) == pytest.approx((0.0, 2 / 3, 4 / 3))
    assert _arrivals(Serving()) == ()
    assert len(_arrivals(Serving(rate=2.0, open_requests=7))) == 7
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n3,9,9\n3,9,9\n")
    with pytest.raises(DsimError, match="expected requests at two times or more"):
        _arrivals(Serving(arrivals=trace))


@pytest.mark.parametrize("concurrency", [3, None])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_measured_step_captures_a_graph(concurrency, temperature, target, drafters, monkeypatch):
    """A load is served until its graphs are there; the policies after it take them over. Random draws are the same each time."""
    monkeypatch.setattr(rounds, "Eager", Replayed)
    load = [ServedRequest(i, prompt, 20 + i) for i, prompt in enumerate(PROMPTS)]
    passes, device = [], None
    for policy in (Threshold(threshold=0.4), FixedLength(length=2), FixedLength(length=2)):

        def make(device, policy=policy):
            engine = Engine(
                target, drafters["dspark_rnn"], policy, slots=3, length=64, temperature=temperature, seed=1, device=device, stop_at_eos=False,
                tiers=Tiers(tokens=(1, 2, 4, 8, 16, 32), reach=(16, 32, 64)),
            )  # fmt: skip
            passes[-1].append(engine)
            return engine

        passes.append([])
        engine = serve(make, load, concurrency, device)
        device = engine.device
        assert len(engine.finished) == len(load)
        assert step_table(engine.steps)["captured_graphs"].sum() == 0
        texts = [{r.request: r.output for r in one.finished} for one in passes[-1]]
        assert all(one == texts[0] for one in texts)
    assert sum(step.captured_graphs for step in passes[0][0].steps) > 3
    assert [len(engines) > 1 for engines in passes] == [True, True, False]  # another γ needs another device; the same one none
    assert all(len(engines) <= 2 or concurrency is None for engines in passes)
    assert passes[1][-1].device is passes[2][0].device


def test_a_device_serves_another_policy_and_no_other_room(target, drafters):
    first = Engine(target, None, NoSpeculation(), slots=2, length=64)
    assert Engine(target, None, NoSpeculation(), slots=2, length=64, device=first.device).device is first.device
    for other in ({"slots": 3, "length": 64}, {"slots": 2, "length": 65}, {"slots": 2, "length": 64, "temperature": 1.0}):
        assert Engine(target, None, NoSpeculation(), device=first.device, **other).device is not first.device
    with_drafts = Engine(target, drafters["dflash"], FixedLength(length=2), slots=2, length=64, device=first.device)
    assert with_drafts.device is not first.device
