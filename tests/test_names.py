"""Names are names, and paths that a file may have lead somewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.measurements.profile import Profile
from simulator.names import check_file_name, check_label, check_name, check_place, check_word
from simulator.schema import validate
from simulator.study.planning.question import PlanFile
from simulator.study.run.scenario import Scenario, load_scenario, validate_scenario
from tests.conftest import PROFILE, SCENARIO
from tests.planning.conftest import PLAN

NO_LABELS = (
    "",
    " ",
    " a",
    "a ",
    "a\nb",
    "a\tb",
    "\x1b[31mred",
    "a\x00",
    "a\u202eb",
    "a\u2066b",
    "\ufeffa",
    "a\u2028b",
    "\ud800",
    "x" * 201,
    "x" * 5000,
)
NO_NAMES = (*NO_LABELS, ".", "..", "a/b", "/a", "../a", "a\\b", "/")
NO_FILES = (*NO_NAMES, ".a", "-a", "--force", "a b", "größe", "a:b", "~", "$HOME", "a*", "%41")
NAMES = ("no speculation", "MTP-1", "k=3", "größe 日本", "50 % (fast) + 2", "fixed k=4", "..a", "a..b", ".5", "-", "x" * 200)
FILES = ("v4-flash-pareto", "a.b", "_", "1", "A_b-c.d", "a..b", "x" * 200)


def test_names() -> None:
    for check, wrong, right in ((check_label, NO_LABELS, ("a/b", *NAMES)), (check_name, NO_NAMES, NAMES), (check_file_name, NO_FILES, FILES)):
        for text in wrong:
            with pytest.raises(ValueError, match="expected"):
                check(text)
        assert [check(text) for text in right] == list(right)


def test_words_of_the_command_line() -> None:
    assert check_word("mtp", "--drafter", file=True) == "mtp"
    with pytest.raises(DsimError, match=r"^--drafter: expected letters, .*, got '\.\./esc'; choose another name$"):
        check_word("../esc", "--drafter", file=True)


def test_places() -> None:
    for text in ("a/b", "../x y", "~/größe", "/"):
        assert check_place(text) == text
    for text in ("a\0b", "a\nb", "x" * 256, "/".join(["xxx"] * 2000), "\ud800"):
        with pytest.raises(ValueError, match="expected a path"):
            check_place(Path(text))


def policies(change: dict[str, Any]) -> dict[str, Any]:
    return {"policies": [{"name": "plain", "verification": {"kind": "none"}} | change]}


KEYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "name": lambda text: {"name": text},
    "policies.0.name": lambda text: policies({"name": text}),
    "policies.0.drafter": lambda text: policies({"drafter": text, "verification": {"kind": "fixed", "length": 1}}),
    "baseline": lambda text: {"baseline": text},
    "profile": lambda text: {"profile": text},
    "engine.scheduler_profile": lambda text: {"engine": {"scheduler_profile": text}},
}


@pytest.mark.parametrize("key", KEYS)
def test_of_a_scenario(world: Path, key: str) -> None:
    for text in ("a\0b", "a\nb", "x" * 5000) + (() if "profile" in key else ("..", ".", "a/b")):
        with pytest.raises(DsimError) as refused:
            validate_scenario(SCENARIO | KEYS[key](text), world / "small.yaml")
        assert refused.value.key == key
        assert len(refused.value.line()) < 500


PLANNED: dict[str, dict[str, Any]] = {
    "name": {"name": ".."},
    "profiles.0.profile": {"profiles": ["a\0b"]},
    "policies.0.name": policies({"name": "a/b"}),
    "settings.0.name": {"settings": [{"name": ".."}]},
}


@pytest.mark.parametrize("key", PLANNED)
def test_of_a_plan(key: str) -> None:
    with pytest.raises(DsimError) as refused:
        validate(PlanFile, PLAN | PLANNED[key], "plan.yaml")
    assert refused.value.key == key


def test_of_domains_and_drafters() -> None:
    with pytest.raises(DsimError, match=r"^s.yaml: workload.domains: expected one line .*; rename it$"):
        validate(Scenario, SCENARIO | {"workload": SCENARIO["workload"] | {"domains": {"a\nb": 1}}}, "s.yaml")
    with pytest.raises(DsimError, match=r"^p.yaml: drafters: expected a name, not a path.*; rename it$"):
        validate(Profile, PROFILE | {"drafters": {"../x": PROFILE["drafters"]["mtp"]}}, "p.yaml")


def test_a_home_that_is_not_there(scenario: Callable[..., Path]) -> None:
    lengths = {"kind": "empirical", "path": "~nobody-of-that-name/x.csv"}
    with pytest.raises(DsimError, match=r"workload.output_tokens.path: expected a path, got the home folder of an unknown user"):
        load_scenario(scenario(workload=SCENARIO["workload"] | {"output_tokens": lengths}))
    with pytest.raises(DsimError, match=r"workload.trace.path: expected a path, got the home folder of an unknown user"):
        load_scenario(scenario(workload={"trace": {"path": "~nobody-of-that-name/x.csv"}}))
