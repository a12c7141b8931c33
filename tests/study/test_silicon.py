"""Real runs predicted from kernel times: what the sample's rows are taken for, halves, the fit of what engines add, errors, pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.measurements.cost_table import CostTable, Curve
from simulator.report.render.markdown import markdown
from simulator.report.validation.silicon import silicon_page, silicon_tables
from simulator.study.estimate.hosts import Host, Hosts, read_hosts
from simulator.study.estimate.package import Deployment
from simulator.study.validation.silicon.evaluate import tenth
from simulator.study.validation.silicon.hosts import fit_hosts
from simulator.study.validation.silicon.played import play, seen_s
from simulator.study.validation.silicon.predicted import Predicted
from simulator.study.validation.silicon.priced import Priced
from simulator.study.validation.silicon.result import SiliconComparison, compared, errors_of
from simulator.study.validation.silicon.sample import Run, contradicted, read_sample
from simulator.study.validation.silicon.setups import setup_of

HEAD = (
    "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,batch_size,tp_size,pp_size,attention_dp_size,"
    "moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)
MAX = "db-dump/x; silicon_concurrency=64"
ROWS = (
    f"a,{MAX},sglang,0.5.9,deepseek-ai/DeepSeek-R1,b200_sxm,fp4,agg,1024,1024,64,64,1,1,8,8,400,16",
    f"b,{MAX},trtllm,1.2.0,deepseek-ai/DeepSeek-R1,b200_sxm,fp8,agg,1024,1024,1,1,1,64,8,8,400,16",
    f"c,{MAX},vllm,0.19.0,MiniMaxAI/MiniMax-M2.5,b200_sxm,fp8,agg,8192,1024,32,2,1,2,1,4,400,16",
    f"d,{MAX},trtllm,,deepseek-ai/DeepSeek-R1,gb200,fp4,agg,1024,1024,64,36,1,1,36,1,400,16",
    "e,source_file=/there; silicon_concurrency=8,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,agg,1024,128,8,4,1,,1,1,90,10",
    f"f,{MAX},vllm,,meta-llama/Llama-3.1-70B,h200_sxm,fp8,agg,1024,1024,64,2,1,1,2,1,400,16",
    f"g,{MAX},vllm,0.19.0,MiniMaxAI/MiniMax-M2.5,b200_sxm,fp8,disagg,8192,1024,32,2,1,2,1,4,400,16",
)


@pytest.fixture
def runs(tmp_path) -> dict[str, Run]:
    (tmp_path / "sample.csv").write_text("\n".join((HEAD, *ROWS)) + "\n")
    return {run.id: run for run in read_sample(tmp_path / "sample.csv")}


def made(count: int, seed: int = 0) -> list[Run]:
    luck = np.random.default_rng(seed)
    of = Deployment("Qwen/Qwen3-32B", "h100_sxm", "vllm", tp=4)
    loads = luck.choice([4, 8, 16, 32, 64], count).tolist()
    return [Run(f"run {i}", MAX, "vllm", "0.19.1", "Qwen/Qwen3-32B", "h100_sxm", "bf16", 1024, 1024, c, 0.0, 0.0, of) for i, c in enumerate(loads)]


def test_what_the_columns_mean(runs):
    sizes = {name: (run.of.tp, run.of.dp, run.of.moe_tp, run.of.moe_ep) for name, run in runs.items() if run.of}
    assert sizes == {"a": (8, 1, 1, 8), "b": (1, 8, 1, 8), "c": (1, 2, 1, 2), "e": (4, 1, None, None), "f": (2, 1, None, None)}  # n x n is n GPUs
    assert "several replicas" in runs["d"].why_not
    assert "g" not in runs
    assert runs["e"].concurrency == 8
    assert not runs["e"].inferencemax
    assert runs["e"].precision == "bf16"
    assert (runs["a"].of.model, runs["a"].of.attention) == ("nvidia/DeepSeek-V3.1-NVFP4", "bfloat16")
    assert (runs["f"].of.gemm, runs["f"].of.kv) == ("fp8", "fp8")  # vLLM on Hopper quantises in a kernel of its own
    assert [runs[name].series for name in "acf"] == ["0.5", "0.19", "0"]


def test_setups_of_the_scripts(runs):
    assert setup_of(runs["a"]).wait_steps == 2 + 15  # polls every 30 steps, two steps ahead
    assert setup_of(replace(runs["a"], concurrency=8)).wait_steps == 2 + 5
    assert setup_of(runs["f"]).wait_steps == 2
    assert setup_of(runs["e"]).ratio == 1.0
    assert setup_of(runs["f"]).ratio == 0.8
    assert setup_of(runs["c"]).prefill.chunk(0, 10**6) == 8192 * 2  # every rank has its own budget
    assert setup_of(runs["f"]).prompts == 640


def test_halves_are_fixed_and_about_even():
    judged = [run.judged for run in made(2000)]
    assert judged[:8] == [run.judged for run in made(8)]
    assert abs(np.mean(judged) - 0.5) < 4 * 0.5 / np.sqrt(2000)
    picked = tenth(made(2000))
    assert all(run.judged for run in picked)
    assert len(picked) == -(-sum(judged) // 10)


def test_a_contradiction_needs_like_columns_and_other_times():
    one = replace(made(1)[0], tpot_s=0.010)
    others = [replace(one, id="same", tpot_s=0.013), replace(one, id="apart", tpot_s=0.015), replace(one, id="load", concurrency=999, tpot_s=0.1)]
    assert contradicted([one, *others[:1]]) == set()
    assert contradicted([one, *others]) == {"run 0", "same", "apart"}


def test_the_fit_finds_what_was_added():
    truth, luck = Host(0.0012, 1.5, 0.025), np.random.default_rng(3)
    runs, rows = [], []
    for run in made(60):
        tpot, steps, shared, alone = 0.004 + 0.0001 * run.concurrency, 1.1, 0.0004 + 0.00003 * run.concurrency, 0.05 + 0.001 * run.concurrency
        pace = (tpot + steps * (truth.host_s + 0.5 * shared)) * luck.lognormal(0, 0.01)
        ttft = alone + setup_of(run).wait_steps * pace + truth.frontend_s
        runs.append(replace(run, tpot_s=pace, ttft_s=ttft))
        rows.append(Predicted(id=run.id, tpot_s=tpot, ttft_s=alone, alone_ttft_s=alone, steps=steps, collective_s=shared))
    runs[0] = replace(runs[0], tpot_s=1.0)  # one that is off by a hundred moves nothing
    found = fit_hosts(runs, rows).fitted["vllm", "0.19.x"]
    assert found.collective == 1.5
    assert abs(found.host_s - truth.host_s) < 2e-4
    assert abs(found.frontend_s - truth.frontend_s) < 2e-3


def test_a_run_has_the_latest_series_before_it(runs):
    hosts = Hosts({("vllm", "0.x"): Host(0.001), ("vllm", "0.9.x"): Host(0.002), ("vllm", "0.17.x"): Host(0.003)})
    versions = {"": 0.001, "0.10.2": 0.002, "0.17.0": 0.003, "0.30": 0.003, "nightly-abc": 0.003}
    assert {v: hosts.of("vllm", replace(runs["f"], version=v).series).host_s for v in versions} == versions
    assert hosts.of(runs["a"].engine, runs["a"].series) == Host()
    assert {engine for engine, _ in read_hosts().fitted} == {"vllm", "sglang", "trtllm"}


def test_errors_and_pages():
    luck = np.random.default_rng(1)
    runs = [replace(run, tpot_s=0.01, ttft_s=0.1) for run in made(200)]
    rows = [
        Predicted(id=r.id, tpot_s=0.01 * f, ttft_s=0.12, static_tpot_s=0.02, static_ttft_s=0.05)
        for r, f in zip(runs, luck.uniform(0.9, 1.1, 200), strict=True)
    ]
    rows[3] = Predicted(id=runs[3].id, why="no kernels")
    judged = [(run, row) for run, row in zip(runs, rows, strict=True) if run.judged and not row.why]
    off = np.abs([row.tpot_s / 0.01 - 1 for _, row in judged])
    errors = errors_of("x", judged)
    assert errors.tpot_median == pytest.approx(np.median(off))
    assert errors.ttft_median == pytest.approx(0.2)
    assert errors.static_tpot_median == 1.0
    found = compared(runs, rows, read_hosts(), runs, "dsim validate --silicon")
    assert found.ok is True
    assert found.all_judged[0].runs == len(judged) == len(found.cells)
    again = SiliconComparison.from_json(found.to_json(), "silicon.json", "run it again")
    assert again == found
    assert sum(one.runs for one in found.concurrencies) == len(judged)
    assert [table.name for table in silicon_tables(found)] == ["judged", "engines", "groups", "concurrency", "lengths", "added", "left-out"]
    assert "vllm Qwen3-32B bf16 h100_sxm" in markdown(silicon_page(found))


def test_a_run_against_its_replica():
    """Steps of 10 ms whatever is in them: TPOT is a step, TTFT of those that come later what is left of one, the prompt's, and two ahead."""
    keys, flat = np.array([1.0, 16_384.0]), np.full(2, 0.010)
    table = CostTable(np.zeros(1), np.array([1.0]), {(0.0, 1.0): Curve(keys, np.full(2, 1e-9), np.empty(0), np.empty(0))}, "linear", 1.0, 16_384.0)
    prices = Priced(keys, flat - 0.001, np.full(2, 0.001), flat, np.zeros(2), table, table, 0.0, 1 << 20, None, (), ())
    run = replace(made(1)[0], concurrency=4, output_tokens=32)
    bare, slower = play(run, prices, Host()), play(run, prices, Host(0.002, 2.0, 0.1))
    assert bare.tpot_s == pytest.approx(0.010, rel=1e-6)
    assert slower.tpot_s == pytest.approx(0.013, rel=1e-6)
    assert 0.010 < bare.ttft_s < 0.020
    assert seen_s(run, slower, Host(0.002, 2.0, 0.1)) == pytest.approx(slower.ttft_s + 2 * slower.tpot_s + 0.1)
