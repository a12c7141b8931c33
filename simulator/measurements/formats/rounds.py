"""Decode rounds from what engines count: how many there were, in how many of them anything was drafted, what was verified and accepted.

vLLM's `num_drafts` counts the rounds that proposed something (vllm-project/vllm at 016a858, v1/spec_decode/metrics.py, observe_draft), a sixth of all
rounds with n-gram drafting, and accepted tokens are counted before an answer is cut at its end. llama.cpp never drafts beyond an answer's end
(tools/server/server-context.cpp, get_n_draft_max). What every counter means: docs/exchange.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path

from simulator.errors import DsimError
from simulator.measurements.formats.reading import AGREE

EVERY = 0.02  # relative difference of drafts and rounds up to which every round drafted
CUT = 0.05  # share of positions that were not drafted, above which the blocks do not count as whole
PER_POSITION = "accepted_tokens_per_pos"


@dataclass(frozen=True)
class SpecCounters:
    """What was counted of some traffic, per request and round: rounds that drafted, tokens drafted and accepted, drafts that accepted each position;
    where the engine says so, drafts that had each position at all, tokens of answers, answers (whose first token a prompt's step commits), decode
    rounds, and tokens of prompts and those of them that a cache held. SGLang does not say how many tokens it drafts."""

    drafts: float
    draft_tokens: float | None
    accepted_tokens: float
    per_position: list[float]
    tried: list[float] | None = None
    generated: float | None = None
    answers: float | None = None
    decode_rounds: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    engine: str = "vllm"
    model: str = ""
    engines: int = field(default=1, compare=False)  # that counted this together

    def answered(self, tokens: float | None) -> SpecCounters:
        """The same with as many answers of `tokens` as its tokens make, where the engine counts none."""
        if self.answers or not self.generated or not tokens:
            return self
        return replace(self, answers=self.generated / tokens)

    @property
    def rounds(self) -> float | None:
        """Decode rounds of all requests: as counted, else tokens of answers that are neither the first nor accepted drafts, and those accepted
        beyond an answer's end, which are counted as accepted and not as generated. None where tokens were not counted."""
        if self.decode_rounds is not None:
            return max(self.decode_rounds, self.drafts)
        if self.generated is None:
            return None
        answers = self.answers or 0
        inside = self.generated - answers - self.accepted_tokens
        if self.stays_inside:
            return max(inside, self.drafts)
        every = (1 - EVERY) * self.drafts, (1 + EVERY) * self.drafts
        if every[0] <= inside <= every[1]:  # every round drafted, and little or nothing was counted beyond an end
            return self.drafts
        rounds = inside + self._beyond_ends(self.generated - answers, answers)
        return rounds if rounds > every[1] else self.drafts

    def _beyond_ends(self, kept: float, answers: float) -> float:
        """Accepted tokens beyond the ends of answers, which fall anywhere in a round: E[L (L - 1)] ÷ 2 E[L] for each, with L tokens a round. With Σ k
        a_k of the accepted counts by position and all tokens of rounds, those kept and those beyond, that is x = answers Σ k a_k ÷ (kept + x)."""
        product = answers * sum(k * count for k, count in enumerate(self.per_position, 1))
        return (math.sqrt(kept**2 + 4 * product) - kept) / 2

    @property
    def stays_inside(self) -> bool:
        """Does the engine draft no more than an answer still has room for?"""
        return self.engine == "llamacpp"

    @property
    def proposing(self) -> float | None:
        """Share of decode rounds in which anything was drafted. Where drafts end with their answer, a round for its last token has none."""
        if not self.rounds:
            return None
        return 1.0 if self.stays_inside and self.drafts and self.drafts + (self.answers or 0) >= self.rounds else self.drafts / self.rounds

    @property
    def had(self) -> list[float] | None:
        """Drafts that had each position: as counted; where drafts end with their answer, as ends anywhere in a round take the positions, the last
        ones first: in equal steps. None where that is not known."""
        if self.tried or not self.stays_inside or self.slots < 2 or self.draft_tokens is None:
            return self.tried
        lost = self.drafts * self.slots - self.draft_tokens
        step = 2 * lost / (self.slots * (self.slots - 1))
        if step * self.slots > self.drafts:
            return None
        return [max(self.drafts - step * place, count) for place, count in enumerate(self.per_position)]

    @property
    def survival(self) -> list[float]:
        """P(at least k accepted), k = 1 … γ, over the rounds that drafted; where it is known how many drafts had a position, over those."""
        tried = self.had or [self.drafts] * len(self.per_position)
        shares = (count / had for count, had in zip(self.per_position, tried, strict=True) if had)
        return list(accumulate(shares, min))

    @property
    def accepted_length(self) -> float:
        """Tokens committed per decode round, bonus included and not cut at ends of answers; per round that drafted where no others were counted."""
        return 1 + self.accepted_tokens / self._over if self._over else 1.0

    @property
    def budget(self) -> float | None:
        """Tokens verified per decode round, anchor included; per round that drafted where no others were counted. None where not counted."""
        if self.draft_tokens is None:
            return None
        return 1 + self.draft_tokens / self._over if self._over else 1.0

    @property
    def _over(self) -> float:
        return self.drafts if self.rounds is None else self.rounds

    @property
    def slots(self) -> int:
        """Most tokens drafted in a round."""
        return len(self.per_position)

    @property
    def cut(self) -> bool:
        """Drafts were shorter than their positions: the engine cut them, or the drafter had no more to propose; not by the ends of answers."""
        if self.stays_inside and self.had:
            return False
        return self.draft_tokens is not None and self.draft_tokens < (1 - CUT) * self.drafts * self.slots

    def remarks(self, name: str, received: float | None = None) -> list[str]:
        """What a reader has to know about these counts; `received` are the tokens that a client counted of the same traffic."""
        found = []
        if self.cut:
            mean = f"{name}: drafts have {(self.draft_tokens or 0) / self.drafts:.3g} tokens of {self.slots} in the mean"
            rejected = "what was not drafted counts as rejected, which is too low a value where the engine cut the drafts"
            found.append(f"{mean}: {'acceptance by position is over the drafts that had it' if self.tried else rejected}")
        if self.prompt_tokens and self.cached_tokens and self.cached_tokens > CUT * self.prompt_tokens:
            share = self.cached_tokens / self.prompt_tokens
            found.append(f"{name}: {share:.0%} of the prompts' tokens came from a cache: prompts that are not in it cost more")
        if self.generated and self.answers and self.drafts - (self.generated - self.answers - self.accepted_tokens) > self.answers * self.slots:
            found.append(f"{name}: counts more rounds than its {self.generated:,.0f} tokens can take: other traffic is in its counters")
        elif received and self.generated and self.generated > (1 + CUT) * received:
            found.append(f"{name}: the server counted {self.generated:,.0f} tokens, the client {received:,.0f}: other traffic is in its counters")
        return found


COUNTS = tuple(each.name for each in fields(SpecCounters) if each.name not in ("engine", "model", "engines"))


def checked(counters: SpecCounters, where: Path | str, prefix: str) -> SpecCounters:
    """The counters, where they do not contradict one another. Raises DsimError."""

    def refuse(name: str, problem: str) -> None:
        raise DsimError(problem, where=where, key=f"{prefix}{name}", remedy="scrape /metrics again: its counters contradict one another")

    drafts, drafted, accepted, per_position = counters.drafts, counters.draft_tokens, counters.accepted_tokens, counters.per_position
    if counters.generated is not None and (rounds := counters.decode_rounds or 0) > counters.generated:
        problem = f"counts {rounds:,.0f} decode rounds, and {counters.generated:,.0f} tokens"
        raise DsimError(problem, where=where, remedy="scrape /metrics again: its counters contradict one another")
    if drafted is None:
        return counters
    if not drafts <= drafted <= drafts * len(per_position):
        refuse("draft_tokens", f"expected 1 to {len(per_position)} tokens for each of {drafts:,.0f} drafts, got {drafted:,.0f}")
    if accepted > drafted:
        refuse("accepted_tokens", f"expected at most the {drafted:,.0f} drafted tokens, got {accepted:,.0f}")
    for position, (before, count) in enumerate(pairwise([drafts, *per_position])):
        if count > before:
            refuse(PER_POSITION, f"position {position} was accepted {count:,.0f} times, more often than the one before ({before:,.0f})")
    if abs(sum(per_position) - accepted) > AGREE * accepted:
        refuse(PER_POSITION, f"expected {accepted:,.0f} accepted tokens in all positions, got {sum(per_position):,.0f}")
    for position, (count, had) in enumerate(zip(per_position, counters.tried or per_position, strict=True)):
        if not count <= had <= drafts:
            refuse("draft_tokens_per_pos", f"expected {count:,.0f} to {drafts:,.0f} drafts with position {position}, got {had:,.0f}")
    return counters
