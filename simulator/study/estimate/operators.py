"""Kernel times of a replica's operators, from the package aiconfigurator-core (extra `estimate`).

The package prices whole steps, and speculation as if every drafted token read the cache anew. Here its operators are asked one by one, and a step
is composed of two kinds of them: those that see tokens (embedding, projections, experts, norms, collectives, the vocabulary), and those that see
requests and their context (attention). Times are in seconds here, in milliseconds there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from simulator.study.estimate.package import ENGINES, Deployment
from simulator.study.estimate.package import handle as _handle
from simulator.study.estimate.package import model_of as _model_of
from simulator.study.estimate.package import spoken as _spoken

__all__ = ["ENGINES", "Deployment", "Operator", "Operators"]

_CONTEXT = re.compile(r"Attention|Mla(?!Bmm)|Dsa|Msa|Gdn|Kda|Mamba|DeepSeekV4")  # in the names of operators that depend on the context or its state
_COLLECTIVE = re.compile(r"AllReduce|Nccl|P2P|MoeDispatch|AllToAll")
_OWN = re.compile(r"^(Generation|Context)Attention$|Gdn|Kda|Mamba|Elementwise|Embedding")  # kernels that engines choose, or formulas
_LEAST = 1.5  # times the same kernel's time under another engine: more was measured than the kernel
_PROBE = (8, 64)  # tokens at which tables are held against each other: so few that a GEMM's time is that of its weights


@dataclass(frozen=True)
class Operator:
    """An operator of the model: its wire form for the package, what it depends on, and whose table it is priced from."""

    name: str
    kind: str
    wire: str
    sees_context: bool
    collective: bool
    logits: bool
    engine: str


@dataclass
class Operators:
    """Prices of the operators of one replica. Numbers of tokens and requests are those of the replica; with data-parallel attention each rank has its
    share of them.

    Raises DsimError where the package is missing, or cannot express or price the deployment.
    """

    of: Deployment
    version: str = ""
    quantisation: dict[str, str] = field(default_factory=dict)
    generation: list[Operator] = field(default_factory=list)
    context: list[Operator] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # by operator: silicon, empirical or mixed, as the package says
    borrowed: dict[str, str] = field(default_factory=dict)  # by operator: another engine, whose table has the same operator without its launches

    def __post_init__(self) -> None:
        with _spoken(self.of):
            model, database = _model_of(self.of)
            self.version = database.version
            settings = model.config
            names = {"gemm": "gemm_quant_mode", "moe": "moe_quant_mode", "kv": "kvcache_quant_mode", "attention": "fmha_quant_mode"}
            self.quantisation = {ours: getattr(settings, theirs).name for ours, theirs in names.items() if getattr(settings, theirs) is not None}
            self.generation, self.context = (
                self._listed(model, ops, database, is_context) for ops, is_context in ((model.generation_ops, False), (model.context_ops, True))
            )

    def _listed(self, model: Any, ops: Any, database: Any, is_context: bool) -> list[Operator]:
        from aiconfigurator_core.sdk import engine as package

        package._resolve_attention_lane_orders(ops, database, getattr(model.config, "attention_backend", None))
        found = []
        for wire in json.loads(package.build_ops_json(ops)):
            kind, settings = next(iter(wire.items()))
            text = json.dumps([wire])
            name = re.sub("^(generation|context)_", "", str(settings.get("name", kind)))
            depends, collective = bool(_CONTEXT.search(" ".join(_kinds(wire)))), bool(_COLLECTIVE.search(kind))
            own = collective or _OWN.search(kind)
            engine = self.of.engine if own else self._engine_of(text, name, is_context)
            found.append(Operator(name, kind, text, depends, collective, "logits" in name, engine))
        return found

    def _engine_of(self, wire: str, name: str, is_context: bool) -> str:
        """The engine whose table prices matrix products: its own, unless another's has the same operator of the same shape so much quicker that its
        own holds more than the kernel: launches, which captured graphs do not have, or quantisation, which engines fuse."""
        times = {}
        for engine in ENGINES:
            asked = [{"batch_size": 1, "s": 16 * m} if is_context else {"batch_size": m, "s": 1024} for m in _PROBE]
            try:
                times[engine] = [_handle(self.of.system, engine).evaluate_ops_json(wire, is_context=is_context, **one)[0][1] for one in asked]
            except Exception:
                if engine == self.of.engine:
                    raise
        own = times.pop(self.of.engine)
        quick = [engine for engine, theirs in times.items() if all(a > _LEAST * b > 0 for a, b in zip(own, theirs, strict=True))]
        if not quick:
            return self.of.engine
        self.borrowed[name] = best = min(quick, key=lambda engine: sum(times[engine]))
        return best

    def _seconds(self, operator: Operator, **asked: Any) -> float:
        with _spoken(self.of):
            (_, milliseconds, _, source), *_ = _handle(self.of.system, operator.engine).evaluate_ops_json(operator.wire, **asked)
        if self.sources.get(operator.name) != "silicon":
            self.sources[operator.name] = source
        return float(milliseconds) / 1000

    def _generation_s(self, operator: Operator, requests: float, context: float) -> float:
        return self._seconds(operator, is_context=False, batch_size=self._rank(requests), s=max(round(context), 1))

    def _rank(self, count: float) -> int:
        return max(-(-round(count) // self.of.dp), 1)

    def tokens_s(self, tokens: float, collective: float = 1.0) -> float:
        """Every operator of a decode step at `tokens` tokens, none of which has any context; collectives times `collective`."""
        return sum(self._generation_s(op, tokens, 1) * (collective if op.collective else 1.0) for op in self.generation)

    def attention_s(self, requests: float, context: float) -> float:
        """What `context` cached tokens of each of `requests` requests add to a decode step: the cache is read once, whatever is verified."""
        reads = [op for op in self.generation if op.sees_context]
        return max(sum(self._generation_s(op, requests, context) - self._generation_s(op, requests, 1) for op in reads), 0.0)

    def query_s(self, context: int = 8192, tokens: int = 2048) -> float:
        """Attention's arithmetic: seconds per query token and cached token, from prompts at `context` cached tokens and at none."""
        reads = [op for op in self.context if op.sees_context]
        asked = {"is_context": True, "batch_size": 1, "s": tokens}
        more = sum(self._seconds(op, prefix=context, **asked) - self._seconds(op, prefix=0, **asked) for op in reads)
        return max(more, 0.0) / (tokens * context) / self.of.dp

    def prompt_tokens_s(self, tokens: float, collective: float = 1.0) -> float:
        """The operators of a prompt step that see its `tokens` tokens; the vocabulary at one."""
        share, total = self._rank(tokens), 0.0
        for op in self.context:
            if not op.sees_context:
                seconds = self._seconds(op, is_context=True, batch_size=1, s=share, x=1 if op.logits else share)
                total += seconds * (collective if op.collective else 1.0)
        return total

    def prompt_attention_s(self, tokens: float, attended: float) -> float:
        """Attention of `tokens` prompt tokens, each to `attended` earlier ones in the mean: as prompts of equal length that start at 0, or as the end
        of one longer prompt."""
        share = self._rank(tokens)
        prompts = max(round(share / max(2 * attended, 1.0)), 1)
        length = max(share // prompts, 1)
        prefix = max(round(attended - length / 2), 0)
        reads = [op for op in self.context if op.sees_context]
        return sum(self._seconds(op, is_context=True, batch_size=prompts, s=length, prefix=prefix) for op in reads) * share / (prompts * length)


def _kinds(wire: dict[str, Any]) -> Iterator[str]:
    """The kind of an operator and of those inside it."""
    for kind, settings in wire.items():
        yield kind
        inner = [value for value in settings.values() if isinstance(value, dict | list)] if isinstance(settings, dict) else []
        for part in [one for value in inner for one in (value if isinstance(value, list) else [value])]:
            if isinstance(part, dict):
                yield from _kinds({key: value for key, value in part.items() if isinstance(value, dict)})
