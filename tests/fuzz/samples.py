"""Small valid files of every format that dsim reads, by name: what is mutated, and what a case of the corpus changes."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.study.profiles.about import without_head
from tests.conftest import PROFILE, ROOT, SCENARIO
from tests.exchange import engine_files as engines
from tests.planning.conftest import PLAN
from tests.report.synthetic_plan import plan
from tests.report.synthetic_result import example, row, validation
from tests.traffic.trace_rows import bailian, mooncake

Files = Mapping[str, bytes]


def _yaml(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False).encode()


def as_json(content: Any) -> bytes:
    """A JSON file."""
    return json.dumps(content).encode()


def _lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(text: str) -> bytes:
    return text.replace(" ", "\n").encode() + b"\n"


@cache
def blocks(head: bool) -> bytes:
    """Recorded blocks of the tiny profile's drafters."""
    conditional = {"chat": [0.7, 0.6, 0.5], "code": [0.9, 0.8, 0.8]} if head else {"chat": [0.8], "code": [0.9]}
    made = ParametricAcceptance(conditional=conditional, miscalibration=[1.0], sequences_per_domain=2, anchors_per_sequence=12).generate("a")
    with tempfile.TemporaryDirectory() as folder:
        (made if head else without_head(made)).save(Path(folder) / "b.parquet")
        return (Path(folder) / "b.parquet").read_bytes()


VERIFY = _csv(
    "tokens,requests,context_tokens,p10_s,p50_s,p90_s,n,regime 1,1,0,.009,.01,.011,20,graph 8,1,0,.01,.011,.013,20,graph 64,1,0,.02,.022,.03,20,"
    "eager 1,8,0,.01,.011,.012,20,graph 8,8,0,.011,.012,.013,20,graph 64,8,0,.02,.023,.03,20,eager"
)
TABLES: dict[str, Any] = {
    "verify": {"provenance": "measured", "kind": "table", "file": "verify.csv", "between": "linear"},
    "overhead": {"provenance": "synthetic", "seconds": 0.001},
    "prefill": {"provenance": "measured", "kind": "table", "file": "prefill.csv"},
}


def _profile(**changes: Any) -> dict[str, bytes]:
    content = PROFILE | {"environment": {"gpu": {"name": "one", "count": 1}, "driver": "1.2"}, "notes": ["made up"]} | changes
    return {"tiny/profile.yaml": _yaml(content), "tiny/head.parquet": blocks(True), "tiny/mtp.parquet": blocks(False),
            "tiny/published/speed.csv": _csv("concurrency,tps_per_user 1,90 4,80 10,70")}  # fmt: skip


@cache
def blocks_alone() -> Files:
    """Recorded blocks by themselves."""
    return {"b.parquet": blocks(True)}


@cache
def profile() -> Files:
    """A fitted curve, two drafters and a published table."""
    return _profile(kv={"provenance": "synthetic", "bytes_per_token": 1000.0, "memory_bytes": 1e9})


@cache
def acceptance() -> Files:
    """An acceptance of three slots."""
    domains = {
        name: {"kind": name, "accepted_length": length, "conditional": [0.8, 0.7, 0.6], "shape": shape}
        for name, length, shape in (("chat", 2.4, "published"), ("code", 3.2, "carried over"))
    }
    about = {"format": 1, "name": "mine", "target": "Qwen3-8B", "family": "dspark", "gamma": 3, "confidence": True, "temperatures": [1, 1.5, 2.0]}
    about |= {"provenance": "fitted", "source": "a paper", "sample": "some", "domains": domains, "unknown": ["much"], "notes": []}
    return {"mine/acceptance.yaml": _yaml(about), "mine/blocks.parquet": blocks(True)}


def tables() -> Files:
    """A profile whose costs are all measured tables."""
    drafters = json.loads(json.dumps(PROFILE["drafters"]))
    drafters["head"]["draft"] = {"provenance": "measured", "kind": "table", "file": "draft.csv"}
    files = _profile(costs=TABLES, drafters=drafters)
    return files | {"tiny/verify.csv": VERIFY, "tiny/draft.csv": _csv("requests,p50_s 1,.001 8,.002 64,.004"),
                    "tiny/prefill.csv": _csv("tokens,context_tokens,p50_s 64,0,.01 256,0,.02 64,256,.012 256,256,.024")}  # fmt: skip


@cache
def scenario() -> Files:
    """A scenario with every part that needs no file of its own."""
    more = {"fleet": {"replicas": 2, "routing": {"kind": "least_loaded"}}, "notes": ["a note"], "baseline": "plain"}
    check = {
        "kind": "curve",
        "policy": "plain",
        "table": "speed",
        "metric": "tps_per_user_mean",
        "y": "tps_per_user",
        "between": [1, 10],
        "limit_rms": 0.1,
    }
    return profile() | {"small.yaml": _yaml(SCENARIO | more | {"validation": [check]})}


@cache
def yaml_text() -> Files:
    """Each form of YAML once."""
    text = "a: 1\nb: [x, 2.5, ~]\nc:\n  - {d: true, e: 'it''s'}\n  - \"q\"\nf: &g {h: 1}\ni: {<<: *g, j: |-\n    k}\nl: *g\n"
    return {"a.yaml": text.replace("{<<: *g, j: |-\n    k}", "{j: 0}\nm: |-\n  k").encode()}


@cache
def set_options() -> Files:
    """A scenario and values of --set, one a line."""
    options = ["name=other", "load=[1, 2]", "run.replications=3", "policies.1.verification={kind: fixed, length: 1}", "engine.max_batch=16",
               "workload.output_tokens.mean_tokens=30.5", "sla.tps_per_user=[80, 90]"]  # fmt: skip
    return scenario() | {"set.txt": ("\n".join(options) + "\n").encode()}


@cache
def plan_file() -> Files:
    """A plan."""
    return profile() | {"plan.yaml": _yaml(PLAN)}


@cache
def with_trace() -> Files:
    """A scenario that plays a trace, with lengths and pauses from files in another."""
    trace = {"trace": {"path": "trace.csv", "window_s": [0, 60]}, "domains": {"chat": 1}}
    return profile() | {"small.yaml": _yaml(SCENARIO | {"workload": trace, "load": [1.0]}), "trace.csv": TRACES["plain"]}


@cache
def with_files() -> Files:
    """A closed loop whose lengths and pauses are columns of files."""
    workload = SCENARIO["workload"] | {
        "arrivals": {"kind": "closed_loop", "think_s": {"kind": "empirical", "path": "pauses.csv", "column": "pause_s"}},
        "output_tokens": {"kind": "empirical", "path": "lengths.csv", "column": "output_tokens"},
    }
    return profile() | {"small.yaml": _yaml(SCENARIO | {"workload": workload}), "pauses.csv": _csv("pause_s 1.5 2 0 4"),
                        "lengths.csv": _csv("prompt_tokens,output_tokens 10,20 30,5 7,9 100,60")}  # fmt: skip


TRACES: dict[str, bytes] = {
    "plain": _csv("arrival_s,prompt_tokens,output_tokens 0,10,2 0.5,20,3 1.25,30,4 2,40,5 3,5,60"),
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
        b"2024-05-12 00:00:0%d.%d00000,%d,%d\n" % (i // 2, i, 100 + i, 10 + i) for i in range(8)),
    "semicolons": b"sep=;\r\narrival_s;prompt_tokens;output_tokens;domain\r\n0;10;2;chat\r\n0,5;20;3;code\r\n1,25;30;4;chat\r\n",
}  # fmt: skip


def trace(name: str) -> Callable[[], Files]:
    """A trace in a dialect of CSV."""
    return lambda: {"t.csv": TRACES[name]}


@cache
def mooncake_trace() -> Files:
    """JSON lines with hash_ids."""
    return {"t.jsonl": _lines(mooncake(512, 3))}


@cache
def bailian_trace() -> Files:
    """JSON lines of chats."""
    return {"t.jsonl": _lines(bailian()[:5])}


@cache
def spans() -> Files:
    """OTLP JSON lines with two requests of a conversation."""
    lines = []
    for start in (10**18, 10**18 + 5 * 10**9):
        has: dict[str, Any] = {"gen_ai.operation.name": {"stringValue": "chat"}, "gen_ai.conversation.id": {"stringValue": "c"}}
        has |= {"gen_ai.usage.input_tokens": {"intValue": f"{start // 10**8 - 10**10 + 20}"}, "gen_ai.usage.output_tokens": {"intValue": 9}}
        span = {"traceId": "t", "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 10**9)}
        span |= {"attributes": [{"key": key, "value": value} for key, value in has.items()]}
        lines.append({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    return {"t.jsonl": _lines(lines)}


@cache
def weka() -> Files:
    """A conversation of two requests with hashed blocks."""
    call = {"type": "n", "t": 0.0, "in": 100, "out": 20, "hash_ids": [1, 2], "api_time": 2.0}
    more = call | {"t": 9.0, "in": 150, "hash_ids": [1, 3, 4], "think_time": 0.5}
    return {"t.jsonl": _lines([{"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": [call, more]}])}


@cache
def array_trace() -> Files:
    """A JSON array."""
    return {"t.json": as_json(mooncake(512, 4))}


@cache
def service() -> Files:
    """Two ServeGen clients with two windows of ten minutes."""
    files = {"service/chunk-0-trace.csv": b"0,1.0,1.0,Weibull,1.0,1.0\n600,1.0,1.0,Gamma,1.0,1.0\n",
             "service/chunk-1-trace.csv": b"0,0,0,,0,0\n600,4.0,2.0,Weibull,0.55,1.0\n"}  # fmt: skip
    for number, (prompt, output) in enumerate((("{100: 0.5, 300: 0.5}", "{10: 1.0}"), ("{7: 1.0}", "{20: 0.25, 40: 0.75}"))):
        times = {"0": {"input_tokens": prompt, "output_tokens": output}, "600": {"input_tokens": "{}", "output_tokens": "{}"}}
        files[f"service/chunk-{number}-dataset.json"] = as_json(times)
    return files


@cache
def run_result() -> Files:
    """result.json of a run."""
    content = _short(example(("MTP-1", "DSpark-5"), (5, 40)))
    return {"result.json": as_json(content), "other/result.json": as_json(content)}


def _short(content: dict[str, Any]) -> dict[str, Any]:
    """A result with a few points of what was published: most of a mutant's time is its size."""
    return content | {"published": [curve | {"points": curve["points"][:3]} for curve in content["published"][:2]]}


@cache
def launched_run() -> Files:
    """result.json of a run of a scenario that is there with its profile."""
    content = _short(example(("plain", "MTP-1"), (2,)))
    content["scenario"] |= {"file": "small.yaml", "content": SCENARIO}
    return scenario() | {"result.json": as_json(content)}


@cache
def plan_result() -> Files:
    """result.json of a plan."""
    return {"result.json": as_json(plan(["plain", "MTP-1", "DSpark-5", "oracle"], [40.0, 80.0]).to_json())}


@cache
def launched_plan() -> Files:
    """result.json of a plan whose profile is there."""
    content = plan(["plain", "MTP-1", "scheduled"], [40.0, 80.0]).to_json()
    content["plan"] |= {"file": "plan.yaml", "content": PLAN}
    return plan_file() | {"result.json": as_json(content)}


@cache
def validation_files() -> Files:
    """A comparison of docs/validation."""
    content = {"name": "paper", "title": "a paper", "system": "made up", "sources": ["a table"], "command": "dsim validate", "dsim_version": "0.1.0",
               "conditions": ["none"], "assumed": ["all"], "not_identifiable": []}  # fmt: skip
    content |= {"fits": {"costs": {"verify": {"base_s": 0.01}, "prefill": {}, "clock_s": 0.1, "left_over": 0.01, "evaluations": 5}}}
    return {"results/paper.json": as_json(content | validation() | {"points": [], "ok": False})}


def sps(form: str) -> Callable[[], Files]:
    """An SPS table of SGLang, sampled or additive."""
    return lambda: {"sps.json": as_json(engines.SAMPLED if form == "sampled" else engines.ADDITIVE)}


@cache
def sglang_records() -> Files:
    """A dump of decode steps, an SPS table and a calibration."""
    return {"records.json": as_json(engines.dump()), "sps.json": as_json(engines.SAMPLED), "sts.json": as_json(engines.STS)}


@cache
def vllm_curves() -> Files:
    """Cost curves and two scrapes of /metrics."""
    return {"curves.json": as_json(engines.CURVES), "metrics.txt": engines.METRICS.encode(), "before.txt": _tenth(engines.METRICS).encode()}


def _tenth(scrape: str) -> str:
    """An earlier scrape: every counter of the drafts at a tenth."""
    return re.sub(r"^(vllm:.*\}) (\d+)0\.0$", r"\1 \2.0", scrape, flags=re.MULTILINE)


@cache
def bench() -> Files:
    """Two results of vllm bench serve, the second as JSON lines."""
    return {"a.json": as_json(engines.bench(4, 0.02)), "b.jsonl": _lines([engines.bench(16, 0.025), engines.bench(32, 0.03)])}


@cache
def named_drafter() -> Files:
    """Cost curves and a scrape, and the name of the drafter that they are imported as."""
    return vllm_curves() | {"name.txt": b"mtp-2.v1"}


@cache
def aiperf() -> Files:
    """Two exports of AIPerf."""
    return {"a.json": as_json(engines.aiperf(4, 0.02)), "b.json": as_json(engines.aiperf(32, 0.03))}


@cache
def guidellm() -> Files:
    """A report of GuideLLM with three benchmarks."""
    return {"a.json": as_json(engines.guidellm([(4, 0.02), (16, 0.025), (32, 0.03)]))}


@cache
def recorded_run() -> Files:
    """A vLLM run as LLMServingSim's bench records it."""
    meta = {"model": "m", "vllm_version": "0.19.0",
            "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8, "max_num_batched_tokens": 256, "data_parallel_size": 1}}  # fmt: skip
    rows = [{"request_id": f"b{i}", "input_toks": 40 + i, "output_toks": 10, "arrival_time": 1000.0 + i, "queued_ts": 100.5 + i,
             "first_token_ts": 101.0 + i, "last_token_ts": 102.0 + i} for i in range(6)]  # fmt: skip
    series = "t,prompt_throughput,gen_throughput,running,waiting " + " ".join(f"{t},{39 + t},10,1,0" for t in range(1, 7))
    return {"run/meta.json": as_json(meta), "run/requests.jsonl": _lines(rows), "run/timeseries.csv": _csv(series)}


@cache
def telemetry() -> Files:
    """Telemetry of production."""
    return {"telemetry.csv": _csv("concurrency,tps_per_user,throughput_tok_s_gpu 1,90,90 4,80,320 16,60,960 64,30,1920")}


@cache
def engine_runs() -> Files:
    """A run of the real engine beside its scenario."""
    requests = [(i, 0.1 * (i // 2) + 0.01 * (i % 2), 0.1 * (i // 2) + 0.05, 0.1 * (i // 2) + 0.1, 20 + i, 5, "chat") for i in range(8)]
    steps = [(0.02 * i, 0.02 * i + 0.012, 2, 0, 2, 2, 1, 3, 50, 26, 0.001) for i in range(24)]
    heads = ("request,arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens,domain",
             "start_s,end_s,requests,prefill_tokens,proposed,verified,accepted,committed,context_tokens,longest_context,overhead_s")  # fmt: skip
    about = {"policy": "MTP-1", "concurrency": 2, "open_loop": False, "prompt_numbers": [0, 1] * 4, "asked": {"load": {"turns": 2}}}
    return scenario() | {"run/run.json": as_json(about), "run/requests.csv": _table(heads[0], requests), "run/steps.csv": _table(heads[1], steps)}


def _table(header: str, rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header.split(","), *rows])
    return text.getvalue().encode()


def prompts() -> Files:
    """Prompts of dsim probe, as text and as JSON lines; of real_runner; texts of a target."""
    return {"prompts.txt": b"Why is the sky blue?\nCount to ten.\n", "prompts.jsonl": _lines([{"prompt": "Why?"}, {"prompt": "Count."}]),
            "turns.jsonl": _lines([{"turns": ["Why?", "And how?"]}, {"turns": ["Count."]}]),
            "texts.jsonl": _lines([{"texts_of": "t", "seed": 0}, {"prompt": [1, 2], "output": [3, 4], "domain": "chat", "of": 0}])}  # fmt: skip


@cache
def kept_point() -> Files:
    """A finished point of a run, as it is kept for resuming."""
    point = row("plain", 2, {"accepted_length": 1.0}).model_dump(mode="json")
    return {"points/a.json": as_json({"fingerprint": "mark", "details": [], "row": point})}


def seal() -> Files:
    """A sealed prediction of two cells, and what another tool says of them."""
    from simulator.study.sealed.seal import digest_of

    content = json.loads((ROOT / "docs" / "board" / "vllm-2026-11-29.seal.json").read_bytes())
    content["conditions"] = [condition for condition in content["conditions"] if condition["name"] == "open60"]
    content["digest"] = digest_of(content)
    others = "tool,how,condition,policy,load,metric,value\nother,asked,open60,none,0.79,tps_per_user,8.5\n"
    return {"seal.json": as_json(content), "others.csv": others.encode()}


@cache
def score() -> Files:
    """A score of two cells beside its seal."""
    from simulator.study.sealed.cells import scored_number
    from simulator.study.sealed.result import Score, ScoredCell
    from simulator.study.sealed.score import Scoring
    from simulator.study.sealed.seal import Seal

    content = json.loads(seal()["seal.json"])
    sealed = Seal.from_json(content)
    cells = tuple(
        ScoredCell(
            condition="open60", policy=cell.policy, load=cell.load, kind="rate_rps", files=("a.json",), repeats=1, requests=8, failed=0,
            numbers={name: scored_number(1.1 * told.value, told) for name, told in cell.numbers.items()},
        )
        for cell in sealed.conditions[0].cells
    )  # fmt: skip
    made = Score(
        name="a", dsim_version=sealed.dsim_version, scored_at=sealed.sealed_at, engine="vLLM", hardware="", model="", first_measured="",
        last_measured="", older=0, cells=cells, not_sealed=(), remarks=(), **Scoring(sealed, cells, {}).follows,
    )  # fmt: skip
    return {"a.score.json": as_json(made.to_json()), "a.seal.json": as_json(content)}
