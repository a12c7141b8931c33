"""A sealed scenario of a benchmark client, and result files that its cells would have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.study.sealed.seal import Seal, read_seal
from tests.conftest import SCENARIO, Content, Dsim

CLIENT: Content = {
    "workload": {
        "arrivals": {"kind": "benchmark", "client": "vllm", "prompts_per_concurrency": 4},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "fixed", "tokens": 20},
        "domains": {"chat": 2, "code": 1},
    },
    "policies": SCENARIO["policies"][:2],
    "load": [2, 6],
    "sla": None,
}
Write = Callable[..., Path]


@pytest.fixture
def sealed(world: Path, scenario: Callable[..., Path], dsim: Dsim) -> Seal:
    """seal.json of small.yaml, two policies at two loads."""
    scenario(**CLIENT)
    said = dsim("predict", "small.yaml", "--seal", "seal.json", "--workers", 1)
    assert said.code == 0, said
    return read_seal(world / "seal.json")


@pytest.fixture
def result_file(world: Path, sealed: Seal) -> Write:
    """Write the result file of a client that measured a cell at `factor` times its predicted speed; returns its path."""

    def write(name: str, policy: str, load: float, factor: float = 1.0, **changes: Any) -> Path:
        cell = sealed.conditions[0].cell(policy, load)
        assert cell is not None
        path, speed = world / name, cell.numbers["tps_per_user"].value * factor
        throughput = cell.numbers["throughput_tok_s"].value * factor
        tokens = int(cell.requests) * 20
        content = {
            "date": "20200101-000000", "model_id": "small", "num_prompts": int(cell.requests), "completed": int(cell.requests), "failed": 0,
            "request_rate": "inf", "max_concurrency": int(load), "total_input_tokens": int(cell.requests) * 50, "total_output_tokens": tokens,
            "output_throughput": throughput, "duration": tokens / throughput, "mean_tpot_ms": 1000 / speed, "mean_ttft_ms": 5.0,
        }  # fmt: skip
        path.write_text(json.dumps(content | changes))
        return path

    return write
