"""Makes profiles/deepseek-v4-flash and profiles/deepseek-v4-pro from the figures of the DSpark paper. Run: python profiles/fit_deepseek_v4.py

Step costs come from the MTP-1 lines of Figure 7 alone. Acceptance of DSpark-5 is two numbers (level and spread) fitted, with the
simulated scheduler in the loop, to the DSpark line of Figure 7 and the budget line of Figure 8 of Flash. Pro takes that acceptance over, and
the cost of drafting times the ratio of both models' steps of one token, which the MTP-1 lines show: its DSpark line is given to no fit, so what is
simulated for it is a prediction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from fit_acceptance import AcceptanceFit, ScheduledPoint, fit_acceptance  # beside this script

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.calibration import fit_temperatures
from simulator.measurements.cost import Costs, LinearDraft, LinearPrefill, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import CostFit, Telemetry, fit_cost, read_telemetry
from simulator.measurements.profile import Drafter, Profile, PublishedTable, save_profile
from simulator.study.profiles.about import without_head

HERE = Path(__file__).parent
PAPER = "DSpark paper (DeepSeek-AI and Peking University, 2026, arXiv 2607.05147)"
MTP_ACCEPTED_LENGTH = 1.85  # assumed; DeepSeek-V3 reported 85-90 % acceptance of the second token
DRAFT_S_PER_REQUEST = 1.6e-5  # assumed on Flash for DSpark-5 beyond what MTP-1 drafting already costs; see not_identifiable
FIT_CONCURRENCY = (20, 35, 50, 75, 100, 125, 150, 175, 200)
GAMMA = 5
DOMAINS = ("math", "code", "chat")
MIX = {"chat": 1.0}  # of the published traffic, assumed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    flash, pro = HERE / "deepseek-v4-flash", HERE / "deepseek-v4-pro"
    cost = _cost(flash)
    print(f"Flash step cost: {cost.rms:.2%} rms over {cost.points} points (a + b B alone: {cost.plain_rms:.2%})")
    costs = _costs(cost)
    draft = _draft(DRAFT_S_PER_REQUEST, "trades with the level of acceptance, see not_identifiable")
    fit = fit_acceptance(_scheduled_points(flash), costs, draft, _shape(flash), MIX, lambda line: print("  " + line))
    acceptance = fit.acceptance
    print(f"Flash acceptance: level {acceptance.level_shift:+.3f} logits, spread {acceptance.spread:.3f}")
    print(f"  left over: speed {fit.speed_rms:.2%}, budget {fit.budget_rms:.2%} rms")
    _save(flash, "DeepSeek-V4-Flash", costs, draft, fit, "fitted", cost)
    flash_curve, cost = cost.curve, _cost(pro)
    print(f"Pro step cost: {cost.rms:.2%} rms over {cost.points} points (a + b B alone: {cost.plain_rms:.2%})")
    ratio = float(cost.curve.seconds(1.0) / flash_curve.seconds(1.0))
    slopes = cost.curve.per_token_s / flash_curve.per_token_s
    print(f"Pro against Flash: a step of one token {ratio:.3f} times, a further token {slopes:.3f} times")
    draft = _draft(
        float(f"{DRAFT_S_PER_REQUEST * ratio:.4g}"),
        f"that of Flash times {ratio:.3f}, the ratio of both models' steps of one token; by what a further token costs it would be {slopes:.3f}",
    )
    _save(pro, "DeepSeek-V4-Pro", _costs(cost), draft, fit, "synthetic", cost)


def _draft(per_request_s: float, note: str) -> LinearDraft:
    within = "drafting beyond that of MTP-1, whose cost is within the fitted step"
    return LinearDraft(provenance="synthetic", per_request_s=per_request_s, source="assumption", note=f"{within}; {note}")


def _cost(folder: Path) -> CostFit:
    telemetry = folder / "published" / "fig7_mtp.csv"
    source = f"{PAPER}, Figure 7, MTP-1 line (published/fig7_mtp.csv)"
    return fit_cost(read_telemetry(telemetry), MTP_ACCEPTED_LENGTH, 2.0, source=source)


def _costs(fit: CostFit) -> Costs:
    """Prefill is priced by the slope of the verify cost: a prompt token costs what a verified token costs."""
    curve = fit.curve
    prefill = LinearPrefill(
        provenance="synthetic",
        base_s=float(f"{curve.base_s + curve.concave_s:.5g}"),
        per_token_s=curve.per_token_s,
        source="assumption",
        note="a prompt token costs what a verified token costs, attention over long prompts left out; the paper publishes no prefill cost",
    )
    note = "within the fitted step cost; the line cannot show it apart"
    return Costs(verify=curve, prefill=prefill, overhead=Overhead(provenance="fitted", source=curve.source, note=note))


def _scheduled_points(folder: Path) -> list[ScheduledPoint]:
    """Speed from the DSpark line of Figure 7, budget from that of Figure 8, at the same concurrency."""
    line: Telemetry = read_telemetry(folder / "published" / "fig7_dspark.csv")
    order = np.argsort(line.concurrency)
    budget = pd.read_csv(folder / "published" / "fig8_budget_dspark.csv", comment="#")
    return [
        ScheduledPoint(
            r,
            float(np.interp(r, line.concurrency[order], line.tps_per_user[order])),
            float(np.interp(r, budget["concurrency"], budget["verification_budget"])),
        )
        for r in FIT_CONCURRENCY
    ]


def _shape(folder: Path) -> ParametricAcceptance:
    """How acceptance differs between positions and domains: Figure 2's DSpark rows (Qwen3-4B), first five positions."""
    rows = pd.read_csv(folder / "published" / "fig2_conditional_acceptance.csv", comment="#")
    rows = rows[(rows["drafter"] == "DSpark") & (rows["position"] <= GAMMA)].sort_values("position")
    by_domain = {domain: rows[rows["domain"] == domain]["conditional_acceptance"].tolist() for domain in DOMAINS}
    default = ParametricAcceptance(conditional=by_domain, miscalibration=[1.0] * GAMMA)
    stretch = ParametricAcceptance.model_fields["miscalibration"].default[:GAMMA]
    return default.model_copy(update={"miscalibration": stretch, "spread": 2.5, "level_shift": 0.2})


def _save(folder: Path, target: str, costs: Costs, draft: LinearDraft, fit: AcceptanceFit, provenance: str, cost: CostFit) -> None:
    acceptance = fit.acceptance
    carried = "" if provenance == "fitted" else "carried over from DeepSeek-V4-Flash: "
    numbers = f"level {acceptance.level_shift:+.3f} logits, spread {acceptance.spread:.3f}"
    source = f"{carried}fitted to {PAPER}, Figures 7 and 8 (Flash); positions and domains as Figure 2 (Qwen3-4B)"
    blocks = acceptance.generate("dspark", provenance, source)
    temperatures = [round(t, 4) for t in fit_temperatures(blocks.confidence, blocks.accepted)]
    blocks.save(folder / "dspark.parquet")
    _mtp(acceptance).save(folder / "mtp.parquet")
    alike = f"assumed accepted length {MTP_ACCEPTED_LENGTH}, all domains alike"
    within = LinearDraft(provenance="fitted", source=costs.verify.source, note="MTP-1 drafting is within the fitted step cost")
    profile = Profile(
        format=1,
        name=folder.name,
        hardware="DeepSeek's production GPUs (not named in the paper); all figures per GPU",
        engine="DeepSeek's production engine, wide expert parallelism, decode only",
        target=target,
        gpus_per_replica=1,
        costs=costs,
        drafters={
            "mtp": Drafter(family="mtp", gamma=1, draft=within, blocks="mtp.parquet", note=alike),
            "dspark": Drafter(
                family="dspark",
                gamma=GAMMA,
                draft=draft,
                blocks="dspark.parquet",
                confidence=True,
                temperatures=temperatures,
                acceptance_of="DeepSeek-V4-Flash" if carried else None,
                note=carried + numbers,
            ),
        },
        published=_published(folder),
        environment={"made_by": "python profiles/fit_deepseek_v4.py", "step_cost_rms": round(cost.rms, 5)}
        | ({"speed_rms": round(fit.speed_rms, 4), "budget_rms": round(fit.budget_rms, 4)} if provenance == "fitted" else {}),
        assumed=_assumed(provenance, draft),
        not_identifiable=_not_identifiable(),
        notes=["A replica is one GPU's share of the deployment: concurrency and throughput are the paper's, per GPU.", *_history(provenance)],
    )
    save_profile(profile, folder, "Made by `python profiles/fit_deepseek_v4.py`; do not edit by hand.")
    print(f"written: {folder.name}")


def _mtp(acceptance: ParametricAcceptance) -> RecordedBlocks:
    """The MTP drafter: one draft accepted as often as the assumed accepted length says, over the anchors that its own decoding visits."""
    rate = MTP_ACCEPTED_LENGTH - 1
    model = ParametricAcceptance(
        conditional={domain: [rate] for domain in DOMAINS},
        spread=acceptance.spread,
        correlation=acceptance.correlation,
        sequence_share=acceptance.sequence_share,
        miscalibration=[1.0],
        seed=1,
    )
    source = f"assumption: accepted length {MTP_ACCEPTED_LENGTH} in every domain; spread and correlation those of dspark"
    return without_head(model.generate("mtp", "synthetic", source))


def _history(provenance: str) -> list[str]:
    """What a reader of a prediction must know of how it was made."""
    if provenance == "fitted":
        return []
    first = f"{DRAFT_S_PER_REQUEST * 1e3:g} ms per request, as on Flash: +71 % throughput (70 … 73 %) and +65 % speed (59 … 70 %) at 35 tok/s/user"
    return [f"The first prediction had a draft cost of {first}. That drafting must be scaled with the model was seen after it was made."]


def _assumed(provenance: str, draft: LinearDraft) -> list[str]:
    lines = [
        f"accepted length of MTP-1 {MTP_ACCEPTED_LENGTH} (range 1.80-1.90): the lines show accepted length ÷ step time alone, "
        "so it scales every time",
        f"drafting with DSpark-5 costs {draft.per_request_s * 1e3:.3g} ms per request and round more than with MTP-1, nothing per round",
        "the slope of the step cost belongs to verified tokens, not to requests (at least 80 % of it does, by the DSpark line of Flash)",
        "the published speed may be a mean over requests or tokens over users' time, which differ by some 2 % here; the fit lies between the two",
        "the published traffic is taken as chat: the paper does not say what its users asked, but its throughput is concurrency times speed "
        "within 3 %, which an even mix of domains would break, and its Figure 6 looks like chat",
        "math and code differ from chat as in Figure 2 (Qwen3-4B)",
        "confidence errors and correlation along a text as the defaults of the parametric generator, which follow Figure 6",
        "prefill: a prompt token costs what a verified token costs; the paper publishes no prefill cost",
    ]
    if provenance != "fitted":
        lines.insert(1, "acceptance of DSpark-5 is that fitted on Flash: nothing of Pro's DSpark line was used")
        lines.insert(
            3,
            "that is Flash's times the ratio of both models' steps of one token (1.97), which the MTP-1 lines show. By what a further token costs it "
            "would be 2.80; by that for each layer (43 and 61 of them, three stages of the drafter in both) 1.98",
        )
    return lines


def _not_identifiable() -> list[str]:
    return [
        "the level of all step times (MTP-1's accepted length scales them)",
        "draft cost against acceptance: 0 to 4 ms of drafting a round trade with a conditional acceptance of 0.832 to 0.923 at equal residual",
        "acceptance by domain: only the mix shows",
        "the staircase of the engine's step rate: the published lines are averages over it (about ±10 %)",
        "memory for KV, prefill cost, host overhead: not published",
    ]


def _published(folder: Path) -> dict[str, PublishedTable]:
    known = {
        "fig7_mtp": ("fig7_mtp.csv", "tps_per_user", "throughput_tok_s_gpu", "MTP-1, published (Figure 7)"),
        "fig7_dspark": ("fig7_dspark.csv", "tps_per_user", "throughput_tok_s_gpu", "DSpark-5, published (Figure 7)"),
        "fig8_budget_dspark": ("fig8_budget_dspark.csv", "concurrency", "verification_budget", "DSpark-5 budget, published (Figure 8)"),
        "fig7_callouts": ("fig7_callouts.csv", "tps_per_user", "throughput_tok_s_gpu", "callouts of Figure 7"),
    }
    there = {name: row for name, row in known.items() if (folder / "published" / row[0]).is_file()}
    return {name: PublishedTable(file=f"published/{file}", x=x, y=y, label=label, source=PAPER) for name, (file, x, y, label) in there.items()}


if __name__ == "__main__":
    main()
