"""What holds of most systems before any point is looked at: weak priors of `surface_model.py`'s unknowns."""

from __future__ import annotations

from typing import Literal, NamedTuple

from simulator.measurements.profile import Family

# Weak priors: what holds of the systems that are published or that we measured, in units of the step of one request, see docs/fit.md.
GROWTH_TOKENS = (100.0, 2.0)  # tokens that double a step: median, and sd of its logarithm
WALK, WALK_BEYOND = 0.7, 0.25  # sd of a slope's logarithm per doubling of the batch: where ordinary decoding was measured, and beyond
FALLS_ON, LOOKS_BACK = 0.7, 3.0  # a cost per token that fell so many doublings long falls on, at this part of its pace and half of it every doubling
STAIR = 0.02  # a step's logarithm strays from the smooth curve by this × sinh(z) at z standard deviations: by little, or where kernels change by much
REQUEST_SHARE = (0.3, 1.0)  # of the least slope, per request: median, and sd of its logit
PROMPTED_SHARE = (0.55, 1.0)  # likewise, where prompts are within the step cost
RISING_SHARE = (0.9, 1.0)  # likewise, of what the slope rises by: tokens cost more only where arithmetic fills the machine, far above a batch
# Acceptance where nothing was counted: DSpark paper, Figure 2. Over its domains a drafter's mean logit has an sd of 0.5 and its fall along the block
# one of 0.2 to 0.4. Settings do as much (thinking on or off moves InferenceX's by 0.5 about their mean), targets and drafters as much again.
LEVEL = (0.7, 1.0)  # conditional acceptance of every slot: median, and sd of its logit
SHAPE_LEVEL = 0.7  # sd, where a shape is given: it comes from other texts and settings
TILT = (0.0, 0.4)  # logits from the first slot to the last
SHAPE_TILT = 0.3  # sd, where a shape is given
SCHEDULING = (0.05, 1.2)  # a step with scheduled lengths against a step: median, and sd of its logarithm
CLIFF = (1.0, 1.2)  # leaving captured graphs, likewise
PREFILL = (1.0, 0.35)  # a prompt's token against one more verified token: median, and sd of its logarithm
PREFILL_BASE = (1.0, 0.3)  # fixed part of a step of prompts, against a step of one token
CELL = (1e-4, 1.2)  # a token's way through one cached token of a shared cache, against a token's arithmetic (1 ÷ 6 of the width, part of it skipped)
ALONE = 1.2  # users below which a prompt is alone with the engine
BEYOND = 4.0  # the curve goes on to so many times the tokens that were measured


DraftKind = Literal["unknown", "block", "chain", "lookup"]


class DraftPrior(NamedTuple):
    """Drafting for one request against a step: median, and sd of its logarithm; logit of the share that is paid slot by slot, and its sd; requests
    add to it what (1 + γ) ** `exponent` tokens of each add to a step, and the sd of the logarithm. A prompt's token costs the drafter `prompt` times
    as large a part of what it costs the target as its first pass is of a step (0: it reads no prompts), and the sd of the logarithm. `every_step_sd`:
    sd of what every step under the drafter takes more or less than one without, against a step (0: nothing)."""

    share: float
    share_sd: float
    slotwise: float
    slotwise_sd: float
    exponent: float
    growth_sd: float
    prompt: float
    prompt_sd: float
    every_step_sd: float = 0.0


DRAFTING: dict[DraftKind, DraftPrior] = {
    "unknown": DraftPrior(0.15, 1.0, 0.0, 1.0, 0.5, 0.8, 0.7, 1.0),
    "block": DraftPrior(0.15, 0.7, -2.0, 1.0, 0.5, 0.8, 0.5, 1.0),  # all slots at once: DSpark, DFlash
    "chain": DraftPrior(0.3, 1.0, 3.0, 1.0, 0.0, 0.5, 0.7, 0.7),  # token after token: EAGLE, MTP, a small model
    "lookup": DraftPrior(0.02, 1.0, 0.0, 1.0, 0.0, 0.8, 0.0, 0.0, 0.1),  # no model: ngram, suffix; vLLM does not schedule asynchronously with them
}
NAMED: dict[str, tuple[DraftKind, Family]] = {  # the longer name first, where two begin alike
    "ngram": ("lookup", "ngram"), "suffix": ("lookup", "suffix"), "dspark": ("block", "dspark"), "dflash": ("block", "dflash"),
    "eagle3": ("chain", "eagle3"), "eagle": ("chain", "eagle"), "mtp": ("chain", "mtp"), "drafter": ("chain", "other"), "draft": ("chain", "draft"),
}  # fmt: skip


def kind_of(drafter: str) -> DraftKind:
    """How a drafter of this name drafts, where it begins with the name of a method (eagle3, dspark5): "unknown" for any other."""
    return _named(drafter)[0]


def family_of(drafter: str) -> Family:
    """The method that such a name begins with; "other" where it begins with none, as "drafter", which imports take where nothing else is said."""
    return _named(drafter)[1]


def _named(drafter: str) -> tuple[DraftKind, Family]:
    return next((told for method, told in NAMED.items() if drafter.lower().startswith(method)), ("unknown", "other"))
