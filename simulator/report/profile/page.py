"""A profile's page: step costs, acceptance, calibration, and what it all rests on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simulator.files import write_whole
from simulator.made import check_made, mark
from simulator.measurements.agreement import cell_count
from simulator.measurements.composed import OperatorVerify
from simulator.measurements.cost import MeasuredTable, Overhead, Scheduling
from simulator.measurements.profile import Profile
from simulator.report import wording
from simulator.report.blocks import PAGES, Block, Lines, Picture, Terms, Text, folded, only
from simulator.report.page import Notice, Page, Section, section, sections
from simulator.report.profile import tables
from simulator.report.profile.numbers import LAGS, DrafterNumbers, remarks
from simulator.report.profile.plots import acceptance, costs
from simulator.report.profile.plots.overview import overview
from simulator.report.render.html import html
from simulator.report.style import png
from simulator.report.tables import provenance
from simulator.study.run.facts import sources

PAGE, OVERVIEW = "profile.html", "overview.png"
FEW = 2  # suspicious cells that are shown one by one; of more there is a verdict, and each is marked in the tables
_SIGNS = (("spread", "spread"), ("measured again", "changed when measured again"), ("repeats", "have few repeats"))


@dataclass(frozen=True)
class Shown:
    """What every section is made from."""

    profile: Profile
    drafters: Sequence[DrafterNumbers]

    @property
    def names(self) -> str:
        return ", ".join(numbers.name for numbers in self.drafters)


def default_folder(profile: Profile) -> Path:
    """reports/profile-<name>, the name fit for a folder."""
    return Path("reports") / f"profile-{re.sub(r'[^A-Za-z0-9._-]+', '-', profile.name).strip('-.') or 'unnamed'}"


def write_profile_page(profile: Profile, drafters: Sequence[DrafterNumbers], folder: Path, replace: bool = False) -> tuple[Path, Path]:
    """Write profile.html and overview.png into `folder`; their paths. Raises DsimError where the folder cannot be written, or files of these names
    are not dsim's and may not be replaced."""
    check_made(folder, (PAGE, OVERVIEW), replace)
    write_whole(folder / PAGE, html(profile_page(profile, drafters)))
    write_whole(folder / OVERVIEW, png(overview(profile, drafters)))
    mark(folder, (PAGE, OVERVIEW))
    return folder / PAGE, folder / OVERVIEW


def profile_page(profile: Profile, drafters: Sequence[DrafterNumbers] | None = None) -> Page:
    """The page of a profile; without the numbers of its drafters a description alone."""
    shown = Shown(profile, drafters or ())
    return Page(
        title=profile.name,
        kind="dsim profile",
        name="",
        version=version("dsim"),
        sections=sections(DESCRIPTION if drafters is None else SECTIONS, shown),
        facts=_facts(profile),
        notices=(*_suspicious(profile), *(Notice(line) for line in remarks(profile, list(shown.drafters)))),
    )


def _suspicious(profile: Profile) -> Iterator[Notice]:
    lines = profile.suspicious
    remedy = "measure again on a machine that does nothing else"
    if len(lines) <= FEW:
        yield from (Notice(line, remedy, serious=True, label="Suspicious") for line in lines)
        return
    signs = [words for sign, words in _SIGNS if any(sign in line for line in lines)]
    number, cells = len(lines), cell_count(profile)
    of = f"{number} of {cells}" if cells >= number else f"{number}"
    why = f": their times {' or '.join(signs)}. The machine was busy, or too little was measured." if signs else "."
    yield Notice(f"{of} cost cells are suspicious{why}", remedy, serious=True, label="Suspicious", more=tuple(lines))


def _facts(profile: Profile) -> tuple[tuple[str, str], ...]:
    low, high = profile.costs.verify.tokens_range()
    kv, scheduling = profile.kv_tokens(None), profile.costs.scheduling
    return (
        ("target", profile.target),
        ("hardware", profile.hardware),
        ("GPUs per replica", f"{profile.gpus_per_replica:g}"),
        ("engine", profile.engine),
        ("drafters", ", ".join(f"{name} ({d.family}, block {d.gamma})" for name, d in profile.drafters.items()) or "none"),
        ("verify cost known", f"{wording.load(low)}…{wording.load(high)} tokens per step"),
        ("KV memory", f"{kv:,} tokens per replica" if kv else "not known"),
        ("overhead", _per_step(profile.costs.overhead)),
        *((("scheduling by prices", _per_step(scheduling)),) if scheduling else ()),
    )


def _per_step(cost: Overhead | Scheduling) -> str:
    beside = f" and {wording.plain(1000 * cost.per_request_s)} ms per request" if cost.per_request_s else ""
    return f"{wording.plain(1000 * cost.seconds)} ms per step{beside}"


def _drafters(shown: Shown) -> Section | None:
    return section("drafters", "Drafters", tables.drafters(shown.profile))


def _verify(shown: Shown) -> Section | None:
    profile, alt = shown.profile, "Milliseconds of a verify step by the tokens in it."
    picture = Picture("verify", alt, partial(costs.verify, profile), _verify_note(profile))
    return section("verify", "Verify", picture, folded(tables.cells(profile, "verify")), on=PAGES)


def _draft(shown: Shown) -> Section | None:
    profile, alt = shown.profile, f"Milliseconds of drafting a round by requests: {shown.names}."
    caption = "Drafters that cost nothing of their own are not drawn. A table is shown at its middle context."
    drawn = any(costs.draft_parts(profile, drafter) for drafter in profile.drafters.values())
    picture = Picture("drafting", alt, partial(costs.drafting, profile), caption) if drawn else None
    return section("draft", "Draft", picture, tables.drafting(profile), on=PAGES)


def _prefill(shown: Shown) -> Section | None:
    if not shown.profile.costs.prefill:
        return section("prefill", "Prefill", Text("No prefill cost in this profile."), on=PAGES)
    picture = Picture("prefill", "Milliseconds of a prefill step by its tokens.", partial(costs.prefill, shown.profile))
    return section("prefill", "Prefill", picture, folded(tables.cells(shown.profile, "prefill")), on=PAGES)


def _acceptance(shown: Shown) -> Section | None:
    if not shown.drafters:
        return None
    rounds = "Counted over the rounds of a run that verifies the whole block every time; a run that verifies less visits other anchors."
    lags = f"How much the accepted count at one anchor says about those 1 to {LAGS} anchors on, within a text."
    length, conditional, correlation = (
        Picture(stem, f"{what}: {shown.names}.", partial(draw, shown.drafters), caption, on=PAGES)
        for stem, what, draw, caption in (
            ("length", "Accepted length by domain", acceptance.accepted_length, rounds),
            ("conditional", "Conditional acceptance by position and domain", acceptance.conditional, "The form of Figure 2 of the DSpark paper."),
            ("correlation", "Autocorrelation of accepted counts by lag", acceptance.correlation, lags),
        )
    )
    positions = folded(only(PAGES, tables.positions(shown.drafters)))
    return section("accepted", "Acceptance", length, tables.acceptance(shown.drafters), conditional, positions, correlation)


def _threshold(shown: Shown) -> Section | None:
    if not any(numbers.thresholds for numbers in shown.drafters):
        return None
    alt = "Committed and rejected tokens per step by confidence threshold."
    caption = (
        "The block is cut before the first conditional confidence below the threshold (the form of Figure 5 of the DSpark paper); confidences "
        "calibrated where the profile has temperatures."
    )
    return section("threshold", "Threshold", Picture("thresholds", alt, partial(acceptance.thresholds, shown.drafters), caption), on=PAGES)


def _calibration(shown: Shown) -> Section | None:
    blocks: list[Block] = []
    for place, numbers in enumerate(shown.drafters):
        if numbers.calibration:
            alt = f"Observed against predicted prefix survival of {numbers.name} by position, before and after calibration."
            draw, caption = partial(acceptance.reliability, numbers), "On the line a predicted share is the observed one."
            blocks += [Picture(f"reliability-{place}", alt, draw, caption), tables.calibration(numbers)]
    return section("calibration", "Calibration", *blocks, on=PAGES)


def _grounds(shown: Shown) -> Section | None:
    profile = shown.profile
    return section(
        "grounds",
        "Data and assumptions",
        provenance(sources(profile)),
        Lines(tuple(profile.assumed), "Assumed, not measured"),
        Lines(tuple(profile.not_identifiable), "Not identifiable from this data"),
        Lines(tuple(profile.notes), "Notes"),
        Terms(tuple(_flat(profile.environment)), "Environment", on=PAGES),
        short="Data",
    )


DESCRIPTION = (_drafters, _grounds)
SECTIONS = (_verify, _drafters, _draft, _prefill, _acceptance, _threshold, _calibration, _grounds)


def _verify_note(profile: Profile) -> str:
    """What the verify picture's lines are."""
    cost = profile.costs.verify
    if isinstance(cost, OperatorVerify):
        return "Composed of operators that others measured: those that see tokens, and attention, which reads a request's cache once a step."
    if not isinstance(cost, MeasuredTable):
        cliffs = "; ".join(f"a jump of {wording.plain(1000 * c.add_s)} ms above {c.tokens} tokens" for c in getattr(cost, "cliffs", ()))
        return f"A formula with provenance «{cost.provenance}»{f': {cliffs}' if cliffs else ''}. Dotted: beyond the tokens that its data covers."
    padded = "A step is padded to the next measured size." if cost.between == "step" else "Between cells the simulator interpolates."
    if cost.padded_to:
        padded += f" The engine pads steps to {len(cost.padded_to)} sizes, of which not all were measured."
    return f"{padded} At most three contexts and six numbers of requests are drawn; the table has every cell."


def _flat(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
