"""What to deploy for a run's answer: the policy that it recommends, and the commands for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from simulator.errors import DsimError
from simulator.study.deploy.engines import sglang, vllm
from simulator.study.deploy.llama_cpp import llama_cpp
from simulator.study.deploy.question import ServingQuestion
from simulator.study.run.launch import EngineLaunch, Launch
from simulator.study.run.result import RunResult
from simulator.study.run.scenario import Scenario

ENGINES: Mapping[str, Callable[[ServingQuestion], EngineLaunch]] = {"vllm": vllm, "sglang": sglang, "llamacpp": llama_cpp}
USUAL = ("vllm", "sglang")  # what reports show


def launch(scenario: Scenario, name: str, engines: Sequence[str] = USUAL) -> Launch:
    """The commands for a policy. Raises DsimError where there is no such policy, or it knows what no engine can know."""
    policy = next((policy for policy in scenario.policies if policy.name == name), None)
    if policy is None:
        names = ", ".join(policy.name for policy in scenario.policies)
        raise DsimError(f"no policy '{name}'", where=scenario.file, key="--policy", remedy=f"policies: {names}")
    if policy.verification.clairvoyant:
        raise DsimError(
            f"policy '{name}' knows outcomes beforehand: no engine can do that", where=scenario.file, key="--policy", remedy="choose another"
        )
    if scenario.fleet.groups:
        problem, remedy = "replicas differ, and commands are for one kind", "export a scenario of each group"
        raise DsimError(problem, where=scenario.file, key="fleet.groups", remedy=remedy)
    question = ServingQuestion(scenario, policy)
    return Launch(policy=name, replicas=scenario.fleet.replicas, engines=tuple(ENGINES[engine](question) for engine in engines))


def recommended(result: RunResult) -> str | None:
    """The policy of the answer: best at the first promise that is kept, else the fastest at the middle load."""
    for best in result.best_at_sla().values():
        return best.policy
    real = result.choosable
    usable = [point for point in result.frontier if point.policy in real and point.verdict != "overloaded" and point.mean(result.speed_metric)]
    loads = sorted({point.load for point in usable})
    middle = {point.policy: point.mean(result.speed_metric) or 0.0 for point in usable if point.load == loads[len(loads) // 2]}
    return max(middle, key=middle.__getitem__) if middle else None


def with_launch(result: RunResult, scenario: Scenario) -> RunResult:
    """A run's result with the commands for the policy that it recommends."""
    name = None if scenario.fleet.groups else recommended(result)
    return result.model_copy(update={"launch": launch(scenario, name)}) if name else result
