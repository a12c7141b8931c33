"""A scenario's or plan's file before it is checked: its YAML with the --set overrides, refused where it is a file of another kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from simulator.errors import ScenarioError
from simulator.reading.yaml_files import parse_yaml, read_yaml

What = Literal["scenario", "plan"]

# keys at the top of a file that only its kind has, and what to do with one that came to the wrong command
_SIGNS = {
    "scenario": frozenset({"profile", "baseline", "load", "engine", "validation"}),
    "plan": frozenset({"profiles", "settings", "load_rps", "growth", "price", "promises", "what_if"}),
    "profile": frozenset({"format", "gpus_per_replica", "costs", "drafters"}),
    "result": frozenset({"dsim_version", "kind", "answer", "warnings"}),
}
_REMEDIES = {
    "scenario": "use dsim run {path}",
    "plan": "use dsim plan {path}",
    "profile": "write its folder as 'profile' into a scenario, or use dsim profile check {folder}",
    "result": "name the YAML file that it is the result of",
}
# keys that a plan has and a scenario lacks, where both have the key above (tests/study/test_document.py)
PLAN_KEYS = frozenset({
    "profiles", "policies.lengths", "settings", "load_rps", "growth", "sla.ttft", "sla.probability", "sla.class_share", "price", "fleet.min_replicas",
    "fleet.max_replicas", "fleet.survive_loss", "fleet.start_up_s", "run.window_s", "promises", "what_if",
})  # fmt: skip


def read_document(path: Path, what: What, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a scenario or plan with `key.to=value` overrides applied. Raises ScenarioError."""
    content = read_yaml(path)
    kind = max(_SIGNS, key=lambda kind: len(_SIGNS[kind] & content.keys()))
    own, other = len(_SIGNS[what] & content.keys()), len(_SIGNS[kind] & content.keys())
    if other > 1 and other > 3 * own:
        raise ScenarioError(f"expected a {what}, got a {kind}", where=path, remedy=_REMEDIES[kind].format(path=path, folder=path.parent))
    apply_overrides(content, overrides)
    return content


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set several, each key once. Raises ScenarioError."""
    paths = [override.partition("=")[0].strip() for override in overrides]
    for override, name in zip(overrides, paths, strict=True):
        if paths.count(name) > 1:
            raise ScenarioError("is set more than once", where="--set", key=name, remedy="keep one")
        apply_override(content, override)


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one `path.to.key=value` (numbers index lists; an entry with a name may be named) in the YAML's content."""
    path, sign, text = override.partition("=")
    path = path.strip()
    if not sign or not path:
        raise ScenarioError(f"'{override}' is not path.to.key=value", where="--set", remedy="for example --set run.replications=5")
    plain = re.sub(r"[\[/:\]]+", ".", path).lstrip("-").strip(".")
    if path != plain or ".." in path:
        remedy = f"write {re.sub(r'[.]+', '.', plain)}"
        raise ScenarioError("expected keys with dots between them", where="--set", key=path, remedy=remedy)
    try:
        value = parse_yaml(text, "--set")
    except ScenarioError as problem:
        remedy = f"{problem.remedy}; in a shell, put all of it in quotes: --set '{path}=…'"
        raise ScenarioError(f"{problem.problem}, got {text.strip()!r}", where="--set", key=path, remedy=remedy) from None
    *parents, last = path.split(".")
    here: Any = content
    for part in parents:
        here = _enter(here, part, path)
    if isinstance(here, list):
        here[_position(here, last, path)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise _below(last, path)


def _enter(here: Any, part: str, path: str) -> Any:
    """One step down the content; missing mappings are made, so that a typo is then refused as an unknown key."""
    if isinstance(here, list):
        return here[_position(here, part, path)]
    if not isinstance(here, dict):
        raise _below(part, path)
    if here.get(part) is None:
        here[part] = {}
    return here[part]


def _below(part: str, path: str) -> ScenarioError:
    return ScenarioError(f"'{part}' lies below a plain value", where="--set", key=path, remedy="set the value above it")


def _position(items: list[Any], part: str, path: str) -> int:
    names = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    if part in names:
        return next(i for i, item in enumerate(items) if isinstance(item, dict) and str(item.get("name")) == part)
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(items):
        remedy = f"count from 0{', or name one: ' + ', '.join(names) if names else ''}"
        raise ScenarioError(f"'{part}' is not an entry of a list of {len(items)}", where="--set", key=path, remedy=remedy)
    return int(part)
