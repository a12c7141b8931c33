"""Makes the profiles of systems that others measured and published. Run: python profiles/make_published.py

What is fitted or assumed is written into each profile. Of every sweep only the line of ordinary decoding is used (and, for the TPU, one point of
the other line, in want of any acceptance), so that what the scenarios in scenarios/published simulate is a prediction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, DraftTable, LinearDraft, MeasuredTable, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Profile, PublishedTable, save_profile
from simulator.study.profiles.about import without_head

HERE = Path(__file__).parent
MADE_BY = "Made by `python profiles/make_published.py`; do not edit by hand."
BLOG = "vLLM blog on adaptive verification (14 August 2026)"
INFERENCEX = "InferenceX golden values (SPEED-Bench coding, T = 1, checkpoint v4-pro-0813, thinking on)"
TPU = "sgl-project/sglang-jax pull request 1632"
FIRST_SLOT = 0.725  # the blog: the first of seven drafted tokens survives «more than 70 %» of the time in this sweep; read as 70 to 75 %
EAGER_EDGE = 1025  # the largest captured step of the Flash profile
SEQUENCES = {"sequences_per_domain": 48, "anchors_per_sequence": 192}


def main() -> None:
    flash()
    pro()
    for reading in ("tokens", "requests"):
        tpu(reading)


def flash() -> None:
    """The step cost of DeepSeek-V4-Flash-0731 as published; its acceptance is not, so that of Pro stands in."""
    folder = HERE / "deepseek-v4-flash-0731-b300"
    rows = read(folder / "published" / "step_cost.csv")
    source = f"{BLOG}, figure 2 (published/step_cost.csv)"
    verify, draft = (rows[rows["component"] == component] for component in ("verify", "draft"))
    write_table(folder / "verify.csv", verify["x"], verify["milliseconds"] / 1e3, "tokens", verify["regime"])
    write_table(folder / "draft.csv", draft["x"], draft["milliseconds"] / 1e3, "requests", draft["regime"])
    conditional = coding_acceptance()
    shape(conditional).generate("dspark", "synthetic", f"carried over from Pro: {INFERENCEX}").save(folder / "dspark.parquet")
    save(
        Profile(
            format=1,
            name=folder.name,
            hardware="4 B300",
            engine="vLLM, tensor parallel 4, expert parallel, graphs to 1024 tokens, profiled with dummy steps at one context length",
            target="DeepSeek-V4-Flash-0731",
            gpus_per_replica=4,
            costs=Costs(
                verify=MeasuredTable(provenance="published", source=source, file="verify.csv", between="step"),
                overhead=Overhead(provenance="published", source=source, note="none is published beside the two tables"),
            ),
            drafters={
                "dspark": Drafter(
                    family="dspark",
                    gamma=7,
                    draft=DraftTable(provenance="published", source=source, file="draft.csv", between="step"),
                    blocks="dspark.parquet",
                    confidence=True,
                    note="acceptance of DeepSeek-V4-Pro-0813 on code; that of Flash is not published",
                )
            },
            published={"step_cost": PublishedTable(file="published/step_cost.csv", x="x", y="milliseconds", label="step cost", source=BLOG)},
            assumed=["acceptance is that of Pro on code", *CONFIDENCE],
            not_identifiable=["cost of context: one context length was profiled", "host time between steps", "memory for KV, prefill cost"],
        ),
        folder,
    )


def pro() -> None:
    """Cost of a step from ordinary decoding up to 256 tokens, beyond them as Flash's published curve grows; two readings of the acceptance."""
    folder = HERE / "deepseek-v4-pro-0813-b300"
    sweep = read(folder / "published" / "sweep.csv")
    none = sweep[sweep["policy"] == "none"]
    tokens, seconds = none["concurrency"].to_numpy(float), 1 / none["tps_per_user"].to_numpy(float)
    rows = read(folder / "published" / "flash_step_cost.csv")
    verify = rows[(rows["component"] == "verify") & (rows["regime"] == "graph")]
    at = verify["x"].to_numpy(float)
    last = float(np.interp(tokens[-1], at, verify["milliseconds"]))
    beyond = at > tokens[-1]
    grown = seconds[-1] * verify["milliseconds"].to_numpy(float)[beyond] / last
    source = f"{BLOG}, figure 3, line without speculation (published/sweep.csv), and figure 2 (published/flash_step_cost.csv)"
    note = "up to 256 tokens 1 ÷ per-user speed without speculation; beyond, the growth of Flash's published step cost over that at 256 tokens"
    write_table(folder / "verify.csv", [*tokens, *at[beyond]], [*seconds, *grown], "tokens")
    draft = rows[rows["component"] == "draft"]
    scale = seconds[0] / (verify["milliseconds"].to_numpy(float)[0] / 1e3)
    write_table(folder / "draft.csv", draft["x"], draft["milliseconds"] / 1e3 * scale, "requests")
    coding = coding_acceptance()
    level = logit(FIRST_SLOT) - logit(coding[0])
    for name, conditional, where in (
        ("dspark", [sigmoid(logit(c) + level) for c in coding], f"{BLOG}: the first slot survives «more than 70 %»; shape by slot: {INFERENCEX}"),
        ("dspark-coding", coding, INFERENCEX),
    ):
        shape(conditional).generate(name, "fitted", where).save(folder / f"{name}.parquet")
    adaptive = sweep[sweep["policy"] == "adaptive_7"][["concurrency", "tps_per_user"]]
    text = f"# {BLOG}, figure 3, adaptive verification (of sweep.csv)\n" + adaptive.to_csv(index=False, lineterminator="\n")
    (folder / "published" / "adaptive_speed.csv").write_text(text)
    price = DraftTable(
        provenance="synthetic",
        source=f"{BLOG}, figure 2",
        file="draft.csv",
        between="linear",
        note=f"Flash's published draft cost × {scale:.3f}, the ratio of both models' steps of one token; Pro's is not published",
    )
    notes = {
        "dspark": "first slot 72.5 %: the blog says «more than 70 %» of this sweep",
        "dspark-coding": "accepted length on code; the sweep's prompts are a mix",
    }
    drafters = {
        name: Drafter(family="dspark", gamma=7, draft=price, blocks=f"{name}.parquet", confidence=True, note=note) for name, note in notes.items()
    }
    label = "published (blog, figure 3)"
    save(
        Profile(
            format=1,
            name=folder.name,
            hardware="8 B300",
            engine="vLLM 73b8394, tensor parallel 8, expert parallel, FP8 KV cache, graphs to 4096 tokens",
            target="DeepSeek-V4-Pro-0813",
            gpus_per_replica=8,
            costs=Costs(
                verify=MeasuredTable(provenance="fitted", source=source, note=note, file="verify.csv", between="linear"),
                overhead=Overhead(provenance="fitted", source=source, note="within the step cost; the sweep cannot show it apart"),
            ),
            drafters=drafters,
            published={
                "sweep": PublishedTable(file="published/sweep.csv", x="concurrency", y="throughput_tok_s_total", label=label, source=BLOG),
                "adaptive_speed": PublishedTable(
                    file="published/adaptive_speed.csv", x="concurrency", y="tps_per_user", label=f"adaptive, {label}", source=BLOG
                ),
            },
            assumed=[
                "beyond 256 tokens a step grows as that of DeepSeek-V4-Flash-0731 on 4 B300 does, without its graph limit",
                "drafting costs what it costs on Flash, times the ratio of both models' steps of one token",
                "a step costs the same whether its tokens belong to many requests or to few: ordinary decoding alone cannot tell",
                "all policies draft with DSpark-7; the blog's fixed k starts at the block size 5, so fixed 1 and 3 were drafted in some other way",
                "prompts are left out: their share is within the published speed of ordinary decoding, and taken as the same under every policy",
                *CONFIDENCE,
            ],
            not_identifiable=["cost per token against cost per request", "draft cost", "acceptance by kind of prompt", "host time, memory for KV"],
        ),
        folder,
    )


def tpu(reading: str) -> None:
    """Ordinary decoding alone says what a step of R requests costs; whether tokens or requests make it dear is read in two ways."""
    folder = HERE / f"qwen3-8b-tpu-v7x8-by-{reading}"
    sweep = read(folder / "published" / "sweep.csv")
    none, fixed = (sweep[sweep["policy"] == policy] for policy in ("none", "fixed_7"))
    requests = none["concurrency"].to_numpy(float)
    seconds = requests / none["throughput_tok_s_total"].to_numpy(float)
    if reading == "tokens":
        write_table(folder / "verify.csv", requests, seconds, "tokens")
        at_eight = float(np.interp(8.0, requests, seconds))
        note = "concurrency ÷ throughput of ordinary decoding; all of the growth read as cost of tokens in the step"
    else:
        rows = [f"{r:g},{r:g},{s:.6g}" for r, s in zip(requests, seconds, strict=True)]
        (folder / "verify.csv").write_text("tokens,requests,p50_s\n" + "\n".join(rows) + "\n")
        at_eight = float(seconds[0])
        note = "concurrency ÷ throughput of ordinary decoding; all of the growth read as cost of requests in the step, none of tokens"
    speed = float(fixed[fixed["concurrency"] == 1]["throughput_tok_s_total"].iloc[0])
    length = speed * at_eight
    conditional = [constant_rate(length, 7)] * 7
    source = f"{TPU}: fixed 7 at concurrency 1 runs {speed:g} tok/s, so {length:.2f} tokens a round; drafting is within"
    without_head(shape(conditional).generate("dspark", "fitted", source)).save(folder / "dspark.parquet")
    save(
        Profile(
            format=1,
            name=folder.name,
            hardware="8 TPU v7x chips",
            engine="sglang-jax, pull request 1632",
            target="Qwen3-8B",
            gpus_per_replica=8,
            costs=Costs(
                verify=MeasuredTable(provenance="fitted", source=f"{TPU} (published/sweep.csv)", note=note, file="verify.csv", between="linear"),
                overhead=Overhead(provenance="fitted", source=TPU, note="within the step cost; the sweep cannot show it apart"),
            ),
            drafters={
                "dspark": Drafter(
                    family="dspark",
                    gamma=7,
                    draft=LinearDraft(provenance="fitted", source=TPU, note="within the acceptance; the sweep cannot show it apart"),
                    blocks="dspark.parquet",
                    note="one conditional acceptance at every slot, so that fixed 7 at concurrency 1 runs as published",
                )
            },
            published={
                "sweep": PublishedTable(
                    file="published/sweep.csv", x="concurrency", y="throughput_tok_s_total", label="published (pull request 1632)", source=TPU
                )
            },
            assumed=[
                f"what a step costs beyond one request is due to its {reading}",
                "acceptance from one published point: fixed 7 at concurrency 1, draft cost included",
                "prompts are left out: their share is within the published throughput",
            ],
            not_identifiable=[
                "cost per token against cost per request: this profile and its twin are the two ends",
                "draft cost",
                "acceptance by slot",
            ],
        ),
        folder,
    )


CONFIDENCE = [
    "confidences are calibrated and as informative as the parametric generator's defaults, which follow the DSpark paper's Figure 6",
    "the spread of difficulty along a text is the generator's default",
]


def coding_acceptance() -> list[float]:
    """Conditional acceptance by slot from the accepted lengths at k = 1 … 7. The one at 7 is below that at 6, which no acceptance can
    give (each k is its own run), so slot 7 is taken like slot 6."""
    rows = read(HERE / "deepseek-v4-pro-0813-b300" / "published" / "accepted_length_by_k.csv")
    mine = rows[(rows["checkpoint"] == "v4-pro-0813") & (rows["thinking"] == "on") & (rows["k"] <= 6)].sort_values("k")
    survival = np.diff(mine["accepted_length"].to_numpy(float), prepend=1.0)
    conditional = survival / np.array([1.0, *survival[:-1]])
    return [*(round(float(c), 4) for c in conditional), round(float(conditional[-1]), 4)]


def shape(conditional: list[float]) -> ParametricAcceptance:
    """The generator's defaults with these marginals, confidences calibrated."""
    return ParametricAcceptance(conditional={"mix": conditional}, miscalibration=[1.0] * len(conditional), **SEQUENCES)


def constant_rate(length: float, slots: int) -> float:
    """The conditional acceptance that gives this accepted length."""
    from scipy.optimize import brentq

    return float(brentq(lambda c: 1 + sum(c**k for k in range(1, slots + 1)) - length, 1e-6, 1 - 1e-6))


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, comment="#")


def write_table(path: Path, x: object, seconds: object, key: str, regime: object = None) -> None:
    table = pd.DataFrame({key: np.asarray(x, dtype=float), "p50_s": np.round(np.asarray(seconds, dtype=float), 8)})
    if regime is not None:
        table["regime"] = np.asarray(regime)
    table[key] = table[key].map(lambda value: f"{value:g}")
    table.to_csv(path, index=False, lineterminator="\n")


def save(profile: Profile, folder: Path) -> None:
    save_profile(profile.model_copy(update={"environment": {"made_by": "python profiles/make_published.py"}}), folder, MADE_BY)
    for name in profile.drafters:
        RecordedBlocks.load(folder / profile.drafters[name].blocks)
    print(f"written: {folder.name}")


if __name__ == "__main__":
    main()
