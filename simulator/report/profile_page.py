"""A profile's page: one HTML file that needs nothing else, and one picture of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from simulator.files import write_whole
from simulator.measurements.cost import FittedCurve
from simulator.measurements.profile import Profile
from simulator.report import profile_tables, tables, wording
from simulator.report.page import Picture
from simulator.report.profile_numbers import LAGS, DrafterNumbers, remarks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.report.plots.style import Look

PAGE, OVERVIEW = "profile.html", "overview.png"


def default_folder(profile: Profile) -> Path:
    """reports/profile-<name>, the name fit for a folder."""
    return Path("reports") / f"profile-{re.sub(r'[^A-Za-z0-9._-]+', '-', profile.name).strip('-.') or 'unnamed'}"


def write_profile_page(profile: Profile, drafters: Sequence[DrafterNumbers], folder: Path) -> tuple[Path, Path]:
    """Write profile.html and overview.png into `folder`; their paths. Raises DsimError where the folder cannot be written."""
    from simulator.report import plots
    from simulator.report.plots.profile_overview import overview
    from simulator.report.plots.style import png

    pictures = {}
    for stem, (alt, draw) in _wanted(profile, drafters).items():
        inline = [plots.inline(plots.svg(draw(look), f"{stem}{end}"), f"{stem}{end}") for look, end in ((plots.WIDE, ""), (plots.PHONE, "-phone"))]
        pictures[stem] = Picture(stem, alt, *(Markup(text) for text in inline))
    environment = Environment(loader=PackageLoader("simulator.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("profile.html.j2").render(_context(profile, drafters) | {"pictures": pictures})
    write_whole(folder / PAGE, text)
    write_whole(folder / OVERVIEW, png(overview(profile, drafters)))
    return folder / PAGE, folder / OVERVIEW


def _wanted(profile: Profile, drafters: Sequence[DrafterNumbers]) -> dict[str, tuple[str, Callable[[Look], Figure]]]:
    """The pictures that this profile can show: stem, what each shows in words, and how it is drawn."""
    from simulator.report.plots import profile_acceptance as acceptance
    from simulator.report.plots import profile_costs as costs

    names = ", ".join(numbers.name for numbers in drafters)
    found: dict[str, tuple[str, Callable[[Look], Figure]]] = {
        "verify": ("Milliseconds of a verify step by the tokens in it.", lambda look: costs.verify(profile, look)),
    }
    if any(costs.draft_parts(profile, drafter) for drafter in profile.drafters.values()):
        found["drafting"] = (f"Milliseconds of drafting a round by requests: {names}.", lambda look: costs.drafting(profile, look))
    if profile.costs.prefill:
        found["prefill"] = ("Milliseconds of a prefill step by its tokens.", lambda look: costs.prefill(profile, look))
    if drafters:
        found["length"] = (f"Accepted length by domain: {names}.", lambda look: acceptance.accepted_length(drafters, look))
        found["conditional"] = (f"Conditional acceptance by position and domain: {names}.", lambda look: acceptance.conditional(drafters, look))
        found["correlation"] = (f"Autocorrelation of accepted counts by lag: {names}.", lambda look: acceptance.correlation(drafters, look))
    if any(numbers.thresholds for numbers in drafters):
        what = "Committed and rejected tokens per step by confidence threshold."
        found["thresholds"] = (what, lambda look: acceptance.thresholds(drafters, look))
    for place, numbers in enumerate(drafters):
        if numbers.calibration:
            what = f"Observed against predicted prefix survival of {numbers.name} by position, before and after calibration."
            found[f"reliability-{place}"] = (what, lambda look, numbers=numbers: acceptance.reliability(numbers, look))  # type: ignore[misc]
    return found


def _context(profile: Profile, drafters: Sequence[DrafterNumbers]) -> dict[str, Any]:
    """All that the template is given beside the pictures."""
    costly = [row for name in profile.drafters for row in profile_tables.draft_rows(profile, name)]
    return {
        "version": version("dsim"),
        "profile": profile,
        "facts": _facts(profile),
        "suspicious": profile.suspicious,
        "remarks": remarks(profile, list(drafters)),
        "verify_note": _verify_note(profile),
        "verify": profile_tables.cells(profile, "verify"),
        "prefill": profile_tables.cells(profile, "prefill"),
        "drafting": profile_tables.drafting(costly),
        "acceptance": profile_tables.acceptance(drafters),
        "positions": profile_tables.positions(drafters),
        "calibrated": [(f"reliability-{i}", profile_tables.calibration(numbers)) for i, numbers in enumerate(drafters) if numbers.calibration],
        "lags": LAGS,
        "provenance": tables.provenance({"profile": {"provenance": profile.provenance()}}),
        "environment": list(_flat(profile.environment)),
    }


def _facts(profile: Profile) -> list[tuple[str, str]]:
    low, high = profile.costs.verify.tokens_range()
    kv = profile.kv_tokens(None)
    return [
        ("target", profile.target),
        ("hardware", profile.hardware),
        ("GPUs per replica", f"{profile.gpus_per_replica:g}"),
        ("engine", profile.engine),
        ("drafters", ", ".join(f"{name} ({d.family}, block {d.gamma})" for name, d in profile.drafters.items()) or "none"),
        ("verify cost known", f"{low:.4g}…{high:.4g} tokens per step"),
        ("KV memory", f"{kv:,} tokens per replica" if kv else "not known"),
        ("overhead", _overhead(profile)),
    ]


def _overhead(profile: Profile) -> str:
    overhead = profile.costs.overhead
    beside = f" and {wording.plain(1000 * overhead.per_request_s)} ms per request" if overhead.per_request_s else ""
    return f"{wording.plain(1000 * overhead.seconds)} ms per step{beside}"


def _verify_note(profile: Profile) -> str:
    """What the verify picture's lines are."""
    cost = profile.costs.verify
    if isinstance(cost, FittedCurve):
        cliffs = "; ".join(f"a jump of {wording.plain(1000 * c.add_s)} ms above {c.tokens} tokens" for c in cost.cliffs)
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
