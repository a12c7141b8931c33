"""The real files, where they are: counts, means and variability as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.traffic.lengths import Empirical
from simulator.traffic.request import RequestColumns
from simulator.traffic.traces import TraceSource
from simulator.traffic.workload import Workload
from tests.traffic.trace_rows import read

pytestmark = pytest.mark.shared


def gap_cv(trace: RequestColumns) -> float:
    gaps = np.diff(trace.arrival_s)
    return float(gaps.std() / gaps.mean())


def test_azure_conversation(shared_traffic: Path) -> None:
    trace = read(shared_traffic / "azure2023" / "AzureLLMInferenceTrace_conv.csv")
    assert len(trace) == 19_366
    assert trace.arrival_s[-1] == pytest.approx(3502, abs=0.5)
    assert len(trace) / trace.arrival_s[-1] == pytest.approx(5.5, abs=0.05)
    assert gap_cv(trace) == pytest.approx(1.09, abs=0.005)
    assert trace.prompt_tokens.mean() == pytest.approx(1155, abs=0.5)
    assert np.quantile(trace.prompt_tokens, [0.5, 0.99]).tolist() == [1020, 4142]
    assert trace.output_tokens.mean() == pytest.approx(211, abs=0.5)
    assert np.quantile(trace.output_tokens, [0.5, 0.99]).tolist() == [129, 601]


def test_azure_code(shared_traffic: Path) -> None:
    trace = read(shared_traffic / "azure2023" / "AzureLLMInferenceTrace_code.csv")
    assert len(trace) == 8_819
    assert trace.arrival_s[-1] == pytest.approx(3436, abs=0.5)
    assert gap_cv(trace) == pytest.approx(13, abs=0.5)
    assert trace.prompt_tokens.mean() == pytest.approx(2048, abs=0.5)
    assert trace.output_tokens.mean() == pytest.approx(28, abs=0.5)


def test_mooncake_conversation(shared_traffic: Path) -> None:
    trace = read(shared_traffic / "mooncake_fast25" / "conversation_trace.jsonl", prefix_cache="infinite")
    assert len(trace) == 12_031
    assert trace.arrival_s[-1] == pytest.approx(3537, abs=0.5)
    assert trace.prompt_tokens.mean() == pytest.approx(12_035, abs=0.5)
    assert np.quantile(trace.prompt_tokens, 0.99) == pytest.approx(85_400, abs=1)
    assert trace.output_tokens.mean() == pytest.approx(343, abs=0.5)
    blocks = np.ceil(trace.prompt_tokens / 512)
    assert np.ceil(trace.cached_prompt_tokens / 512).sum() / blocks.sum() == pytest.approx(0.366, abs=0.0005)


def test_mooncake_synthetic_through_a_workload(shared_traffic: Path) -> None:
    source = TraceSource(path=Path("synthetic_trace.jsonl"), prefix_cache="infinite")
    specs = Workload(trace=source).open_loop(1, None, 1, 0, shared_traffic / "mooncake_fast25")
    assert len(specs) == 3_993
    assert specs[-1].arrival_s == pytest.approx(1022, abs=0.5)
    assert all(0 <= spec.cached_prompt_tokens < spec.prompt_tokens for spec in specs)


def test_a_real_column_as_lengths(shared_traffic: Path) -> None:
    path = shared_traffic / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
    lengths = Empirical(path=path, column="GeneratedTokens")
    assert lengths.expected_tokens() == pytest.approx(211, abs=0.5)
    assert lengths.at(np.array([0.5])).tolist() == [129]
