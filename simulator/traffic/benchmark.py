"""A benchmark client: `vllm bench serve` (vllm/benchmarks/serve.py and datasets.py), SGLang's bench_serving.py, and InferenceMAX's
utils/bench_serving, which is an older one of vLLM. It sends a number of prompts and is done when all have their answers."""

from __future__ import annotations

from math import ceil, floor, inf
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, model_validator

from simulator.arrays import Floats
from simulator.quantities import MOST_TOKENS, Burstiness, Rate, Requests, RequestsOrNone, Share, Tokens, Users, Within
from simulator.traffic.lengths import Fixed, Uniform
from simulator.traffic.process import ArrivalProcess

Client = Literal["vllm", "sglang", "inferencemax"]
_RATIOS: dict[Client, float] = {"vllm": 0.0, "sglang": 0.0, "inferencemax": 1.0}  # that a client takes where its flag is not given


def _rate(value: Any) -> Any:
    return None if value in ("inf", inf) else value


class Benchmark(ArrivalProcess):
    """A benchmark client with its flags: a number of prompts is sent, and all of it is measured, from the first sending to the last answer.

    The scenario's `load` is the flag that `load_flag` names: `max_concurrency` (per replica), with all prompts there at once unless a
    `request_rate` is given, or `request_rate`, with as many in flight as `max_concurrency` allows. `num_prompts` may be given as
    `prompts_per_concurrency`, or both for whichever is more. Gaps between prompts are those of a gamma process of shape `burstiness` (1:
    Poisson); `vllm` stretches them so that the last prompt is sent at `num_prompts` ÷ rate, and with the `seed` of its command they are the very gaps
    that it draws (get_request in serve.py), in every replication. Prompts and answers of n tokens (`random_input_len`, `random_output_len`) are
    uniform with `random_range_ratio` r: in [n (1 − r), n (1 + r)] for `vllm` (default 0), in [n r, n] for `sglang` (default 0) and `inferencemax`
    (default 1), as for older clients of vLLM. The first `num_warmups` requests end before the clock starts; a simulated engine has nothing to warm
    up, so they change no number and are not played.
    """

    kind: Literal["benchmark"] = "benchmark"
    client: Client
    load_flag: Literal["max_concurrency", "request_rate"] = "max_concurrency"
    num_prompts: Requests | None = None
    prompts_per_concurrency: Requests | None = None
    max_concurrency: Users | None = None
    request_rate: Annotated[Rate | None, BeforeValidator(_rate, json_schema_input_type=Rate | Literal["inf"] | None)] = None
    burstiness: Burstiness = 1.0
    seed: Annotated[int, Within(0, 2**32 - 1)] | None = None
    num_warmups: RequestsOrNone = 0
    random_input_len: Tokens | None = None
    random_output_len: Tokens | None = None
    random_range_ratio: Share | None = None

    @model_validator(mode="after")
    def _flags_agree(self) -> Self:
        if self.num_prompts is None and self.prompts_per_concurrency is None:
            raise ValueError("expected num_prompts, prompts_per_concurrency or both")
        if getattr(self, self.load_flag) is not None:
            raise ValueError(f"{self.load_flag} is what the scenario's load gives: drop it, or set load_flag: {_other(self.load_flag)}")
        if self.load_flag == "request_rate" and self.num_prompts is None and self.max_concurrency is None:
            raise ValueError("prompts_per_concurrency goes with max_concurrency: give num_prompts")
        if self.burstiness != 1 and self.client == "sglang":
            raise ValueError("SGLang's client has no burstiness: drop it, or use another client")
        if self.seed is not None and self.client != "vllm":
            raise ValueError(f"seed is that of client vllm: gaps of {self.client} depend on its data set, too; drop it")
        if (self.random_input_len is None) != (self.random_output_len is None):
            raise ValueError("expected random_input_len and random_output_len, or neither, got one of them")
        if self.random_range_ratio is not None and self.random_input_len is None:
            raise ValueError("random_range_ratio goes with random_input_len and random_output_len")
        if self.client == "vllm" and self.random_range_ratio == 1:
            raise ValueError("vllm takes a random_range_ratio below 1: lengths are n (1 - r) to n (1 + r); for n r to n use another client")
        return self

    @property
    def at_once(self) -> bool:
        """Are all prompts there at the start?"""
        return self.load_flag == "max_concurrency" and self.request_rate is None

    @property
    def told(self) -> str:
        """What it does, in a sentence."""
        counts = [f"{self.num_prompts:,} prompts"] if self.num_prompts else []
        counts += [f"{self.prompts_per_concurrency:,} prompts for each that may be in flight"] if self.prompts_per_concurrency else []
        count = ", or ".join(counts) + (", whichever is more" if len(counts) > 1 else "")
        rate = "at the load's rate" if self.request_rate is None else f"{self.request_rate:g} per second"
        process = "Poisson" if self.burstiness == 1 else f"gamma, burstiness {self.burstiness:g}"
        seeded = "" if self.seed is None else f", seed {self.seed}"
        when = "all at once" if self.at_once else f"{rate} ({process}{seeded})"
        limit = f"at most {self.max_concurrency:,} in all" if self.max_concurrency else "any number"
        flight = "as the load says" if self.load_flag == "max_concurrency" else limit
        sizes = [_told(self.lengths(tokens)) for tokens in (self.random_input_len, self.random_output_len) if tokens]
        lengths = f" Prompts have {sizes[0]} tokens, answers {sizes[1]}." if sizes else ""
        warm = f" Its {self.num_warmups:,} warm-up requests would change no number and are not played." if self.num_warmups else ""
        return f"Benchmark client ({self.client}): {count}, {when}; in flight: {flight}.{lengths}{warm}"

    def in_flight(self, load: float, replicas: int) -> int | None:
        """The most requests that the client has out, None for any number."""
        return int(load) * replicas if self.load_flag == "max_concurrency" else self.max_concurrency

    def prompts(self, load: float, replicas: int) -> int:
        """How many are sent."""
        return max(self.num_prompts or 1, (self.prompts_per_concurrency or 0) * (self.in_flight(load, replicas) or 1))

    def rate_rps(self, load: float) -> float | None:
        """At which prompts come, None for all at once."""
        return load if self.load_flag == "request_rate" else self.request_rate

    def sent_s(self, count: int, rate_rps: float | None, rng: np.random.Generator) -> Floats:
        """When each prompt is there to be sent. # [count]"""
        if rate_rps is None:
            return np.zeros(count)
        draws = rng if self.seed is None else np.random.RandomState(self.seed)
        gaps = draws.standard_gamma(self.burstiness, count) / self.burstiness / rate_rps
        if self.client != "vllm":
            return np.append(0.0, gaps.cumsum()[:-1])
        times = gaps.cumsum()
        return np.asarray(times * (count / rate_rps / times[-1]) if times[-1] > 0 else times)

    def lengths(self, tokens: int) -> Fixed | Uniform:
        """Of prompts or answers that are to have `tokens`."""
        ratio = _RATIOS[self.client] if self.random_range_ratio is None else self.random_range_ratio
        low, high = (floor(tokens * (1 - ratio)), ceil(tokens * (1 + ratio))) if self.client == "vllm" else (int(tokens * ratio), tokens)
        return Fixed(tokens=tokens) if low == high else Uniform(min_tokens=max(low, 1), max_tokens=min(high, MOST_TOKENS))


def _told(lengths: Fixed | Uniform) -> str:
    return f"{lengths.tokens:,}" if isinstance(lengths, Fixed) else f"{lengths.min_tokens:,} to {lengths.max_tokens:,} (uniform)"


def _other(load: str) -> str:
    return "request_rate" if load == "max_concurrency" else "max_concurrency"
