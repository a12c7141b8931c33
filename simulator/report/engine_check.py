"""Simulator against engine, for people: a table, and both frontiers on one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.files import whole
from simulator.study.validation.engine_check import HEADLINE, NUMBERS

SHOWN = (*HEADLINE, "accepted_length", "verification_budget", "ttft_p50_s", "step_p50_s")


def engine_table(found: dict[str, Any]) -> str:
    """One line a run: simulated over measured, error in percent; then medians, worst, ranking."""
    width = max(len(row["policy"]) for row in found["runs"])
    head = (
        f"{'policy':<{width}} {'load':>5}  "
        + "  ".join(f"{NUMBERS[name]:>26}" for name in SHOWN)
        + f"  {'cost model':>10} {'acceptance':>10} {'rest':>7} {'noise':>6}"
    )
    lines = [head]
    for row in found["runs"]:
        cells = [f"{_plain(row['simulated'][n])} / {_plain(row['measured'][n])} {row['error'][n]:+6.1%}" for n in SHOWN]
        why, load = row["why"], "open" if row["open_loop"] else str(row["concurrency"])
        parts = f"{why['cost_model']:>+10.1%} {why['acceptance']:>+10.1%} {why['rest']:>+7.1%} {why['step_noise']:>6.0%}"
        lines.append(f"{row['policy']:<{width}} {load:>5}  " + "  ".join(f"{cell:>26}" for cell in cells) + f"  {parts}")
    lines.append("")
    for name, one in found["summary"].items():
        if one:
            lines.append(f"{NUMBERS[name]:<22} median error {one['median']:6.1%}   worst {one['worst']:6.1%}")
    rank = found["ranking"]
    if rank["pairs"]:
        lines.append(f"better policy named in {rank['right']} of {rank['pairs']} pairs whose measured throughputs differ by more than 3 %")
    lines += [_judged(row) for row in found.get("rows", [])]
    lines.append(
        "simulated / measured; cost model, acceptance and rest are the parts of the throughput's error; noise: p10 to p90 of step time over its price"
    )
    return "\n".join(lines)


def _judged(row: dict[str, Any]) -> str:
    found = "not known" if row["difference"] is None else f"{row['difference']:.1%}"
    return f"{row['what']}: {found}, limit {row['limit']:.0%}: {'within' if row['ok'] else 'outside'}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def engine_picture(found: dict[str, Any], path: Path, title: str) -> None:
    """Throughput against per-user speed: measured points, simulated ones joined by a line, a colour per policy."""
    from matplotlib.figure import Figure

    from simulator.report.plots import style

    with style.dressed():
        figure = Figure(figsize=(8.4, 5.4), layout="constrained")
        axes = figure.subplots()
        closed = [row for row in found["runs"] if not row["open_loop"]]
        for number, policy in enumerate(dict.fromkeys(row["policy"] for row in closed)):
            rows = sorted((row for row in closed if row["policy"] == policy), key=lambda row: row["concurrency"])
            tint = style.CYCLE[number % len(style.CYCLE)]
            for kind, look in (("simulated", {"linestyle": "-", "marker": ""}), ("measured", {"linestyle": "", "marker": "o", "markersize": 5})):
                x, y = ([row[kind][name] for row in rows] for name in HEADLINE)
                axes.plot(x, y, color=tint, label=policy if kind == "simulated" else None, **look)
            for row in rows:
                spot = row["measured"]["tps_per_user_p50"], row["measured"]["throughput_tok_s"]
                axes.annotate(str(row["concurrency"]), spot, textcoords="offset points", xytext=(4, 4), fontsize=7, color=style.FAINT)
        axes.set_xlabel("per-user speed p50, tok/s/user")
        axes.set_ylabel("throughput, tok/s")
        axes.set_title(f"{title}\nlines simulated, dots measured; numbers are requests at once", loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        with whole(path) as draft:
            figure.savefig(draft, dpi=150)
