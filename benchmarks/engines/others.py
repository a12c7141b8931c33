"""What another planner says of the points that dsim is judged by: AISimulate, asked in an environment of its own.

    python3.11 -m venv OTHER && OTHER/bin/pip install aisimulate==0.13.0.dev202610270000000085
    python benchmarks/engines/others.py --tool OTHER/bin/aisimulate --out docs/board/others.csv

Every question is a configuration of `aisimulate predict`, kept whole in the column `how`; nothing of the tool is imported. What it
refuses stands there too, with its own message. The error of its estimator on real runs is that of docs/validation/silicon.json. Some ten minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simulator.files import whole
from simulator.measurements.recorded_run import RecordedRun, read_recorded_run
from simulator.reading.csv_files import read_csv
from simulator.reading.json_files import read_json

ROOT = Path(__file__).resolve().parents[2]
PRO, TPU, RECORDED, CPU = "v4-pro-0813-b300", "qwen3-8b-tpu-v7x8", "vllm_qwen3_32b_rtxpro6000", "cpu-smollm2-135m-engine"
COLUMNS = ("tool", "version", "how", "condition", "policy", "load", "metric", "value", "published", "message")
PUBLISHED = ROOT / "profiles" / "deepseek-v4-pro-0813-b300" / "published"
LOADS, GPUS = (1, 16, 32, 64, 128, 256), 8
SPEED, THROUGHPUT, GAIN = "tps_per_user_mean", "throughput_tok_s_gpu", "throughput_tok_s_gpu over none"
TIMES = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "E2E": "e2e_latency_ms"}
QUANTILES = {"mean": "mean", "p50": "median", "p90": "p90", "p99": "p99"}

Content = dict[str, Any]
Ask = Callable[[Content], Content]


class Refused(Exception):
    """The tool gives no answer; the text is its own message."""


@dataclass(frozen=True)
class Question:
    """A configuration of the tool, for some cells of the board; `note` says what it has that the cells do not."""

    condition: str
    config: Content
    policy: str = ""
    load: str = ""
    note: str = ""

    @property
    def how(self) -> str:
        """The question as it can be repeated: a configuration file in one line."""
        asked = f"aisimulate predict --config FILE, FILE: {json.dumps(self.config)}"
        return f"{self.note}; {asked}" if self.note else asked


@dataclass
class Rows:
    """Rows of the table, each with a question; a refusal is a row with a message in place of metric and value."""

    ask: Ask
    version: str
    rows: list[Content] = field(default_factory=list)

    def add(self, of: Question, metric: str, value: float, published: float | None = None) -> None:
        self._row(of, metric=metric, value=f"{value:.6g}", published="" if published is None else f"{published:.6g}")

    def answer(self, of: Question) -> Content | None:
        """The tool's report, or None where it refuses, which is a row."""
        print(of.condition, of.policy, of.load, flush=True)
        try:
            return self.ask(of.config)
        except Refused as refusal:
            self._row(replace(of, load=""), message=str(refusal))
            return None

    def _row(self, of: Question, **said: str) -> None:
        about = {"tool": "aisimulate", "version": self.version, "how": of.how, "condition": of.condition, "policy": of.policy, "load": of.load}
        self.rows.append(about | said)


def speculating(length: int) -> Iterator[tuple[str, Content]]:
    """DSpark with this many tokens verified as the tool might be asked, as what it is, or as so many layers of MTP."""
    accepted = round(accepted_length(length) - 1, 4)
    draft = {"dspark_block_size": length, "dspark_target_layer_ids": [58, 59, 60], "dspark_markov_rank": 256}
    memory = {"prefix_caching": False, "block_size": 64, "bytes_per_token": 50_000, "capacity": {"type": "fixed", "bytes": 400_000_000_000}}
    yield "", {"speculation": {"kind": "dspark", "draft_config": draft, "expected_accepted_tokens": accepted}, "kv_cache": memory}
    yield (
        f"DSpark priced as {length} layers of MTP, its published accepted length given",
        {"nextn": length, "nextn_accepted": accepted},
    )


def accepted_length(length: int) -> float:
    """Published for this checkpoint, bonus included: InferenceX, coding, thinking on, as the scenario takes it."""
    table = read_csv(PUBLISHED / "accepted_length_by_k.csv")
    rows = table[(table["checkpoint"] == "v4-pro-0813") & (table["thinking"] == "on") & (table["k"] == length)]
    return float(rows["accepted_length"].iloc[0])


def pro(load: int, **engine: Any) -> Content:
    """DeepSeek-V4-Pro on 8 B300: lengths of our scenario (their means), the published parallelism and batch; three rounds of users."""
    worker: Content = {
        "parallelism": {"tensor": 8, "moe_tensor": 1, "moe_expert": 8},
        "scheduler": {"max_sequences": 256},
        "kv_cache": engine.pop("kv_cache", {"prefix_caching": False}),
    }
    return {
        "traffic": {
            "source": {"type": "synthetic", "input_tokens": 500, "output_tokens": 900},
            "load": {"type": "concurrency", "concurrency": load},
            "stop": {"requests": max(32, 3 * load)},
        },
        "engine": {
            "mode": "aggregated",
            "model": "deepseek-ai/DeepSeek-V4-Pro",
            "hardware": "b300_sxm",
            "backend": "vllm",
            "context_length": 16384,
            "workers": {"aggregated": worker},
            **engine,
        },
    }


def small(model: str, **engine: Any) -> Content:
    """The least question about a machine."""
    return {"engine": {"mode": "aggregated", "model": model, "backend": "vllm", "workers": {"aggregated": {}}} | engine}


def pro_sweep(to: Rows) -> None:
    """Every line of the sweep; speed is 1 / mean TPOT, for what the tool prints as a user's speed inverts the gaps between bursts."""
    table = read_csv(PUBLISHED / "sweep.csv")
    keys = list(zip(table["policy"], table["concurrency"], strict=True))
    total, speed = (dict(zip(keys, table[name].astype(float), strict=True)) for name in ("throughput_tok_s_total", "tps_per_user"))
    plain: dict[int, float] = {}
    for load in LOADS:
        of = Question(PRO, pro(load), "none", str(load))
        if (found := to.answer(of)) is not None:
            plain[load] = found["output_throughput_tok_s"]
            to.add(of, SPEED, 1e3 / found["mean_tpot_ms"], speed["none", load])
            to.add(of, THROUGHPUT, plain[load] / GPUS, total["none", load] / GPUS)
    for length in (1, 3, 5, 6, 7):
        for note, engine in speculating(length):
            for load in LOADS:
                of = Question(PRO, pro(load, **engine), f"fixed {length}", str(load), note)
                if (found := to.answer(of)) is None:
                    break
                published = total[f"fixed_{length}", load]
                to.add(of, SPEED, 1e3 / found["mean_tpot_ms"])
                to.add(of, THROUGHPUT, found["output_throughput_tok_s"] / GPUS, published / GPUS)
                if load in plain:
                    to.add(of, GAIN, found["output_throughput_tok_s"] / plain[load], published / total["none", load])
    adaptive = {"kind": "dspark", "params": {"num_draft_tokens": 5, "verify": "by confidence"}, "expected_accepted_tokens": 2.61}
    to.answer(Question(PRO, pro(1, speculation=adaptive), "adaptive"))


def recorded(run: RecordedRun, to: Rows) -> None:
    """The recorded run's own arrivals and lengths, as a trace in Mooncake's form."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        block, lines, used = 512, [], 0
        for arrival, prompt, output in zip(run.arrival_s, run.prompt_tokens, run.output_tokens, strict=True):
            blocks = -(-int(prompt) // block)
            row = {"timestamp": round(float(arrival) * 1e3, 3), "input_length": int(prompt), "output_length": int(output)}
            lines.append(json.dumps(row | {"hash_ids": list(range(used, used + blocks))}))
            used += blocks
        trace.write_text("\n".join(lines) + "\n")
        config = small("Qwen/Qwen3-32B", hardware="rtx_pro_6000_server")
        config["engine"]["workers"]["aggregated"] = {
            "parallelism": {"tensor": 2},
            "scheduler": {"max_sequences": run.max_batch, "max_batched_tokens": run.token_budget},
            "kv_cache": {"prefix_caching": False},
        }
        source = {"type": "trace", "paths": [str(trace)], "format": "mooncake", "block_size": block}
        config["traffic"] = {"source": source, "load": {"type": "trace_timestamps"}}
        found = to.ask(config)
    source["paths"] = [f"arrivals and lengths of {RECORDED}"]
    of = Question(RECORDED, config, "none")
    theirs = {row["what"]: row["published"] for row in read_json(ROOT / "docs" / "validation" / f"{RECORDED}.json")["rows"]}
    for name, key in TIMES.items():
        for quantile, word in QUANTILES.items():
            to.add(of, f"{name} {quantile}", found[f"{word}_{key}"] / 1e3, theirs[f"{name} {quantile}"])


def refusals(to: Rows) -> None:
    """Machines and engines of the board that the tool does not know."""
    to.answer(Question(TPU, small("Qwen/Qwen3-8B", hardware="tpu_v7x")))
    for condition in (CPU, "vllm"):
        to.answer(Question(condition, small("Qwen/Qwen3-0.6B", hardware="cpu"), note="with a model that the tool has, SmolLM2 being none of them"))
    to.answer(Question("llamacpp", small("Qwen/Qwen3-0.6B", hardware="cpu", backend="llama.cpp")))


def static_estimate() -> list[Content]:
    """The error of the estimator that came before, on the real runs that dsim predicted: taken over from the comparison."""
    result = read_json(ROOT / "docs" / "validation" / "silicon.json")
    version = str(result["sources"][0]).split()[-1]
    rows = [row for row in result["rows"] if "static estimate" in row["what"]]
    how = f"{result['command']}: a decode step of all users half way through their answers, a prompt alone ({rows[0]['n']} runs)"
    about = {"tool": "aiconfigurator-core", "version": version, "how": how, "condition": "silicon", "policy": "none"}
    return [about | {"metric": row["what"].split(" of the")[0], "value": f"{row['difference']:.4g}"} for row in rows if "median" in row["what"]]


def asker(tool: Path) -> Ask:
    """The tool as a command. Raises Refused with its message."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

    def ask(config: Content) -> Content:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "question.yaml"
            file.write_text(json.dumps(config))
            command = [str(tool), "predict", "--config", str(file), "--format", "json", "--output-dir", folder, "--overwrite"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Refused(message(done.stderr))
        report: Content = json.loads(done.stdout)
        return report

    return ask


def message(text: str) -> str:
    """A complaint in one line, without this machine's paths and what does not say why."""
    if values := re.findall(r"Value error, (.*?) \[type=", text):
        return str(values[-1])
    lines = [line.strip() for line in text.splitlines() if not re.search(r"further information|process exited|^No database", line)]
    line = re.sub(r" \[type=.*\]$", "", " ".join(line for line in lines if line))
    line = re.sub(r"^usage:.*? error: |\S*question.yaml: |/\S*/(site-packages|lib)/", "", line)
    return line.split(". Prediction will not")[0].removeprefix("aisimulate predict failed: ")[:400]


def main() -> None:
    """Ask all and write the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--tool", type=Path, required=True, help="the command aisimulate of its own environment")
    options.add_argument("--out", type=Path, required=True, help="CSV to write")
    options.add_argument("--measured", type=Path, default=ROOT.parent / "shared" / "measured", help="folder of recorded runs")
    given = options.parse_args()
    python = given.tool.parent / "python"
    version = subprocess.check_output([python, "-c", "import importlib.metadata as m; print(m.version('aisimulate'))"], text=True).strip()
    to = Rows(asker(given.tool), version)
    pro_sweep(to)
    recorded(read_recorded_run(given.measured / RECORDED), to)
    refusals(to)
    with whole(given.out) as draft, draft.open("w", newline="") as out:
        table = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows([*to.rows, *static_estimate()])


if __name__ == "__main__":
    main()
