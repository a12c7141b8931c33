"""The cost tables of a profile: what is measured, what survives an interruption or too little memory, what is marked, and that it can be read."""

from __future__ import annotations

import json
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from real_runner import cost_tables
from real_runner.cost_cells import CellBench
from real_runner.cost_grid import CostCell, Grid, in_halves
from real_runner.cost_tables import measure_cost_tables
from real_runner.costs import ProfileCosts
from real_runner.engine import Engine
from real_runner.environment import copy_rate, environment, kv
from real_runner.failures import OutOfMemory, memory_of
from real_runner.layout import Tiers
from real_runner.records import ServedRequest
from real_runner.slots import SlotCache
from real_runner.target import Target
from real_runner.timing import Quantiles, repeated
from simulator.errors import DsimError
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Drafter, Profile, load_profile, save_profile
from simulator.policies.verification import ConfidenceScheduled
from simulator.progress import Progress

from .test_targets import make

TIERS = Tiers(tokens=(1, 2, 4, 8, 16, 24, 32), reach=(32, 64, 128))


@pytest.fixture
def pair(target, drafters):
    return target, {name: drafters[name] for name in ("dspark_vanilla", "eagle3")}


@pytest.fixture
def instant(monkeypatch):
    """Cells that take a time known from their keys and no time at all; returns the order in which they were made ready."""
    made = []

    def prepare(self, cell, slots):
        made.append((cell, slots))
        return lambda: seconds(cell)

    monkeypatch.setattr(CellBench, "prepare", prepare)
    monkeypatch.setattr(CellBench, "overheads", lambda self, requests: [0.002 + 0.0001 * requests] * 5)
    monkeypatch.setattr(cost_tables, "repeated", lambda once, budget, settle: Quantiles.of([once() for _ in range(10)]))
    return made


def seconds(cell: CostCell) -> float:
    return 0.01 + 0.001 * cell.tokens + 1e-5 * cell.requests * cell.context + 0.003 * cell.slots + 1e-4 * cell.requests


def measure(pair, folder, **change):
    given = {"temperature": 1.0, "max_requests": 6, "max_context": 64, "budget_s": 60.0, "tiers": None, "progress": Progress(quiet=True)} | change
    return measure_cost_tables(*pair, folder=folder, **given)


def attached(tables, folder):
    """Costs and draft costs, read back from the files."""
    tables.write(folder)
    costs, drafts = tables.costs, {name: tables.draft_cost(name) for name in tables.grid.drafters}
    for part in (costs.verify, costs.prefill, *drafts.values()):
        part.attach(folder)
    return costs, drafts


@pytest.mark.parametrize("tiers", [None, TIERS])
def test_real_cells_make_tables_that_the_simulator_prices_rounds_with(pair, tmp_path, tiers):
    """The engine's own parts on the golden pair: every part is there, longer than nothing, and the round is their sum."""
    tables = measure(pair, tmp_path, max_requests=2, budget_s=0.5, tiers=tiers)
    costs, drafts = attached(tables, tmp_path)
    for name, drafter in pair[1].items():
        cost = RoundCost(costs, drafts[name], drafter.gamma, drafter.gamma)
        round_s = cost.round_s(2, 40.0)
        assert round_s.shape == (2 * drafter.gamma + 1,)
        assert (round_s > 0).all()
        draft_s = cost.draft_s(2, 40.0)
        assert 0 < RoundCost(costs, drafts[name], drafter.gamma, 1).draft_s(2, 40.0) < draft_s < round_s[0]
    assert costs.prefill.seconds(20) > 0
    assert tables.costs.overhead.seconds > 0
    assert {cell.kind for cell in tables.first} == {"verify", "prefill", "backbone", "head", "absorb", "overhead"}
    assert set(tables.again) <= set(tables.first)
    assert any(cell.kind == "verify" for cell in tables.again)


def test_the_whole_grid_gives_back_the_times_it_was_made_of(pair, tmp_path, instant):
    tables = measure(pair, tmp_path)
    costs, drafts = attached(tables, tmp_path)
    drafter = pair[1]["dspark_vanilla"]
    cost = RoundCost(costs, drafts["dspark_vanilla"], drafter.gamma, 3)
    for requests, context in ((1, 16.0), (3, 40.0), (5, 64.0)):
        tokens = requests + np.arange(requests * drafter.gamma + 1)
        verify = 0.01 + 0.001 * tokens + 1e-5 * requests * context + 1e-4 * requests
        backbone = 0.01 + 1e-5 * requests * context + 1e-4 * requests
        head = 0.01 + 0.003 * 3 + 1e-5 * requests * 16 + 1e-4 * requests  # at the shortest context: it has no attention
        overhead = 0.002 + 1e-4 * requests
        found = cost.round_s(requests, context)
        absorb = drafts["dspark_vanilla"].absorb_s(tokens, context)
        np.testing.assert_allclose(found - absorb, verify + backbone + head + overhead, rtol=1e-4)
        np.testing.assert_allclose(absorb, 0.01 + 0.001 * tokens, rtol=0.05)
    assert costs.prefill.seconds(40, 20) == pytest.approx(0.05, rel=1e-3)
    assert tables.suspicious == []
    assert tables.costs.overhead.per_request_s == pytest.approx(1e-4)


def test_every_cell_of_the_grid_is_measured_once_and_a_tenth_again(pair, tmp_path, instant):
    tables = measure(pair, tmp_path)
    grid = Grid(pair[1], 6, 64, None)
    assert set(tables.first) == grid.cells(grid.steps()[-1])
    again = [cell for cell, _ in instant if cell in tables.again]
    assert len(instant) == len(tables.first) + len(tables.again) - sum(cell.kind == "overhead" for cell in tables.first)
    assert len(again) == 2 * len(tables.again)
    assert len(tables.again) == pytest.approx(0.1 * len(tables.first), abs=2)
    verify = [cell for cell in tables.first if cell.kind == "verify"]
    assert {(c.requests, c.tokens) for c in verify} == {(r, r * (n + 1)) for r in (1, 2, 4, 6) for n in range(8)}
    assert {c.context for c in verify} == {16, 23, 32, 45, 64}
    order = [cell for cell, _ in instant if cell.kind == "verify"]
    assert order != sorted(order)


def test_a_small_budget_measures_the_corners_and_a_larger_one_more(pair, tmp_path, instant):
    small = measure(pair, tmp_path / "a", budget_s=1e-9)
    axes = Grid(pair[1], 6, 64, None).steps()
    assert set(small.first) == Grid(pair[1], 6, 64, None).cells(axes[0])
    assert {(1, 1, 16), (1, 8, 64), (6, 6, 16), (6, 48, 64)} <= {(c.requests, c.tokens, c.context) for c in small.first if c.kind == "verify"}
    assert set(small.first) < set(measure(pair, tmp_path / "b").first)


def test_with_tiers_every_captured_size_is_measured_where_its_requests_reach_it(pair, tmp_path, instant):
    tables = measure(pair, tmp_path, tiers=TIERS, max_requests=4, max_context=100)
    costs, _ = attached(tables, tmp_path)
    assert sorted(costs.verify.table.contexts) == [32 - 16, 64 - 16, 100]
    by_requests = {r: sorted({c.tokens for c in tables.first if c.kind == "verify" and c.requests == r}) for r in (1, 2, 4)}
    assert by_requests == {1: [1, 2, 4, 8], 2: [2, 4, 8, 16], 4: [4, 8, 16, 24, 32]}
    known = {t: float(costs.verify.seconds(t, 4, 48)) for t in (16, 24)}
    assert known[24] > known[16]
    assert costs.verify.seconds([17, 20, 24], 4, 48).tolist() == [known[24]] * 3  # padded up
    assert costs.verify.seconds(16, 4, 17) == costs.verify.seconds(16, 4, 48) > costs.verify.seconds(16, 4, 16)


def test_an_interrupted_measurement_goes_on_and_ends_with_the_same_cells(pair, tmp_path, instant, monkeypatch):
    whole = measure(pair, tmp_path / "whole")
    calls, real = count(), CellBench.prepare

    def interrupted(self, cell, slots):
        if next(calls) == 40:
            raise KeyboardInterrupt
        return real(self, cell, slots)

    monkeypatch.setattr(CellBench, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(pair, tmp_path / "parts")
    file = tmp_path / "parts" / "cells.jsonl"
    kept = sum('"spread"' in line for line in file.read_text().splitlines())
    assert kept >= 40
    file.write_text(file.read_text() + '{"cell": {"kind": "ver')  # and the machine went down while it wrote
    before = len(instant)
    parts = measure(pair, tmp_path / "parts")
    assert (parts.first, parts.again) == (whole.first, whole.again)
    made = [line for line in file.read_text().splitlines() if '"spread"' in line]
    assert len(made) == len(whole.first) + len(whole.again)
    assert len(instant) - before < len(made) - 30
    again = len(instant)
    assert measure(pair, tmp_path / "parts").first == whole.first
    assert len(instant) == again  # nothing was left to do


def test_another_plan_starts_anew_and_says_what_differs(pair, tmp_path, instant, capsys):
    measure(pair, tmp_path, budget_s=1e-9)
    measure(pair, tmp_path, budget_s=1e-9, temperature=0.5, progress=Progress())
    assert "belongs to another measurement (temperature): starting again" in capsys.readouterr().err
    assert json.loads((tmp_path / "cells.jsonl").read_text().splitlines()[0])["plan"]["temperature"] == 0.5


def test_out_of_memory_drops_the_largest_batches_of_long_contexts_and_keeps_the_rest(pair, tmp_path, instant, monkeypatch):
    real = CellBench.prepare

    def narrow(self, cell, slots):
        if cell.kind != "prefill" and slots * cell.context > 4 * 45:
            raise MemoryError
        return real(self, cell, slots)

    monkeypatch.setattr(CellBench, "prepare", narrow)
    tables = measure(pair, tmp_path)
    assert tables.most == {16: 6, 23: 6, 32: 4, 45: 4, 64: 2}
    assert max(c.requests for c in tables.cells if c.kind == "verify" and c.context == 64) == 2
    assert max(c.requests for c in tables.cells if c.kind == "verify" and c.context == 16) == 6
    assert "Out of memory above 2 requests at context 64: not measured there." in tables.notes
    costs, _ = attached(tables, tmp_path)  # the corner that is missing is carried on
    assert float(costs.verify.seconds(6, 6, 64)) == pytest.approx(0.01 + 0.006 + 1e-5 * 6 * 64 + 6e-4, rel=0.02)
    resumed = measure(pair, tmp_path)
    assert resumed.most == tables.most


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")])
def test_a_cache_that_a_device_refuses_shrinks_the_grid(error, pair, tmp_path, monkeypatch):
    """As a GPU does it: on writing, in the middle of a cell. Less is measured, on real cells, and a resumed measurement knows."""
    write = SlotCache.write

    def refused(self, *args):
        if self.slots * self.length > 4 * 32:
            raise error
        return write(self, *args)

    monkeypatch.setattr(SlotCache, "write", refused)
    given = {"max_requests": 4, "max_context": 40, "budget_s": 1e-9, "tiers": TIERS}
    tables = measure(pair, tmp_path, **given)
    assert (tables.most[min(tables.most)], tables.most[40]) == (4, 2)
    assert "Out of memory above 2 requests at context 40: not measured there." in tables.notes
    assert {cell.requests for cell in tables.cells if cell.kind == "verify" and cell.context == 40} == {1, 2}
    lines = (tmp_path / "cells.jsonl").read_text()
    assert measure(pair, tmp_path, **given).most == tables.most
    assert (tmp_path / "cells.jsonl").read_text() == lines


def test_a_step_is_held_against_reading_the_weights(pair, tmp_path, instant, monkeypatch):
    """Of untied weights the embedding is looked up, not read."""
    monkeypatch.setattr(cost_tables, "copy_rate", lambda device: 4e9)
    target = pair[0]
    read = 4 * (sum(p.numel() for p in target.model.parameters()) - target.embedding.weight.numel())
    assert target.embedding.weight is not target.head.weight
    note = next(note for note in measure(pair, tmp_path).notes if note.startswith("A verify step of one token"))
    step_s = seconds(CostCell("verify", requests=1, tokens=1, context=16))
    assert f"takes {1e3 * step_s:.3g} ms, {step_s / (read / 4e9):.2g} times what" in note


def test_the_rate_of_a_copy_counts_what_is_read_and_written():
    assert 1e8 < copy_rate(torch.device("cpu")) < 1e13


def test_no_memory_for_one_request_is_one_line(pair, tmp_path, instant, monkeypatch):
    def none(self, cell, slots):
        raise MemoryError

    monkeypatch.setattr(CellBench, "prepare", none)
    with pytest.raises(DsimError, match="out of memory for one request at context"):
        measure(pair, tmp_path)


def test_cells_that_spread_or_drift_or_have_few_repeats_are_suspicious_and_say_so(pair, tmp_path, instant, monkeypatch):
    """A machine that gets slower from cell to cell, and whose short cells are erratic and few."""
    clock = count()

    def unsteady(once, budget, settle):
        slower = 1 + 1e-3 * next(clock)
        made = [once() * slower for _ in range(10)]
        if made[0] < 0.0265:
            return Quantiles.of([once() * (1 + 0.5 * (i % 2)) for i in range(4)])
        return Quantiles.of(made)

    monkeypatch.setattr(cost_tables, "repeated", unsteady)
    tables = measure(pair, tmp_path)
    told = tables.suspicious
    drifted = [line for line in told if "when measured again" in line]
    assert drifted
    assert all("+" in line for line in drifted)
    assert any("4 repeats, spread 4" in line for line in told)
    assert any("cells measured again at the end took +" in note for note in tables.notes)
    tables.write(tmp_path)
    assert "when measured again" in (tmp_path / "verify.csv").read_text()


def test_repeats_go_on_until_they_agree_or_the_budget_is_spent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("real_runner.timing.time.monotonic", lambda: now[0])

    def taking(draw):
        def once():
            seconds = draw()
            now[0] += seconds
            return seconds

        return once

    steady = repeated(taking(lambda: 0.01), budget_s=10, settle_s=0.05)
    assert (steady.n, steady.p50_s) == (10, pytest.approx(0.01))
    luck = np.random.default_rng(0)
    noisy = repeated(taking(lambda: luck.uniform(0.01, 0.03)), budget_s=1.0, settle_s=0.0)
    assert 40 <= noisy.n <= 60
    assert noisy.relative > 0.2
    slow = repeated(taking(lambda: 3.0), budget_s=0.5, settle_s=0.0)
    assert slow.n == 2  # ten budgets are over before there are five


def test_halves():
    assert in_halves([1, 2, 3, 4, 5]) == [1, 5, 3, 2, 4]
    assert in_halves([7]) == [7]
    assert in_halves([1, 2]) == [1, 2]


def test_without_drafters_ordinary_decoding_is_measured(target, tmp_path):
    tables = measure((target, {}), tmp_path, max_requests=2, budget_s=0.2)
    costs, drafts = attached(tables, tmp_path)
    assert drafts == {}
    assert RoundCost(costs, None, 0, 0).round_s(2, 20.0)[0] > 0


@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text", "gemma4_text, keys shared"])
def test_a_cpu_without_memory_for_a_cell_refuses_it_in_every_family(family, monkeypatch):
    """By what the cache keeps: configs of families with layers of several kinds have no one head_dim."""
    target = Target(make(family), family)
    bench = CellBench(target, {}, None, 0.0, 0)
    assert bench.prepare(CostCell("verify", requests=2, tokens=2, context=16), 2)() > 0
    room = 2 * bench._length(CostCell("verify", requests=2, tokens=2, context=20)) * target.kv.bytes_per_token
    for free, fits in ((0.9 * room, False), (1.2 * room, True)):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free))
        bench.release()
        refused = nullcontext() if fits else pytest.raises(OutOfMemory, match="caches of 2 requests")
        with refused:
            bench.prepare(CostCell("verify", requests=2, tokens=2, context=20), 2)


def profile_of(pair, folder):
    """A profile of the golden pair with measured costs and made-up acceptance."""
    tables = measure(pair, folder, max_requests=2, budget_s=0.2)
    tables.write(folder)
    described = {}
    for name, drafter in pair[1].items():
        confident = drafter.spec.confidence != "none"
        made = ParametricAcceptance(conditional={"math": [0.8] * drafter.gamma}, sequences_per_domain=2, anchors_per_sequence=64)
        made.generate(name, "synthetic", "test").save(folder / f"{name}.parquet")
        described[name] = Drafter(
            family=drafter.spec.family, gamma=drafter.gamma, draft=tables.draft_cost(name), blocks=f"{name}.parquet", confidence=confident,
            temperatures=[1.0] * drafter.gamma if confident else None,
        )  # fmt: skip
    profile = Profile(format=1, name="x", hardware="x", engine="x", target="x", gpus_per_replica=1, costs=tables.costs, drafters=described)
    save_profile(profile, folder)
    return load_profile(folder)


def test_the_engine_chooses_by_the_costs_of_a_profile(pair, tmp_path):
    profile = profile_of(pair, tmp_path)
    costs = ProfileCosts(profile, "dspark_vanilla")
    drafter = pair[1]["dspark_vanilla"]
    priced = RoundCost(profile.costs, profile.drafters["dspark_vanilla"].draft, 7, 7)
    np.testing.assert_allclose(costs.round_s(2, 80.0, 7), priced.round_s(2, 40.0))  # the engine counts the context of all requests
    assert costs.temperatures == [1.0] * 7
    assert len(costs.survival) == 7
    policy = ConfidenceScheduled()
    engine = Engine(pair[0], drafter, policy, slots=2, length=96, costs=costs, temperatures=costs.temperatures, survival=costs.survival)
    done = engine.run([ServedRequest(i, [1, 2, 3], 12) for i in range(2)])
    assert [len(r.output) for r in done] == [12, 12]
    assert ProfileCosts(profile, None).round_s(2, 40.0, 0).shape == (1,)


def test_the_environment_says_what_the_times_depend_on(pair):
    found = environment(pair[0], TIERS)
    assert found["kind"] == "cpu"
    assert found["dtype"] == "float32"
    assert found["tiers"]["tokens"] == [1, 2, 4, 8, 16, 24, 32]
    assert {"device", "torch", "transformers", "python", "threads", "cpu_flags", "dsim"} <= set(found)
    json.dumps(found)


def test_memory_for_keys_and_values(pair):
    target, drafters = pair
    per_token, memory, how = kv(target, drafters)
    config = target.config
    assert per_token == 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert memory > 2**20
    assert "assumed" in how
    assert all(drafter.kv.bytes_per_token > 0 for drafter in drafters.values())


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"])
def test_libraries_say_in_words_that_memory_ran_out(words, monkeypatch):
    with pytest.raises(OutOfMemory, match="out of memory for a step"), memory_of("a step"):
        raise RuntimeError(words)
    for free, expected in ((2**20, OutOfMemory), (2**33, RuntimeError)):  # cuBLAS on a full device, and one that is broken
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2**37))
        with pytest.raises(expected, match="out of memory" if expected is OutOfMemory else "INTERNAL"), memory_of("a step"):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx`")
    with pytest.raises(RuntimeError, match="device-side assert"), memory_of("a step"):
        raise RuntimeError("CUDA error: device-side assert triggered")
