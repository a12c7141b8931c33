"""Does it fit, and how much KV: from the package's memory model."""

from __future__ import annotations

from dataclasses import replace

from simulator.errors import DsimError
from simulator.measurements.profile import KvMemory
from simulator.study.estimate.package import CONTEXT, Deployment, Memory, memory_of

LEAST_TOKENS = 4096  # of context that a replica must hold
_PAGE_TOKENS = {"vllm": 16, "sglang": 1, "trtllm": 32}
_WIDTHS = (1, 2, 4, 8, 16, 32)


def kv_memory(of: Deployment, step_tokens: int, requests: int, fraction: float | None, beside_bytes: float = 0.0) -> tuple[KvMemory, Memory]:
    """KV of a replica, `beside_bytes` (a drafter's weights, over all its GPUs) taken off. Raises DsimError where the model does
    not fit, with the least parallelism that does, and the share of memory if it was given."""
    memory = memory_of(of, step_tokens, requests, fraction)
    left = memory.kv - beside_bytes / of.gpus
    if left < LEAST_TOKENS * memory.token / of.pp:
        problem, remedy = _too_much(of, memory, beside_bytes), _least(of, step_tokens, requests, fraction, beside_bytes)
        if fraction is None:
            raise DsimError(problem, where=of.model, key="--tp", remedy=remedy)
        raise DsimError(
            f"{problem}, at {fraction:g} of memory", where=of.model, key="--memory-fraction", remedy=f"raise it; with it as it is {remedy}"
        )
    share = f"{memory.fraction:.3g} of {'what is free' if memory.of_free else 'all memory'}"
    note = f"{share}; KV bytes per token at {CONTEXT:,} tokens a request, over the GPUs of a tensor-parallel group"
    return KvMemory(
        provenance="estimated", source="the package's memory model", note=note, bytes_per_token=memory.token * of.tp,
        memory_bytes=left * of.gpus, page_tokens=_PAGE_TOKENS[of.engine],
    ), memory  # fmt: skip


def _too_much(of: Deployment, memory: Memory, beside: float) -> str:
    parts = f"weights {memory.weights / 1e9:.1f} GB" + (f", drafter {beside / of.gpus / 1e9:.1f} GB" if beside else "")
    allowed = memory.gpu if memory.of_free else memory.gpu * memory.fraction
    return f"does not fit on {of.system} at TP {of.tp}: {parts} and {memory.beside / 1e9:.1f} GB beside, of {allowed / 1e9:.1f} GB a GPU"


def _least(of: Deployment, step_tokens: int, requests: int, fraction: float | None, beside: float) -> str:
    """The least tensor parallelism that fits, experts spread as before."""
    for tp in (width for width in _WIDTHS if width > of.tp and width % of.tp == 0):
        wider = replace(
            of, tp=tp, moe_tp=of.moe_tp and of.moe_tp * tp // of.tp, moe_ep=of.moe_ep if of.moe_tp else of.moe_ep and of.moe_ep * tp // of.tp
        )
        try:
            memory = memory_of(wider, step_tokens, requests, fraction)
        except DsimError:
            continue
        if memory.kv - beside / wider.gpus >= LEAST_TOKENS * memory.token / of.pp:
            return f"--tp {tp} is the least that does"
    return "use more GPUs (--pp), a smaller quantisation, or a system with more memory"
