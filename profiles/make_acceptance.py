"""Makes the library of acceptance that others published. Run: python profiles/make_acceptance.py

Recorded blocks are drawn by the parametric generator. So that few texts are enough, what it aims at is moved until the walks along the texts that it
drew commit as many tokens a round as was published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Floats
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.acceptance_made import save_acceptance
from simulator.measurements.calibration import fit_temperatures
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.marginals import logit, sigmoid
from simulator.measurements.statistics import visited_rows

HERE = Path(__file__).parent
PAPER, GOLDEN, V3 = (HERE / "acceptance" / source for source in ("dspark-paper", "inferencex", "deepseek-v3-report"))
FIGURE_2 = HERE / "deepseek-v4-flash" / "published" / "fig2_conditional_acceptance.csv"
BY_LENGTH = HERE / "deepseek-v4-pro-0813-b300" / "published" / "accepted_length_by_k.csv"
MADE_BY = "Made by `python profiles/make_acceptance.py`; do not edit by hand."
SHAPED = "Qwen3-4B"  # the target of Figure 2
HEADED = "dspark"  # the family with a confidence head
TEXTS = {True: {"sequences_per_domain": 20, "anchors_per_sequence": 96}, False: {"sequences_per_domain": 48, "anchors_per_sequence": 128}}
CALIBRATED_ON = 200  # texts of a domain
STEP, MOST_STEPS = 0.3125, 32  # the grid that logits of confidences are rounded to: 64 values, small on disk
ROUNDS, NEAR, LOGITS_A_TOKEN = 40, 0.01, 0.4  # of moving the aim, until so near in tokens a round

UNKNOWN = [
    "how many prompts, their lengths, and how far another run would differ (no errors are published)",
    "acceptance at other temperatures than 1, and with quantised targets or drafters",
    "how acceptance varies along texts and between them: the generator's defaults, which follow Figure 6",
]


def main() -> None:
    for target, family in table_1().index.droplevel("benchmark").unique():
        save(*from_table_1(target, family), PAPER)
    for checkpoint in ("v4-pro-dspark", "v4-pro-0813"):
        save(*from_lengths(checkpoint), GOLDEN)
    save(*from_shares({"lowest-topic": 0.85, "highest-topic": 0.90}), V3)


def from_table_1(target: str, family: str) -> tuple[dict[str, Any], RecordedBlocks]:
    """Nine benchmarks of a target and a drafter: Figure 2's course over the slots, which is that of Qwen3-4B, at Table 1's accepted lengths."""
    rows = table_1().query("target == @target and drafter == @family").droplevel(["target", "drafter"])
    shapes = {kind: figure_2(family, kind) for kind in rows["domain"].unique()}
    wanted = {str(name): float(row["accepted_length"]) for name, row in rows.iterrows()}
    kinds = {str(name): str(row["domain"]) for name, row in rows.iterrows()}
    conditional = {name: moved_to(shapes[kinds[name]], length) for name, length in wanted.items()}
    headed = family.lower() == HEADED

    def drawn(aim: Floats) -> RecordedBlocks:
        aims = {name: sigmoid(logit(c) + a).tolist() for (name, c), a in zip(conditional.items(), aim, strict=True)}
        return blocks_of(conditional=aims, **TEXTS[headed])

    blocks = aimed(drawn, np.zeros(len(wanted)), lambda found: np.array([length_of(found, name) for name in wanted]), np.array([*wanted.values()]))
    own = target == SHAPED
    shape = "published" if own else "carried over"
    domains = {
        name: {"kind": kinds[name], "accepted_length": wanted[name], "conditional": rounded(conditional[name]), "shape": shape} for name in wanted
    }
    paper = "DSpark paper (arXiv 2607.05147), Table 1"
    over = "Figure 2" if own else f"Figure 2, of {SHAPED}"
    about = {
        "name": f"{target}-{family}".lower(),
        "target": target,
        "family": family.lower(),
        "gamma": 7,
        "provenance": "published" if own else "fitted",
        "source": f"{paper}; course over the slots: {over}",
        "sample": "nine benchmarks at temperature 1, blocks of 7 verified whole, as the paper's authors ran them",
        "domains": domains,
        "unknown": [
            *UNKNOWN,
            "acceptance by position of single benchmarks: that of their kind (mathematics, code, conversation), moved in level",
            *([] if own else [f"acceptance by position on this target: Figure 2 shows {SHAPED} alone"]),
        ],
        "notes": ["accepted lengths include the bonus token"],
    }
    if headed:
        about |= {"confidence": True, "temperatures": temperatures_of(conditional)}
        about["notes"] = [*about["notes"], *CONFIDENCE]
    return about, replace(blocks, confidence=coarse(blocks.confidence) if headed else None)


CONFIDENCE = [
    "confidences are as informative and as badly calibrated as Figure 6 shows on Alpaca before calibration (which of the four targets it shows is not"
    " said), and the temperatures are those of sequential temperature scaling",
    "Figure 5 was not fitted: with these confidences fewer drafted tokens are rejected at thresholds of 0.2 to 0.6 than published",
]


def from_lengths(checkpoint: str) -> tuple[dict[str, Any], RecordedBlocks]:
    """A checkpoint of DeepSeek-V4-Pro: accepted lengths of runs that verify k tokens, with and without thinking."""
    rows = pd.read_csv(BY_LENGTH, comment="#")
    tables, kept = {}, {}
    for thinking, name in (("on", "coding-thinking"), ("off", "coding")):
        mine = rows[(rows["checkpoint"] == checkpoint) & (rows["thinking"] == thinking) & (rows["k"] <= 7)].sort_values("k")
        kept[name] = growing(mine["accepted_length"].to_numpy(float))
        tables[name] = extended_to(kept[name], 7)

    def drawn(aim: Floats) -> RecordedBlocks:
        return blocks_of(
            accepted_length={name: row.tolist() for name, row in zip(tables, aim, strict=True)}, miscalibration=[1.0] * 7,
            sequences_per_domain=96, anchors_per_sequence=96,
        )  # fmt: skip

    wanted = np.array([*tables.values()])
    blocks = aimed(drawn, wanted, lambda found: np.array([[length_of(found, name, k) for k in range(1, 8)] for name in tables]), wanted)
    said = "DeepSeek-V4-Pro-0813" if checkpoint == "v4-pro-0813" else "DeepSeek-V4-Pro"
    domains = {
        name: {"kind": "code", "accepted_length": round(float(row[-1]), 4), "conditional": rounded(conditional_of(row)), "shape": "published"}
        for name, row in tables.items()
    }
    extended = [f"{name}: accepted length falls from k = {len(kept[name])} on, which no acceptance can give, so slots beyond are taken like the last"
                for name in tables if len(kept[name]) < 7]  # fmt: skip
    about = {
        "name": f"{said}-dspark".lower(),
        "target": said,
        "family": "dspark",
        "gamma": 7,
        "provenance": "published",
        "source": f"InferenceX golden values, SPEED-Bench coding, checkpoint {checkpoint}",
        "sample": "one run for every k = 1 … 8 at temperature 1, with thinking (coding-thinking) and without (coding); k = 8 is left out",
        "domains": domains,
        "unknown": [*UNKNOWN, "acceptance on other texts than code", "how well its confidences rank and how they are calibrated"],
        "notes": [
            "accepted lengths include the bonus token; a run that verifies k tokens commits the published tokens a round for every k, not only for 7",
            *extended,
            "confidences are as informative as the DSpark paper's Figure 6 shows of other targets, and calibrated",
        ],
        "confidence": True,
    }
    return about, replace(blocks, confidence=coarse(blocks.confidence))


def from_shares(shares: Mapping[str, float]) -> tuple[dict[str, Any], RecordedBlocks]:
    """MTP of DeepSeek-V3: how often the second token is accepted, of which the report says a range over topics."""
    wanted = np.array([*shares.values()])

    def drawn(aim: Floats) -> RecordedBlocks:
        moved = sigmoid(logit(wanted) + aim).tolist()
        return blocks_of(conditional={name: [share] for name, share in zip(shares, moved, strict=True)}, miscalibration=[1.0], **TEXTS[False])

    blocks = aimed(drawn, np.zeros(len(shares)), lambda found: np.array([length_of(found, name) for name in shares]), 1 + wanted)
    kind = "some generation topic"
    domains = {
        name: {"kind": kind, "accepted_length": round(1 + share, 4), "conditional": [share], "shape": "published"} for name, share in shares.items()
    }
    about = {
        "name": "deepseek-v3-mtp",
        "target": "DeepSeek-V3",
        "family": "mtp",
        "gamma": 1,
        "provenance": "published",
        "source": "DeepSeek-V3 Technical Report (arXiv 2412.19437), section 5.4.3: acceptance of the second token prediction, 85 to 90 % over topics",
        "sample": "various generation topics, not named; both ends of the range stand as domains",
        "domains": domains,
        "unknown": [*UNKNOWN[:1], "the temperature", "which topics are accepted more, and where between its ends the mean lies", UNKNOWN[2]],
        "notes": ["accepted lengths include the bonus token"],
    }
    return about, replace(blocks, confidence=None)


def aimed(draw: Callable[[Floats], RecordedBlocks], aim: Floats, read: Callable[[RecordedBlocks], Floats], wanted: Floats) -> RecordedBlocks:
    """Blocks drawn at an aim that was moved, domain by domain, until what is read off them is what is wanted, as near as so few texts come to it."""
    best, least = aim, np.full(len(wanted), np.inf)
    for turn in range(ROUNDS):
        lacks = wanted - read(draw(aim))
        worst = np.abs(lacks).reshape(len(wanted), -1).max(axis=1)
        nearer = (worst < least).reshape(-1, *[1] * (aim.ndim - 1))
        best, least = np.where(nearer, aim, best), np.minimum(worst, least)
        if worst.max() < NEAR:
            break
        step = 0.4 + 0.2 * (turn % 5)  # never the same twice in a row: what texts begin with jumps, and a run of equal steps goes to and fro
        aim = aim + step * (LOGITS_A_TOKEN if aim.ndim == 1 else 1.0) * lacks
    print(f"  within {least.max():.3f} tokens a round")
    return draw(best)


def length_of(blocks: RecordedBlocks, domain: str, verified: int | None = None) -> float:
    """Tokens a round of walks along the texts of a domain."""
    accepted = blocks.accepted if verified is None else np.minimum(blocks.accepted, verified)
    rows = visited_rows(blocks, None if verified is None else np.full(blocks.rows, verified))
    rows = rows[np.isin(blocks.sequence_of_row[rows], blocks.sequences_of(domain))]
    return 1 + float(accepted[rows].mean())


def blocks_of(**shape: Any) -> RecordedBlocks:
    return replace(ParametricAcceptance(**shape).generate("", "fitted"), acceptance=None)


def temperatures_of(conditional: Mapping[str, Floats]) -> list[float]:
    """Of sequential temperature scaling on many texts of all benchmarks."""
    blocks = blocks_of(conditional={name: c.tolist() for name, c in conditional.items()}, sequences_per_domain=CALIBRATED_ON, anchors_per_sequence=96)
    rows = visited_rows(blocks)
    assert blocks.confidence is not None
    return [round(float(t), 3) for t in fit_temperatures(blocks.confidence[rows], blocks.accepted[rows])]


def coarse(confidence: Floats | None) -> Floats:
    """Confidences of few different values."""
    assert confidence is not None
    return sigmoid(STEP * np.clip(np.round(logit(confidence) / STEP), -MOST_STEPS, MOST_STEPS - 1))


def moved_to(shape: Floats, accepted_length: float) -> Floats:
    """Conditional acceptance moved in level, on the logit scale, to an accepted length."""
    from scipy.optimize import brentq

    level = brentq(lambda z: 1 + float(np.cumprod(sigmoid(logit(shape) + z)).sum()) - accepted_length, -10, 10)
    return sigmoid(logit(shape) + level)


def growing(lengths: Floats) -> Floats:
    """The lengths as far as they grow."""
    falls = np.flatnonzero(np.diff(lengths) <= 0)
    return lengths[: falls[0] + 1] if len(falls) else lengths


def extended_to(lengths: Floats, slots: int) -> Floats:
    """Lengths of as many slots, those beyond accepted like the last one."""
    c = conditional_of(lengths)
    return 1 + np.cumsum(np.cumprod([*c, *[c[-1]] * (slots - len(c))]))


def conditional_of(lengths: Sequence[float] | Floats) -> Floats:
    """P(slot k accepted | slots before accepted) from accepted lengths at k = 1, 2, …"""
    survival = np.diff(lengths, prepend=1.0)
    return np.asarray(survival / np.array([1.0, *survival[:-1]]))


def rounded(values: Floats) -> list[float]:
    return [round(float(value), 4) for value in values]


def table_1() -> pd.DataFrame:
    """Accepted lengths by target, drafter and benchmark, in the paper's order."""
    return pd.read_csv(PAPER / "published" / "table1.csv", comment="#").set_index(["target", "drafter", "benchmark"])


def figure_2(family: str, kind: str) -> Floats:
    rows = pd.read_csv(FIGURE_2, comment="#")
    return rows[(rows["drafter"] == family) & (rows["domain"] == kind)].sort_values("position")["conditional_acceptance"].to_numpy(float)


def save(about: dict[str, Any], blocks: RecordedBlocks, source: Path) -> None:
    """The folder of an acceptance in that of its source."""
    temperature = None if "the temperature" in about["unknown"] else 1.0
    blocks = replace(blocks, drafter=about["family"], temperature=temperature, provenance=about["provenance"], source=about["source"])
    save_acceptance(about, blocks, source / about["name"], MADE_BY)
    print(f"written: {about['name']}")


if __name__ == "__main__":
    main()
