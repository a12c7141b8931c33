"""The page of a plan: one HTML file that needs nothing else, its Markdown twin with still pictures, and the pictures as files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from simulator.files import write_whole
from simulator.report import plan_tables as tables
from simulator.report import wording
from simulator.report.run.page import templates

Result = Mapping[str, Any]


def write_plan_report(result: Result, folder: Path) -> Path:
    """Write report.html, report.md and the pictures into `folder`; the path of report.html."""
    from simulator.report.plots import plan as pictures
    from simulator.report.plots import style

    around = _context(result)
    for stem, draw in (("plan_frontier", pictures.frontier), ("plan_what_if", pictures.tornado), ("plan_day", pictures.day)):
        figure = draw(result)
        if figure is None:
            for ending in ("png", "svg"):
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
        else:
            style.save(figure, folder, stem)
            around["pictures"].append(stem)
    for name, text in (("report.md", _markdown(around)), ("report.html", page(result))):
        write_whole(folder / name, text.encode())
    return folder / "report.html"


def page(result: Result) -> str:
    """The whole page, its plotting library and data inside."""
    from plotly.offline import get_plotlyjs

    around = _context(result)
    around["plotly"] = Markup(get_plotlyjs().replace("</script", "<\\/script"))
    around["data"] = Markup(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
    return templates().get_template("plan.html.j2").render(around)


def _markdown(around: Mapping[str, Any]) -> str:
    return templates().get_template("plan.md.j2").render(around)


def _context(result: Result) -> dict[str, Any]:
    best = next(c for c in result["cells"] if c["cell"] == result["best"])
    currency = result["price"]["currency"]
    asked = result["plan"]
    return {
        "result": result,
        "title": asked["question"] or asked["name"],
        "warnings": sorted(result["warnings"], key=lambda w: w["severity"] != "warning"),
        "facts": _facts(result, best, currency),
        "choices": tables.choices(result),
        "at_promise": tables.at_promise(result, result["sla"]["speed"]["tps"]),
        "points": tables.points(result),
        "what_if": tables.what_if(result),
        "day": tables.day(result),
        "gains": tables.gains(result),
        "break_even": tables.break_even(result),
        "provenance": tables.provenance(result),
        "command": _command(asked),
        "content": yaml.safe_dump(json.loads(json.dumps(asked["content"], default=str)), sort_keys=False, allow_unicode=True),
        "pictures": [],
        "words": WORDS,
    }


def _facts(result: Result, best: Mapping[str, Any], currency: str) -> list[tuple[str, str]]:
    load, price = result["load"], next(p for p in result["profiles"] if p["name"] == best["profile"])
    return [
        ("replicas", wording.load(best["replicas"])),
        ("GPUs", wording.load(best["gpus"])),
        (f"{currency} per million output tokens", tables.money(best["cost_per_mtok"])),
        (f"{currency} per hour", tables.money(best["cost_per_hour"])),
        ("load that still fits", wording.percent(best["headroom"])),
        ("a GPU-hour", f"{tables.money(price['gpu_hour'])} {currency}"),
        ("load", f"{wording.load(load['mean_rps'])} requests/s, {wording.plain(load['peak_rps'], 1)} at the peak"),
        ("hardware", price["hardware"]),
        ("model", price["target"]),
        ("trials", str(result["trials"])),
    ]


def _command(asked: Mapping[str, Any]) -> str:
    parts = ["dsim", "plan", str(asked["file"])]
    for override in asked["overrides"]:
        parts += ["--set", override]
    return shlex.join(parts)


def _plain(result: Result) -> dict[str, Any]:
    """What the page's script reads: no YAML, no provenance."""
    return {k: v for k, v in result.items() if k not in ("plan", "profiles", "conditions", "warnings")}


WORDS = (
    ("promise", "The least speed that a share of the users must reach, each over its own answer, and the longest wait for the first token."),
    ("kept", "The next replication, too, keeps every promise, with 95 % confidence (Student's prediction bound over replications)."),
    ("speed", "(output tokens − 1) / (last token − first token) of a request; the share promised reaches at least the value shown."),
    ("TTFT", "From arrival to the first token. A request that died with its replica counts from its arrival to the first token it keeps."),
    ("headroom", "How much more load the planned fleet still carries, found to within 3 %."),
    ("cost", "GPUs × price, whether busy or not, over the tokens of the whole span of the traffic."),
    ("budget", "Tokens per request sent through the target in a step, the anchor included."),
    ("accepted length", "Tokens committed per request and step, the bonus token included."),
    ("fluid bound", "Replicas that would do if nothing queued and every user were the mean one; where the search begins."),
)
