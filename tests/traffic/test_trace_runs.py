"""Runs of traces: the numbers worked out by hand, and what a run says of what it read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Content, Dsim
from tests.traffic.trace_rows import bailian, mooncake, words

TOY: Content = {
    "format": 1,
    "name": "toy",
    "hardware": "toy",
    "engine": "toy",
    "target": "toy",
    "gpus_per_replica": 1.0,
    "costs": {
        "verify": {"provenance": "synthetic", "kind": "curve", "base_s": 0.01, "per_token_s": 1e-4, "measured_tokens": [1, 100_000]},
        "prefill": {"provenance": "synthetic", "kind": "linear", "base_s": 0.01, "per_token_s": 1e-4},
        "overhead": {"provenance": "synthetic", "seconds": 0.0},
    },
}


@pytest.fixture
def run(world: Path, dsim: Dsim, sketched: None) -> Callable[..., Content]:
    """Run one policy on a trace at its own speed; its mean row, with what the result says of the trace."""
    (world / "toy").mkdir()
    (world / "toy" / "profile.yaml").write_text(yaml.safe_dump(TOY))
    policies = [{"name": "plain", "verification": {"kind": "none"}}]

    def call(path: Path, **keys: Any) -> Content:
        content = {
            "name": "t",
            "profile": "toy",
            "policies": policies,
            "load": [1],
            "run": {"warmup_s": 0, "replications": 1},
            "workload": {"trace": {"path": str(path), **keys}},
        }
        (world / "t.yaml").write_text(yaml.safe_dump(content))
        said = dsim("run", "t.yaml", "--out", f"out-{path.name}", "--format", "json")
        assert said.code == 0, said.err
        result = json.loads(said.out)
        (row,) = csv.DictReader((world / f"out-{path.name}" / "points.csv").open())
        return row | {"trace": result["trace"], "conditions": result["conditions"]}

    return call


def test_a_run_of_bailian_is_that_of_the_requests_worked_out_by_hand(run: Callable[..., Content], file: Callable[..., Path]) -> None:
    right = run(Path(__file__).parent / "turns.csv")
    row = run(file(bailian()), prefix_cache="infinite")
    assert float(row["ttft_p50_s"]) == pytest.approx(0.0671, abs=5e-5)
    assert float(row["busy_fraction"]) == pytest.approx(0.257, abs=5e-4)
    assert row["verdict"] == "stable"
    assert all(row[name] == right[name] for name in row if name.endswith(("_s", "_fraction")))
    assert f"Trace: {row['trace']}." in row["conditions"]
    assert "60 requests in 59.1 s" in row["trace"]


def test_a_run_of_blocks_of_128_tokens(run: Callable[..., Content], file: Callable[..., Path]) -> None:
    """After the first, 512 to 768 tokens are new: 61 to 87 ms."""
    row = run(file(mooncake(128)), prefix_cache="infinite")
    assert float(row["ttft_p50_s"]) == pytest.approx(0.074, abs=1e-6)
    assert "prefix blocks of 128 tokens (inferred" in row["trace"]


def test_a_window_says_what_is_read_and_what_is_played(file: Callable[..., Path]) -> None:
    path = file(mooncake(512))
    assert words(path, window_s=[0, 10]) == (
        "40 requests in 39 s, 1 per second on average; arrivals in milliseconds, hash_ids not used (prefix_cache: none); "
        "played: 10 requests in 9 s, 1 per second on average"
    )


def test_the_terminal_says_what_was_read_and_a_refusal_writes_nothing(world: Path, dsim: Dsim, scenario: Callable[..., Path], sketched: None) -> None:
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},50,5\n" for i in range(12)))
    workload = {"trace": {"path": "t.csv"}}
    path = scenario(workload=workload, load=[1], run={"warmup_s": 0})
    said = dsim("run", path, "--out", "out")
    assert "12 requests in 11 s, 1 per second on average; arrivals in seconds" in " ".join(said.out.split())
    late = dsim("run", path, "--out", "other", "--set", "run.warmup_s=20")
    assert late.code == 2
    assert "12 requests in 11 s" in late.err
    refused = dsim("run", path, "--out", "none", "--set", "workload.trace.columns={arrival: when}")
    assert refused.code == 2
    assert "workload.trace.columns.arrival" in refused.err
    assert "arrival_s" in refused.err
    assert not (world / "none").exists()


@pytest.mark.parametrize(
    ("name", "more", "file"),
    [
        ("azure-2023-conversation", [], "arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,5\n"),
        ("qwen-bailian-coder", ["--sessions"], "session,pause_s,prompt_tokens,output_tokens\na,0,5,5\na,9,20,5\n"),
    ],
)
def test_the_remedy_for_a_trace_that_is_not_here_works(world: Path, dsim: Dsim, name: str, more: list[str], file: str) -> None:
    said = dsim("traces", "show", name, *more)
    assert (said.code, said.err.rpartition(" or pass ")[2]) == (2, "--set path=FILE\n")
    (world / "FILE").write_text(file)
    assert "2 requests" in dsim("traces", "show", name, *more, "--set", "path=FILE").out


def test_a_trace_is_shown_without_a_run(file: Callable[..., Path], world: Path, dsim: Dsim) -> None:
    path = file(mooncake(128))
    said = dsim("traces", "show", path, "--set", "prefix_cache=infinite")
    assert said.out.splitlines() == [
        "40 requests in 39 s, 1 per second on average; arrivals in milliseconds, prefix blocks of 128 tokens (inferred from hash_ids)",
        "prompt tokens: mean 1,149, p50 1,152, p90 1,280, p99 1,280, max 1,280",
        "cached tokens: mean 499, p50 512, p90 512, p99 512, max 512",
        "output tokens: mean 20, p50 20, p90 20, p99 20, max 20",
    ]
    told = json.loads(dsim("traces", "show", path, "--set", "unit=s", "--format", "json").out)
    assert (told["requests"], told["span_s"], told["tokens"]["prompt"]["max"]) == (40, 39_000.0, 1280)
    assert "cached" not in told["tokens"]
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens,domain\n0,5,5,chat\n1,5,5,code\n")
    assert dsim("traces", "show", "t.csv").out.splitlines()[-1] == "domains: chat 1, code 1"
    assert dsim("traces", "show", "t.csv", "--set", "window_s=[0, 1]").out.splitlines()[-1] == "domains: chat 1, code 0"
    for arguments, says in (
        (["none.csv"], "none.csv: no such file"),
        (["azure-2023-cod"], "did you mean 'azure-2023-code'?"),
        (["t.csv", "--set", "unit=hours"], "unit"),
        (["t.csv", "--set", "units=s"], "did you mean 'unit'?"),
    ):
        said = dsim("traces", "show", *arguments)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
        assert says in said.err
