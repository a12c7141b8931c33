"""What `dsim validate --engine` serves with the real engine: every policy and load of a scenario, as its --serving words say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from real_runner.setup import needs_torch, quiet_on, read_prompt_sets, writable
from simulator.errors import DsimError
from simulator.measurements.profile import Profile
from simulator.policies.verification import VerificationPolicy
from simulator.progress import Progress, resumable
from simulator.quantities import Requests, Seed, Temperature, Tokens, Within
from simulator.reading.yaml_files import parse_yaml
from simulator.schema import Frozen, validate


class Serving(Frozen):
    """The words of --serving."""

    turns: Requests = 2
    least: Requests = 12  # measured
    max_tokens: Tokens = 96
    temperature: Temperature | None = None  # that of the profile's blocks, else 1
    seed: Seed = 0
    rate: Annotated[float, Within(0, 1e6, "requests per second")] = 0.0
    arrivals: Path | None = None
    open_requests: Annotated[int, Within(2, 1_000_000, "requests")] = 48
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] | None = None  # float32 on a CPU, bfloat16 on a GPU
    threads: Annotated[int, Within(1, 4096, "threads")] | None = None
    prompts: list[str] = []


def read_serving(words: Sequence[str]) -> Serving:
    """KEY=VALUE words. Raises DsimError."""
    content: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DsimError(f"expected KEY=VALUE, got {word!r}", where="--serving", remedy="for example --serving turns=4")
        if key == "prompts":
            content.setdefault(key, []).append(value)
        else:
            content[key] = parse_yaml(value, "--serving")
    return validate(Serving, content, "--serving", DsimError)


def serve_runs(
    models: Path, profile: Profile, runs: list[tuple[str, str | None, VerificationPolicy, int]], words: Sequence[str], out: Path, quiet: bool
) -> list[Path]:
    """Serves every (policy, drafter, rule, concurrency), and with `rate` or `arrivals` each policy at its largest concurrency under arrivals in
    time; the runs' folders. Raises DsimError before anything is served.
    """
    needs_torch("validate --engine")
    serving = read_serving(words)
    sets, arrivals = read_prompt_sets(serving.prompts), _arrivals(serving)
    writable(out)
    quiet_on(serving.device, serving.threads)
    from real_runner.layout import Tiers
    from real_runner.runs import Load, Served, serve_all
    from real_runner.target import load_target

    on_gpu = serving.device != "cpu"
    temperatures = {profile.blocks(d).temperature for _, d, _, _ in runs if d is not None} - {None}
    usual = temperatures.pop() if len(temperatures) == 1 else 1.0
    temperature = usual if serving.temperature is None else serving.temperature
    load = Load(serving.turns, serving.max_tokens, temperature, serving.seed, serving.least)
    served = [Served(*run) for run in runs]
    if arrivals:
        largest = {run.policy: run for run in sorted(served, key=lambda r: r.concurrency)}
        served += [Served(r.policy, r.drafter, r.rule, r.concurrency, arrivals) for r in largest.values()]
    target = load_target(str(models / "target"), serving.device, serving.dtype or ("bfloat16" if on_gpu else "float32"))
    with resumable(lambda: f"finished runs are kept in {out}"):
        serve_all(target, models, profile, served, sets, load, out, Tiers() if on_gpu else None, Progress(quiet))
    return [out / run.folder for run in served]


def _arrivals(serving: Serving) -> tuple[float, ...]:
    """Arrival times from 0 on, in seconds: the start of a trace, played at `rate` if there is one; else Poisson at `rate`; none without either."""
    from real_runner.prompts import read_trace

    rate, count = serving.rate, serving.open_requests
    if serving.arrivals is None:
        return tuple(np.cumsum(np.random.default_rng(serving.seed).exponential(1 / rate, count)).tolist()) if rate > 0 else ()
    times = np.sort([row[0] for row in read_trace(serving.arrivals)])[:count]
    if len(times) < 2 or times[-1] <= times[0]:
        raise DsimError("expected requests at two times or more", where=serving.arrivals, key="--serving arrivals", remedy="use a longer trace")
    times = times - times[0]
    if rate > 0:
        times = times * ((len(times) - 1) / rate / times[-1])
    return tuple(times.tolist())
