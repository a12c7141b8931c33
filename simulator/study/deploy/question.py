"""A policy as engines are asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.measurements.profile import Drafter, Profile
from simulator.policies.verification import Serving
from simulator.study.profiles.lengths import LARGEST, LengthTable, length_table
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy

TOLERANCE = 0.02  # of the tokens per second, below which another draft length is not worth a range
UNBOUNDED = 10  # times the 99.9 % quantile: a longest length above it is that of a law without a bound


@dataclass(frozen=True)
class ServingQuestion:
    """A policy of a scenario, as engines are asked for it."""

    scenario: Scenario
    policy: Policy

    @property
    def profile(self) -> Profile:
        return self.scenario.known

    @cached_property
    def drafter(self) -> Drafter | None:
        return self.profile.drafter(self.policy.drafter) if self.policy.drafter else None

    @cached_property
    def serving(self) -> Serving:
        return self.policy.verification.serving(self.drafter.gamma if self.drafter else 0)

    @property
    def family(self) -> str:
        return self.drafter.family if self.drafter else ""

    @property
    def looks_up(self) -> bool:
        """Does the drafter look up what it proposes, so that there is no model of it?"""
        return self.family in ("ngram", "suffix")

    @property
    def of_its_own(self) -> bool:
        """Has the drafter a checkpoint? MTP's layers are in the target's."""
        return self.family != "mtp" and not self.looks_up

    @property
    def gpus(self) -> int | None:
        """GPUs of a replica, None where the profile has a part of one."""
        return int(self.profile.gpus_per_replica) if self.profile.gpus_per_replica % 1 == 0 else None

    @property
    def max_batch(self) -> int:
        return self.scenario.engine.max_batch

    @property
    def prompt_tokens(self) -> int | None:
        """Prompt tokens that a step takes beside nothing else; None where prompts are not processed in steps of the replica."""
        prefill = self.scenario.engine.prefill
        return (prefill.chunk(0, 2**31) or None) if prefill.where == "replica" else None

    @cached_property
    def best_lengths(self) -> LengthTable:
        assert self.policy.drafter is not None
        return length_table(self.profile, self.policy.drafter, min(self.max_batch, LARGEST), self.context_tokens, TOLERANCE)

    @cached_property
    def lengths(self) -> tuple[tuple[int, int, int], ...]:
        """The rule's table of lengths by batch size, else the profile's best."""
        return self.serving.table or tuple((row.first, row.last, row.length) for row in self.best_lengths.ranges)

    @property
    def scheduled(self) -> bool:
        """Can an engine schedule this by confidences? Both do for DSpark alone."""
        return self.serving.lag is not None and self.family == "dspark"

    @property
    def by_batch(self) -> bool:
        """Are lengths looked up by batch size, or is that the nearest to a schedule?"""
        return self.serving.by_batch or (self.serving.lag is not None and not self.scheduled)

    @property
    def fixed_length(self) -> int:
        """One length for all batches: the rule's own, or where lengths follow the batch the best single one."""
        return self.best_lengths.fixed if self.by_batch else self.serving.length

    @property
    def longest_request(self) -> int | None:
        """Tokens of the longest prompt and answer together: the engine's limit, else the traffic's; None where nothing bounds them."""
        if self.scenario.max_context_tokens is not None:
            return self.scenario.max_context_tokens
        workload = self.scenario.workload
        if workload.trace is not None:
            return workload.trace.recording(self.scenario.folder).longest_tokens  # of all of it: a plan plays a window
        if workload.prompts is None or workload.outputs is None:
            return None
        total = 0
        for law in (workload.prompts, workload.outputs):
            usual, most = law.at(np.array([0.999, np.nextafter(1.0, 0.0)])).tolist()
            if most > UNBOUNDED * usual:
                return None
            total += most
        return total

    @property
    def context_tokens(self) -> float:
        """Tokens of a request in the middle of its answer, on average; 0 where the traffic's lengths are not known beforehand."""
        workload = self.scenario.workload
        if workload.trace is not None:
            trace = workload.trace.load(self.scenario.folder)
            return float(trace.prompt_tokens.mean() + trace.output_tokens.mean() / 2)
        if workload.prompts is None or workload.outputs is None:
            return 0.0
        return workload.prompts.expected_tokens() + workload.outputs.expected_tokens() / 2
