"""Kernel times of a replica's operators, from the package aiconfigurator-core (extra `estimate`).

The package prices whole steps, and speculation as if every drafted token read the cache anew. Here its operators are asked one by one, and a step
is composed of two kinds of them: those that see tokens (embedding, projections, experts, norms, collectives, the vocabulary), and those that see
requests and their context (attention). Times are in seconds here, in milliseconds there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.study.estimate.package import ENGINES, Deployment
from simulator.study.estimate.package import built as _built
from simulator.study.estimate.package import database as _database
from simulator.study.estimate.package import handle as _handle
from simulator.study.estimate.package import model_of as _model_of
from simulator.study.estimate.package import spoken as _spoken
from simulator.study.estimate.shapes import Shape, Sizes

__all__ = ["ENGINES", "Deployment", "Operator", "Operators"]

_CONTEXT = re.compile(r"Attention|Mla(?!Bmm)|Dsa|Msa|Gdn|Kda|Mamba|DeepSeekV4")  # in the names of operators that depend on the context or its state
_PER_REQUEST = re.compile(r"^Generation(Attention|Mla)$")  # kernels of attention alone, whose blocks of threads go by request
_ONCE = re.compile(r"embedding|logits|p2p")  # in the names of operators that are not of a layer
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

    @property
    def per_request(self) -> bool:
        """Does its time go by requests and their context, however many tokens of each are in the step?"""
        return bool(_PER_REQUEST.search(self.kind))


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
    _shaped: dict[Shape, Operator] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        with _spoken(self.of):
            model, database = _model_of(self.of)
            self._model = model
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
            own = collective or _OWN.search(kind) or (kind == "Gemm" and settings["quant_mode"] == "bfloat16")  # one product: nothing to fuse
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
        """The operators of a decode step that see its `tokens` tokens, none of which has any context; collectives times `collective`."""
        return sum(self._token_s(op, tokens) * (collective if op.collective else 1.0) for op in self.generation)

    def attention_s(self, requests: float, context: float) -> float:
        """Attention of a decode step, in which each of `requests` requests has `context` cached tokens: they are read once, whatever is verified."""
        return sum(self._context_s(op, requests, context) for op in self.generation)

    def layer_s(self, tokens: float) -> float:
        """The mean layer of the target as far as it sees `tokens` tokens."""
        return sum(self._token_s(op, tokens) for op in self.generation if not _ONCE.search(op.name)) / self.sizes.layers

    def _token_s(self, operator: Operator, tokens: float) -> float:
        return 0.0 if operator.per_request else self._generation_s(operator, tokens, 1)

    def _context_s(self, operator: Operator, requests: float, context: float) -> float:
        """Of a kernel by request all of it; of one that sees tokens too (projections with their attention, states) what the context adds."""
        if not operator.sees_context:
            return 0.0
        whole = self._generation_s(operator, requests, context)
        return whole if operator.per_request else max(whole - self._generation_s(operator, requests, 1), 0.0)

    def query_s(self, context: int = 8192, tokens: int = 2048) -> float:
        """Attention's arithmetic: seconds per query token and cached token, from prompts at `context` cached tokens and at none."""
        reads = [op for op in self.context if op.sees_context]
        asked = {"is_context": True, "batch_size": 1, "s": tokens}
        more = sum(self._seconds(op, prefix=context, **asked) - self._seconds(op, prefix=0, **asked) for op in reads)
        return max(more, 0.0) / (tokens * context) / self.of.dp

    def static_s(self, prompt_tokens: int, context: float, requests: float) -> tuple[float, float]:
        """The package's own static estimate, from the engine's own tables: a prompt alone, and a decode step of `requests` requests at `context`."""
        own = [replace(op, engine=self.of.engine) for op in (*self.context, *self.generation)]
        prompt = [
            self._seconds(op, is_context=True, batch_size=1, s=prompt_tokens, x=1 if op.logits else prompt_tokens) for op in own[: len(self.context)]
        ]
        return sum(prompt), sum(self._generation_s(op, requests, context) for op in own[len(self.context) :])

    @property
    def sizes(self) -> Sizes:
        """Sizes of the target, whole."""
        model, tp = self._model, self.of.tp
        attentions = [next(iter(json.loads(op.wire)[0].items())) for op in self.generation if op.sees_context]
        asked = [(kind, settings.get("n"), settings.get("n_kv"), settings.get("head_size")) for kind, settings in attentions]
        plain = ("GenerationAttention", model._num_heads // tp, -(-model._num_kv_heads // tp), model._head_size)
        heads = model._num_heads, model._num_kv_heads, model._head_size
        return Sizes(model._num_layers, model._hidden_size, model._inter_size, *heads, model._vocab_size, all(one == plain for one in asked))

    @property
    def kv_bytes(self) -> float:
        """Bytes per cached token that the target's keys and values take, on all GPUs that hold a part of them."""
        with _spoken(self.of):
            held = self._model.get_kvcache_bytes_per_sequence
            return float(held(2) - held(1)) * self.of.tp

    def priced(self, shape: Shape, tokens: float, context: float = 1) -> float:
        """An operator that is not of the target, at `tokens` tokens of the replica (of attention: requests, that hold `context` tokens each)."""
        if shape not in self._shaped:
            with _spoken(self.of):
                built = [_built(shape, self.of, self._model.config)]
                self._shaped[shape] = self._listed(self._model, built, _database(self.of.system, self.of.engine), False)[0]
        return self._generation_s(self._shaped[shape], tokens, context)

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
