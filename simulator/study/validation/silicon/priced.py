"""Prices of a run's replica: tables of its operators, in memory, and the package's own static estimate beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.composed import OperatorPrefill, OperatorVerify
from simulator.measurements.cost import Costs, Overhead
from simulator.measurements.cost_table import CostTable, Curve
from simulator.study.estimate.operators import Operators
from simulator.study.estimate.package import Deployment, memory_of
from simulator.study.estimate.tables import LEAST_S

_TOKENS = (
    1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384,
)  # fmt: skip
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_CONTEXTS = (1, 256, 512, 1024, 2048, 4096, 8192, 12_288, 16_384)
_ATTENDED = (1, 128, 512, 1024, 2048, 4096, 8192, 12_288)


@dataclass(frozen=True)
class Priced:
    """Seconds of a replica's operators by tokens (collectives apart), of attention, and tokens of KV memory."""

    tokens: Floats
    decode_s: Floats
    decode_collective_s: Floats
    prompt_s: Floats
    prompt_collective_s: Floats
    attention: CostTable
    prompt_attention: CostTable
    query_s: float
    kv_tokens: int
    operators: Operators
    modelled: tuple[str, ...]  # operators whose times are not measured
    borrowed: tuple[str, ...]

    def costs(self, host_s: float = 0.0, collective: float = 1.0) -> Costs:
        """Step costs with a host time per step and a factor on collectives."""
        verify = OperatorVerify(provenance="estimated", file="operators.csv", attention="attention.csv", query_s=self.query_s)
        verify._table = self._curve(self.decode_s + collective * self.decode_collective_s)
        verify._attention = self.attention
        prefill = OperatorPrefill(provenance="estimated", file="prompt_operators.csv", attention="prompt_attention.csv")
        prefill._table = self._curve(self.prompt_s + collective * self.prompt_collective_s)
        prefill._attention = self.prompt_attention
        return Costs(verify=verify, prefill=prefill, overhead=Overhead(provenance="estimated", seconds=host_s))

    def _curve(self, seconds: Floats) -> CostTable:
        return _table({0.0: seconds}, self.tokens)

    def collective_s(self, tokens: float) -> float:
        """Collectives of a decode step."""
        return float(np.interp(tokens, self.tokens, self.decode_collective_s))


def priced(of: Deployment) -> Priced:
    """All prices of a replica. Raises DsimError where the package cannot price it."""
    operators = Operators(of)
    tokens = np.array(_TOKENS, dtype=np.float64) * of.dp
    requests, prompts = np.array(_REQUESTS, dtype=np.float64) * of.dp, tokens[_TOKENS.index(8) :]
    decode, prompt = (np.array([one(n, 0.0) for n in tokens.tolist()]) for one in (operators.tokens_s, operators.prompt_tokens_s))
    whole, whole_prompt = (np.array([one(n, 1.0) for n in tokens.tolist()]) for one in (operators.tokens_s, operators.prompt_tokens_s))
    attention = _table({c: np.array([operators.attention_s(r, c) for r in requests.tolist()]) for c in _CONTEXTS}, requests)
    attended = _table({a: np.array([operators.prompt_attention_s(n, a) for n in prompts.tolist()]) for a in _ATTENDED}, prompts)
    memory = memory_of(of, 8192, 256)
    modelled = tuple(sorted(name for name, source in operators.sources.items() if source not in ("silicon", "mixed")))
    return Priced(
        tokens, decode, whole - decode, prompt, whole_prompt - prompt, attention, attended, operators.query_s(),
        max(int(memory.kv * of.dp / memory.token), 0), operators, modelled, tuple(sorted(operators.borrowed)),
    )  # fmt: skip


def _table(curves: dict[float, Floats], keys: Floats) -> CostTable:
    none = np.empty(0)
    table = {(0.0, float(c)): Curve(keys, np.maximum(seconds, LEAST_S), none, none) for c, seconds in curves.items()}
    return CostTable(np.zeros(1), np.array(sorted(curves), dtype=np.float64), table, "linear", float(keys[0]), float(keys[-1]))
