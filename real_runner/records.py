"""What a run leaves behind: a row per request and per step, in the columns the simulator writes; the inputs and outcomes of each choice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REQUEST_COLUMNS = (
    "request policy arrival_s first_token_s finish_s prompt_tokens output_tokens tps_per_user ttft_s tpot_s e2e_s domain".split()  # noqa: SIM905
)
STEP_COLUMNS = (
    *("start_s", "end_s", "requests", "tokens", "verified", "accepted", "committed"),
    *("draft_s", "verify_s", "overhead_s", "prefill_tokens", "prefill_s"),
    *("context_tokens", "longest_context", "waiting", "captured_graphs"),
)


@dataclass(slots=True, eq=False)
class ServedRequest:
    """A prompt to be answered. Live state below the line is the engine's."""

    request: int
    prompt: list[int]
    max_tokens: int
    arrival_s: float = 0.0
    domain: str = "none"
    # -----
    output: list[int] = field(default_factory=list)
    slot: int = -1
    first_token_s: float = float("nan")
    finish_s: float = float("nan")

    @property
    def start(self) -> int:
        """Position of the anchor: how many tokens the caches hold."""
        return len(self.prompt) + len(self.output) - 1

    def anew(self) -> ServedRequest:
        """The same request, not served yet."""
        return ServedRequest(self.request, self.prompt, self.max_tokens, self.arrival_s, self.domain)


@dataclass(slots=True)
class Round:
    """One request's part in a round."""

    request: int
    anchor: int
    drafted: list[int]
    verified: int
    accepted: int
    confidence: NDArray[np.float64] | None  # [γ] as the policy saw it
    ended: bool = False  # by an end of text among the accepted: no bonus token then

    @property
    def tokens(self) -> int:
        """What the round is worth: accepted and the bonus, where there is one."""
        return self.accepted + (not self.ended)


@dataclass(slots=True)
class Step:
    """The time between two reads of the device: verify, take in, admit, draft."""

    start_s: float
    end_s: float = float("nan")
    tokens: int = 0
    committed: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    context_tokens: int = 0
    longest_context: int = 0
    waiting: int = 0
    captured_graphs: int = 0  # graphs that had to be made in this step: its times are not those of serving
    rounds: list[Round] = field(default_factory=list)

    @property
    def overhead_s(self) -> float:
        """What is left of the step: choosing, reading, bookkeeping."""
        return max(0.0, self.end_s - self.start_s - self.draft_s - self.verify_s - self.prefill_s)

    def row(self) -> dict[str, float]:
        """The step table's row."""
        sums = {
            "requests": len(self.rounds),
            "verified": sum(r.verified for r in self.rounds),
            "accepted": sum(r.accepted for r in self.rounds),
            "overhead_s": self.overhead_s,
        }
        return {column: sums[column] if column in sums else getattr(self, column) for column in STEP_COLUMNS}


def request_table(finished: list[ServedRequest], policy: str) -> pd.DataFrame:
    """One row per finished request."""
    rows = []
    for one in sorted(finished, key=lambda r: r.request):
        decode_s, tokens = one.finish_s - one.first_token_s, len(one.output)
        rows.append(
            {
                "request": one.request,
                "policy": policy,
                "arrival_s": one.arrival_s,
                "first_token_s": one.first_token_s,
                "finish_s": one.finish_s,
                "prompt_tokens": len(one.prompt),
                "output_tokens": tokens,
                "tps_per_user": (tokens - 1) / decode_s if tokens > 1 and decode_s > 0 else float("nan"),
                "ttft_s": one.first_token_s - one.arrival_s,
                "tpot_s": decode_s / (tokens - 1) if tokens > 1 else float("nan"),
                "e2e_s": one.finish_s - one.arrival_s,
                "domain": one.domain,
            }
        )
    return pd.DataFrame(rows, columns=REQUEST_COLUMNS)


def step_table(steps: list[Step]) -> pd.DataFrame:
    """One row per step."""
    return pd.DataFrame([step.row() for step in steps], columns=STEP_COLUMNS)
