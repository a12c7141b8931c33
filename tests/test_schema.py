"""What a user gets to read when a file does not fit: one line, the real models, to the letter."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError, ProfileError, ScenarioError, TraceError
from simulator.reading.yaml_files import read_yaml
from simulator.study.run.scenario import Scenario, load_scenario

Write = Callable[..., Path]
CHUNKED = {"max_batch": 8, "prefill": {"kind": "chunked", "token_budget": 9}}


def policies(rule: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"policies": [{"name": "plain", "verification": {"kind": "none"}}, {"name": "p", "drafter": "head", "verification": rule} | more]}


def lengths(**output: Any) -> dict[str, Any]:
    return {"workload": {"arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 5}, "output_tokens": output}}


LINES: dict[str, tuple[dict[str, Any], str]] = {
    "top": ({"polcies": []}, "polcies: unknown key 'polcies'; did you mean 'policies'?"),
    "nothing near": (
        {"zzz": 1},
        "zzz: unknown key 'zzz'; valid keys: baseline, drafters, engine, fleet, load, memory, name, notes, policies, profile, question, run, sla, "
        "validation, workload",
    ),
    "nested": ({"run": {"replication": 3}}, "run.replication: unknown key 'replication'; did you mean 'replications'?"),
    "in a list": (policies({"kind": "none"}, verifcation=1), "policies.1.verifcation: unknown key 'verifcation'; did you mean 'verification'?"),
    "in a union in a list": (
        policies({"kind": "threshold", "treshold": 0.5}),
        "policies.1.verification.treshold: unknown key 'treshold'; did you mean 'threshold'?",
    ),
    "in a union in a model": (
        {"engine": {"prefill": {"kind": "chunked", "budget": 9}}},
        "engine.prefill.budget: unknown key 'budget'; did you mean 'token_budget'?",
    ),
    "a key of another kind": (
        policies({"kind": "fixed", "length": 1, "threshold": 0.5}),
        "policies.1.verification.threshold: unknown key 'threshold'; it goes with kind threshold, not fixed",
    ),
    "in an optional union": (lengths(kind="fixed", tokns=5), "workload.output_tokens.tokns: unknown key 'tokns'; did you mean 'tokens'?"),
    "missing": ({"profile": None}, "profile: required key is missing; add it"),
    "missing in a union": (policies({"kind": "fixed"}), "policies.1.verification.length: required key is missing; add it"),
    "missing in a list": ({"policies": [{"name": "x"}]}, "policies.0.verification: required key is missing; add it"),
    "bad kind": (policies({"kind": "treshold"}), "policies.1.verification: unknown kind 'treshold'; did you mean 'threshold'?"),
    "bad kind, nothing near": (
        {"engine": {"prefill": {"kind": "qqq"}}},
        "engine.prefill: unknown kind 'qqq'; kinds: instant, separate, chunked, disaggregated",
    ),
    "wrong type": (
        {"run": {"replications": "many"}},
        "run.replications: expected a whole number, got 'many'; write a number",
    ),
    "wrong type in a list": ({"load": [1, "two"]}, "load.1: expected a number, got 'two'; write a number"),
    "out of range": (
        policies({"kind": "threshold", "threshold": 1.5}),
        "policies.1.verification.threshold: expected a number of at most 1, got 1.5",
    ),
    "not a mapping": ({"run": 5}, "run: expected a mapping of keys to values, got 5"),
    "whole numbers": ({"load": [1.5]}, "load counts users in a closed loop, so it must be whole"),
    "twice": ({"policies": [{"name": "a", "verification": {"kind": "none"}}] * 2}, "two policies are called 'a'"),
    "baseline": ({"baseline": "b"}, "baseline 'b' is none of the policies (plain, MTP-1, scheduled)"),
    "a validator in a union": (
        policies({"kind": "by_batch", "table": [[1, 2, 1], [4, 5, 1]]}),
        "policies.1.verification: rows [first, last, length] must follow each other from batch size 1 (row [4, 5, 1] should begin at 3)",
    ),
    "no drafter": (
        policies({"kind": "fixed", "length": 1}, drafter=None),
        "policies.1.drafter: policy 'p' verifies drafts but names no drafter; add it",
    ),
    "drafter for nothing": (
        policies({"kind": "none"}),
        "policies.1.drafter: policy 'p' names a drafter that it never uses; drop it: nothing is drafted",
    ),
    "no head": (
        policies({"kind": "threshold", "threshold": 0.5}, drafter="mtp"),
        "policies.1.verification: rule 'threshold' needs confidences and drafter 'mtp' has none; "
        "use fixed, by_batch or uniform, or a drafter with a confidence head",
    ),
    "too long": (policies({"kind": "fixed", "length": 4}), "policies.1.verification: verifies 4 tokens, drafter 'head' drafts 3; at most 3"),
    "no prefill cost": (
        {"engine": CHUNKED},
        "engine.prefill.kind: profile 'tiny' has no prefill cost; use {kind: instant} to leave prompts out, or a profile with costs.prefill",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_a_scenario_is_refused_in_one_line(scenario: Write, case: str) -> None:
    changes, line = LINES[case]
    path = scenario(**changes)
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path)
    assert str(refused.value) == f"{path}: {line}"


def test_a_missing_kind_lists_the_kinds_there_are(scenario: Write) -> None:
    path = scenario(**policies({"length": 1}))
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path)
    tables, schedules = "by_batch, by_batch_and_context, tiered", "confidence_scheduled, uniform, vllm_adaptive, sglang_adaptive, ascend_adaptive"
    kinds = f"none, fixed, threshold, {tables}, {schedules}, oracle"
    assert str(refused.value) == f"{path}: policies.1.verification: has no 'kind'; kinds: {kinds}"


def test_an_unknown_key_is_told_before_what_it_left_missing(scenario: Write) -> None:
    """A misspelt required key is both unknown and missing; the misspelling is the news."""
    path = scenario(profile=None, profil="tiny")
    with pytest.raises(ScenarioError, match=r"profil: unknown key 'profil'; did you mean 'profile'\?$"):
        load_scenario(path)


YAMLS = {
    "a: [1, 2\nb: 3\n": ":2:2: not valid YAML (expected ',' or ']', but got ':'); close the bracket, and put commas between the entries",
    "a: 1\n\tb: 2\n": ":2:1: not valid YAML (found character '\\t' that cannot start any token); indent with spaces, not tabs",
    "- a\n- b\n": ": expected a mapping of keys to values, got a list; dsim init writes one to start from",
    "": ": expected a mapping of keys to values, got an empty file; dsim init writes one to start from",
}


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError) as refused:
        read_yaml(path, ProfileError)
    assert str(refused.value) == f"{path}{YAMLS[text]}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("größe: 1".encode("latin-1"))
    for name, line in (
        ("no.yaml", "no such file; check the path"),
        ("", "expected a file, got a folder; name the file in it"),
        ("latin.yaml", "is not UTF-8 text; save it as UTF-8"),
    ):
        with pytest.raises(ScenarioError) as refused:
            read_yaml(tmp_path / name)
        assert str(refused.value) == f"{tmp_path / name}: {line}"


def test_a_key_given_twice_is_refused(scenario: Write) -> None:
    """YAML forbids it, and a user who appends `load:` to a file with one would not see which of them counts."""
    path = scenario()
    path.write_text(path.read_text() + "load: [3]\n")
    with pytest.raises(ScenarioError, match=r"load.* twice"):
        load_scenario(path)


def test_overrides_reach_every_level(scenario: Write) -> None:
    given = ["run.replications=5", "policies.MTP-1.verification.length=0", "load.1=9", "engine.kv_tokens=4000", "question=a=b", "load=[4, 5]"]
    found = load_scenario(scenario(), given)
    assert found.run.replications == 5
    assert found.policies[1].verification.model_dump() == {"kind": "fixed", "length": 0}
    assert found.load == [4, 5]
    assert found.engine.kv_tokens == 4000
    assert found.question == "a=b"
    assert found.overrides == given
    assert found.content["run"]["replications"] == 5
    whole = load_scenario(scenario(run=None), ["run.seed=3", "policies.0.verification={kind: none}"])
    assert (whole.run.seed, whole.run.replications) == (3, 3)


OVERRIDES = {
    "run.replications": "--set: 'run.replications' is not path.to.key=value; for example --set run.replications=5",
    "=5": "--set: '=5' is not path.to.key=value; for example --set run.replications=5",
    "load=[1": "--set: load: not valid YAML (expected ',' or ']', but got '<stream end>'), got '[1'; "
    "close the bracket, and put commas between the entries; "
    "in a shell, put all of it in quotes: --set 'load=…'",
    "load.7=1": "--set: load.7: '7' is not an entry of a list of 2; count from 0",
    "policies.fast.name=x": "--set: policies.fast.name: 'fast' is not an entry of a list of 3; count from 0, or name one: plain, MTP-1, scheduled",
    "load.0.x.y=1": "--set: load.0.x.y: 'x' lies below a plain value; set the value above it",
    "run.replicatons=5": "{f}: run.replicatons: unknown key 'replicatons'; did you mean 'replications'?",
    "runs.replications=5": "{f}: runs: unknown key 'runs'; did you mean 'run'?",
    "run.replications=0": "{f}: run.replications: expected a number above 0, got 0",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_is_refused_in_one_line(scenario: Write, override: str) -> None:
    path = scenario()
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path, [override])
    assert str(refused.value) == OVERRIDES[override].format(f=path)


def test_an_override_below_an_entry_of_a_list_of_numbers_is_refused(scenario: Write) -> None:
    with pytest.raises(ScenarioError, match=r"^--set: load\.0\.x: 'x' lies below a plain value; set the value above it$"):
        load_scenario(scenario(), ["load.0.x=1"])


def test_a_trace_with_a_domain_that_was_never_recorded_is_refused(scenario: Write, world: Path) -> None:
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens,domain\n0,5,5,chat\n1,5,5,poetry\n")
    path = scenario(workload={"trace": {"path": "t.csv"}}, load=[1], run={"warmup_s": 0})
    with pytest.raises((ScenarioError, TraceError), match="poetry"):
        load_scenario(path)


def test_models_are_frozen(scenario: Write) -> None:
    found = load_scenario(scenario())
    with pytest.raises(ValueError, match="frozen"):
        found.name = "x"  # type: ignore[misc]
    assert isinstance(found, Scenario)


def test_errors_are_one_line_and_cross_processes() -> None:
    error = ProfileError("two\nlines  of\ttext", where=Path("a.csv"), key="b", remedy="mend it")
    assert str(error) == error.line() == "a.csv: b: two lines of text; mend it"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.key) == (ProfileError, str(error), "b")
    assert [str(DsimError("p")), str(DsimError("p", key="k")), str(DsimError("p", where="w"))] == ["p", "k: p", "w: p"]
