"""vLLM's own counters of its prefix cache, request by request, against dsim's cache: recorded by benchmarks/engines/sessions.py."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.engines.plan import VLLM
from benchmarks.engines.sessions import POLICIES, Said, simulated, turns, usable
from simulator.policies.prefix_cache import Lru

SHARED = {"eagle3": {13: 96, 33: 32}}  # tokens that would be found beside these if a block computed again took no memory of its own
FILE = Path(__file__).with_name("vllm_prefix_hits.csv")  # vLLM 0.32.0 on a CPU, SmolLM2-135M-Instruct


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_finds_what_it_found_in_vllm(name: str) -> None:
    rows = [{key: value if key == "policy" else int(value) for key, value in row.items()} for row in csv.DictReader(FILE.open())]
    mine = [row for row in rows if row["policy"] == name]
    said = [Said(spec, [0] * row["prompt"], [0] * row["output"], row["last"], row["vllm"]) for spec, row in zip(turns(), mine, strict=True)]
    assert [each.spec.prompt_tokens for each in said] == [row["prompt"] for row in mine]
    policy, blocks = VLLM.policy(name), usable(name, mine[0]["blocks"])
    found = simulated(said, POLICIES[name], blocks, bool(policy.drafter), policy.length + 1)
    assert found == [each.found for each in said]
    shared = simulated(said, POLICIES[name].model_copy(update={"keeps_copies": False}), blocks, bool(policy.drafter), policy.length + 1)
    apart = {number: dsim - each.found for number, (each, dsim) in enumerate(zip(said, shared, strict=True)) if dsim != each.found}
    assert apart == SHARED.get(name, {})
    assert sum(found) < sum(simulated(said, Lru(), 10_000, False, 1))  # the memory is small enough to tell
