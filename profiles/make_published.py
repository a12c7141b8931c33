"""Makes the profiles of systems that others measured and published. Run: python profiles/make_published.py

What is fitted or assumed is written into each profile. Of every sweep the line of ordinary decoding is used, alone or with a few of the points with
speculation, by the joint fit of `dsim fit` (docs/fit.md), so that what the scenarios in scenarios/published simulate of the rest is a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, DraftTable, MeasuredTable, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.points import conditional_of
from simulator.measurements.profile import Drafter, Profile, PublishedTable, save_profile
from simulator.measurements.surface import fit_surface
from simulator.measurements.surface_priors import DraftKind
from simulator.study.profiles.points_fit import fitted_drafter

HERE = Path(__file__).parent
MADE_BY = "Made by `python profiles/make_published.py`; do not edit by hand."
BLOG = "vLLM blog on adaptive verification (14 August 2026)"
INFERENCEX = "InferenceX golden values (SPEED-Bench coding, T = 1, checkpoint v4-pro-0813, thinking on)"
TPU = "sgl-project/sglang-jax pull request 1632"
# Points with speculation that go into a fit: none; the one that a team would take first; and the corners of the sweep with it.
PRO_POINTS = ((), (("fixed_3", 64),), (("fixed_3", 64), ("fixed_7", 1), ("fixed_7", 256)))
TPU_POINTS = ((), (("fixed_7", 1), ("fixed_7", 128)))
EAGER_EDGE = 1025  # the largest captured step of the Flash profile
SEQUENCES = {"sequences_per_domain": 48, "anchors_per_sequence": 192}


def main() -> None:
    flash()
    sweeps()


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
                    acceptance_of="DeepSeek-V4-Pro-0813",
                    note="acceptance of DeepSeek-V4-Pro-0813 on code; that of Flash is not published",
                )
            },
            published={"step_cost": PublishedTable(file="published/step_cost.csv", x="x", y="milliseconds", label="step cost", source=BLOG)},
            assumed=["acceptance is that of Pro on code", *CONFIDENCE],
            not_identifiable=["cost of context: one context length was profiled", "host time between steps", "memory for KV, prefill cost"],
        ),
        folder,
    )


def sweeps() -> None:
    """Profiles from published sweeps: all points without speculation, and none or a few of those with it; the rest of the sweep is predicted."""
    lengths = coding_lengths()
    blog = {"hardware": "8 B300", "engine": "vLLM 73b8394, tensor parallel 8, expert parallel, FP8 KV cache, graphs to 4096 tokens",
            "target": "DeepSeek-V4-Pro-0813", "source": BLOG, "label": "published (blog, figure 3)"}  # fmt: skip
    for points in PRO_POINTS:
        fitted(f"deepseek-v4-pro-0813-b300{suffix(points)}", "deepseek-v4-pro-0813-b300", blog, points, "block", lengths)
    jax = {"hardware": "8 TPU v7x chips", "engine": "sglang-jax, pull request 1632", "target": "Qwen3-8B", "source": TPU,
           "label": "published (pull request 1632)"}  # fmt: skip
    for points in TPU_POINTS:
        fitted(f"qwen3-8b-tpu-v7x8{suffix(points)}", "qwen3-8b-tpu-v7x8", jax, points, "block", [])


def suffix(points: Sequence[tuple[str, int]]) -> str:
    """What tells a profile from that of the same sweep without speculative points."""
    return f"-{len(points)}-point" + "s" * (len(points) > 1) if points else ""


def fitted(name: str, data: str, about: dict[str, str], points: Sequence[tuple[str, int]], kind: DraftKind, lengths: Sequence[float]) -> None:
    """A profile of one sweep, `points` of it (policy, concurrency) fitted beside ordinary decoding."""
    folder, file = HERE / name, HERE / data / "published" / "sweep.csv"
    sweep = read(file)
    kept = sweep[(sweep["policy"] == "none") | pd.Series(list(zip(sweep["policy"], sweep["concurrency"], strict=True))).isin(list(points))]
    users = kept["concurrency"].to_numpy(float)
    speeds = kept["throughput_tok_s_total"].to_numpy(float) / users
    slots = [0 if policy == "none" else int(policy.rpartition("_")[2]) for policy in kept["policy"]]
    said = [f"{policy}, {user:g} users" for policy, user in zip(kept["policy"], users, strict=True)]
    read_points = [
        LoadPoint(what, float(v), float(v * user), slots=k, offered=float(user)) for what, v, user, k in zip(said, speeds, users, slots, strict=True)
    ]
    drafters = ["dspark" if k else "" for k in slots]
    shape = {"dspark": conditional_of(lengths)} if lengths else {}
    source = f"{about['source']} (published/sweep.csv), {len(kept)} points"
    fit = fit_surface(read_points, drafters, kinds={"dspark": kind}, shape=shape, slots=7, also=("dspark",), source=source)
    fit.check()
    drafter, blocks = fitted_drafter("dspark", fit.drafters["dspark"], kind, about["source"])
    folder.mkdir(exist_ok=True)
    blocks.save(folder / drafter.blocks)
    published = {"sweep": table(folder, file, "sweep.csv", "throughput_tok_s_total", about)}
    if "adaptive_7" in set(sweep["policy"]):
        adaptive = sweep[sweep["policy"] == "adaptive_7"][["concurrency", "tps_per_user"]]
        text = f"# {about['source']}, adaptive verification (of sweep.csv)\n" + adaptive.to_csv(index=False, lineterminator="\n")
        (folder / "published" / "adaptive_speed.csv").write_text(text)
        published["adaptive_speed"] = PublishedTable(
            file="published/adaptive_speed.csv", x="concurrency", y="tps_per_user", label=f"adaptive, {about['label']}", source=about["source"]
        )
    used = f"of the points with speculation only {', '.join(said[i] for i, k in enumerate(slots) if k) or 'none'} went into the fit"
    shaped = (
        f"acceptance by position has the shape of {INFERENCEX}, its level is fitted"
        if lengths
        else "acceptance by position falls as in other systems"
    )
    profile = Profile(
        format=1,
        name=name,
        hardware=about["hardware"],
        engine=about["engine"],
        target=about["target"],
        gpus_per_replica=8,
        costs=fit.costs,
        drafters={"dspark": drafter},
        published=published,
        uncertainty=fit.uncertainty,
        assumed=[*fit.assumed, used, shaped, *CONFIDENCE],
        not_identifiable=fit.unknown,
    )
    save(profile, folder)


def table(folder: Path, file: Path, name: str, y: str, about: dict[str, str]) -> PublishedTable:
    """The published table beside a profile, copied where it is that of another."""
    (folder / "published").mkdir(exist_ok=True)
    if (folder / "published" / name) != file:
        (folder / "published" / name).write_bytes(file.read_bytes())
    return PublishedTable(file=f"published/{name}", x="concurrency", y=y, label=about["label"], source=about["source"])


CONFIDENCE = [
    "confidences are calibrated and as informative as the parametric generator's defaults, which follow the DSpark paper's Figure 6",
    "the spread of difficulty along a text is the generator's default",
]


def coding_lengths() -> list[float]:
    """Accepted length at k = 1 … 7 on code; see coding_acceptance of the one at 7."""
    survival = np.cumprod(coding_acceptance())
    return [float(length) for length in 1 + np.cumsum(survival)]


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
