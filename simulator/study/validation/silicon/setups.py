"""How the servers and clients of the sample's runs were set: from InferenceMAX's public scripts, and from engines' defaults where there are none."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.policies.prefill import Chunked, Prefill, Separate
from simulator.study.validation.silicon.sample import Run

RATIO, PER_USER = 0.8, 10  # lengths uniform in [0.8 n, n]; ten prompts per concurrent one
_AHEAD = 2.0  # steps that are planned before a new request can be in one, and the step after which its token is sent: asynchronous schedulers
_POLL = 10, 30  # decode steps between two looks for new requests: SGLang below 16 users, from 16 on (--scheduler-recv-interval)


@dataclass(frozen=True)
class Setup:
    """`wait_steps`: decode steps in the mean until a request that came is in a step, beyond the end of that which runs."""

    prefill: Prefill
    ratio: float
    prompts: int
    wait_steps: float


def setup_of(run: Run) -> Setup:
    """The setup of a run that can be simulated."""
    ratio = RATIO if run.inferencemax else 1.0
    return Setup(_prefill(run), ratio, PER_USER * run.concurrency, _AHEAD + _held_back(run))


def _prefill(run: Run) -> Prefill:
    users, prompt = run.concurrency, run.prompt_tokens
    dp = run.of.dp if run.of else 1
    if run.engine == "vllm":
        return Chunked(token_budget=8192 * dp)
    if run.engine == "sglang":
        large = run.inferencemax and not (run.precision == "fp4" or (run.system == "h200_sxm" and "Qwen" in run.model))
        return Separate(max_tokens=32768 if large else 16384 if run.inferencemax else 8192)
    if "gpt-oss" in run.model:
        return Chunked(token_budget=20000 * dp)
    if "Llama-3.1-70B" in run.model:
        return Chunked(token_budget=16384)
    least = prompt + 128 + (users // dp if run.system == "h200_sxm" else users)
    return Chunked(token_budget=(max(least, 0 if run.system == "h200_sxm" and run.inferencemax else 8192)) * dp)


def _held_back(run: Run) -> float:
    """Steps in the mean in which a scheduler holds new requests back on purpose."""
    if run.engine == "sglang" and run.inferencemax and run.system != "h200_sxm" and "GLM" not in run.model:
        return _POLL[run.concurrency >= 16] / 2
    if run.engine == "trtllm" and run.inferencemax:
        if "Llama-3.1-70B" in run.model and run.prompt_tokens == run.output_tokens == 1024 and run.of and run.of.tp < 8:
            return _gathered(run, 20)
        if run.of and run.of.dp > 1 and "DeepSeek" in run.model:
            return _gathered(run, 60)
    return 0.0


def _gathered(run: Run, steps: int) -> float:
    """Requests wait for others, `steps` at most: the first of them all of that, those that come meanwhile half."""
    coming = run.concurrency / (0.9 * run.output_tokens) * steps
    return steps * (1 + coming / 2) / (1 + coming)
