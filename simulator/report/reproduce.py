"""The section of a page that says how to make it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from simulator.report.blocks import PAGES, Code, Folded, Text
from simulator.report.page import Section, section
from simulator.study.planning.result import PlanFacts
from simulator.study.run.facts import ScenarioFacts


def reproduce(kind: str, facts: ScenarioFacts | PlanFacts, version: str) -> Section | None:
    """The command `dsim KIND`, the versions behind it, and the file as it was read."""
    command = shlex.join(["dsim", kind, facts.file, *(part for override in facts.overrides for part in ("--set", override))])
    content = yaml.safe_dump(_plain(facts.content), sort_keys=False, allow_unicode=True, width=100)
    return section(
        "again",
        "Reproduce",
        Code(command, "Command"),
        Text(f"dsim {version}, seed {facts.seed}. Every number is in result.json beside this page."),
        Folded("The file", (Code(content, "File"),)),
        on=PAGES,
    )


def _plain(raw: Any) -> Any:
    """Plain data only, with numbers that are no numbers as null."""
    if isinstance(raw, Mapping):
        return {str(key): _plain(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_plain(value) for value in raw]
    if isinstance(raw, float) and not math.isfinite(raw):
        return None
    return raw if isinstance(raw, str | int | float | bool | None) else str(raw)
