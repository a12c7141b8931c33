"""Every mistake of a user is one line that says where and what to do, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Content = dict[str, Any]
Dsim = Callable[..., Any]
Edit = Callable[[Callable[[Content], Any]], None]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(dsim: Dsim, world: Path) -> Callable[..., str]:
    """Call dsim, expect the one-line error, nothing on stdout, nothing written; returns the line."""

    def call(*arguments: object, says: tuple[str, ...] = ()) -> str:
        before = tree(world)
        said = dsim(*arguments)
        assert said.code == 2, said
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("error: ")
        assert said.out == ""
        assert "Traceback" not in said.err
        for text in says:
            assert text in lines[0], lines[0]
        assert tree(world) == before
        return lines[0]

    return call


def put(path: str, value: Any) -> Callable[[Content], None]:
    """A change of a scenario or profile: the key at a dotted path."""

    def change(content: Content) -> None:
        *parents, last = path.split(".")
        here: Any = content
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        here[int(last) if isinstance(here, list) else last] = value

    return change


def drop(path: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *parents, last = path.split(".")
        here: Any = content
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        del here[int(last) if isinstance(here, list) else last]

    return change


OPEN = {"kind": "poisson"}
# what is changed in the scenario, and what the line must say: the key, and the remedy or the finding
SCENARIOS: dict[str, tuple[Callable[[Content], Any], tuple[str, ...]]] = {
    "misspelt key": (put("polices", []), ("small.yaml", "unknown key 'polices'", "did you mean 'policies'?")),
    "misspelt nested key": (put("engine.max_bach", 3), ("engine.max_bach", "did you mean 'max_batch'?")),
    "misspelt key of a policy": (put("policies.1.drafer", "mtp"), ("policies.1.drafer", "did you mean 'drafter'?")),
    "misspelt key of a rule": (put("policies.1.verification.lenght", 1), ("policies.1.verification.lenght", "did you mean 'length'?")),
    "misspelt key of lengths": (put("workload.prompt_tokens.token", 1), ("workload.prompt_tokens.token", "did you mean 'tokens'?")),
    "misspelt key of the prefill": (
        put("engine.prefill", {"kind": "chunked", "token_bugdet": 9}),
        ("engine.prefill", "did you mean 'token_budget'?"),
    ),
    "misspelt key of a check": (
        put("validation", [{"kind": "callouts", "tabel": "x", "systems": {"a": "plain", "b": "MTP-1"}}]),
        ("validation.0.tabel", "did you mean 'table'?"),
    ),
    "unlike any key": (put("zzz", 1), ("unknown key 'zzz'", "valid keys: ")),
    "missing key": (drop("profile"), ("profile", "required key is missing")),
    "missing nested key": (drop("policies.1.verification"), ("policies.1.verification", "missing")),
    "unknown rule": (put("policies.1.verification", {"kind": "fixd", "length": 1}), ("policies.1.verification", "did you mean 'fixed'?")),
    "no kind": (put("policies.1.verification", {"length": 1}), ("policies.1.verification", "kind")),
    "unknown arrivals": (put("workload.arrivals.kind", "poison"), ("workload.arrivals", "did you mean 'poisson'?")),
    "rule not a mapping": (put("policies.1.verification", "fixed"), ("policies.1.verification", "expected a mapping", "write {kind: fixed}")),
    "arrivals not a mapping": (put("workload.arrivals", "poisson"), ("workload.arrivals",)),
    "negative load": (put("load", [-2]), ("load.0", "above 0", "-2")),
    "zero load": (put("load", [0]), ("load.0", "above 0")),
    "no load": (put("load", []), ("load",)),
    "load twice": (put("load", [2, 2.0]), ("twice",)),
    "load not a list": (put("load", {"from": 8}), ("load", "expected a list")),
    "load as a word": (put("load", ["8 users"]), ("load.0", "8 users")),
    "load not a number": (put("load", [float("nan")]), ("load.0",)),
    "load without end": (put("load", [float("inf")]), ("load.0",)),
    "load not whole": (put("load", [2.5]), ("whole",)),
    "load of a policy": (put("policies.1.load", [0]), ("policies.1.load.0",)),
    "zero rate": (lambda c: (put("workload.arrivals", OPEN)(c), put("load", [0])(c)), ("load.0",)),
    "open loop without end": (put("workload.arrivals", OPEN), ("run.duration_s",)),
    "a unit in the value": (put("run.warmup_s", "30 s"), ("run.warmup_s", "30 s")),
    "milliseconds in the key": (put("run.warmup_ms", 30), ("run.warmup_ms", "did you mean 'warmup_s'?")),
    "negative time": (put("run.warmup_s", -1), ("run.warmup_s", "-1")),
    "zero duration": (put("run.duration_s", 0), ("run.duration_s",)),
    "negative tokens": (put("workload.prompt_tokens.tokens", -5), ("workload.prompt_tokens.tokens", "-5")),
    "half a token": (put("workload.prompt_tokens.tokens", 1.5), ("workload.prompt_tokens.tokens", "1.5")),
    "no replications": (put("run.replications", 0), ("run.replications",)),
    "negative replicas": (put("fleet", {"replicas": -1}), ("fleet.replicas",)),
    "zero batch": (put("engine.max_batch", 0), ("engine.max_batch",)),
    "negative weight": (put("workload.domains.chat", -1), ("workload.domains.chat",)),
    "length beyond the block": (put("policies.1.verification.length", 2), ("policies.1.verification", "drafts 1", "at most 1")),
    "negative length": (put("policies.1.verification.length", -1), ("policies.1.verification.length",)),
    "table beyond the block": (
        put("policies.1.verification", {"kind": "by_batch", "table": [[1, 4, 1], [5, 9, 3]]}),
        ("policies.1.verification", "at most 1"),
    ),
    "table with a gap": (
        put("policies.1.verification", {"kind": "by_batch", "table": [[1, 4, 1], [6, 9, 1]]}),
        ("policies.1.verification", "row [6, 9, 1] should begin at 5"),
    ),
    "threshold without confidences": (
        put("policies.1.verification", {"kind": "threshold", "threshold": 0.5}),
        ("policies.1.verification", "'threshold' needs confidences", "'mtp' has none"),
    ),
    "schedule without confidences": (put("policies.1.verification", {"kind": "confidence_scheduled"}), ("needs confidences",)),
    "threshold above 1": (put("policies.2.verification", {"kind": "threshold", "threshold": 50}), ("policies.2.verification.threshold", "50")),
    "drafter not in the profile": (put("policies.1.drafter", "eagle"), ("policies.1.drafter", "no drafter 'eagle'", "head, mtp")),
    "drafts without a drafter": (drop("policies.1.drafter"), ("policies.1.drafter", "names no drafter")),
    "drafter that is not used": (put("policies.0.drafter", "mtp"), ("policies.0.drafter", "never uses")),
    "duplicate policy": (put("policies.1.name", "plain"), ("two policies are called 'plain'",)),
    "empty policy name": (put("policies.1.name", ""), ("policies.1.name",)),
    "no policies": (put("policies", []), ("policies",)),
    "policies not a list": (put("policies", {"name": "x"}), ("policies", "expected a list")),
    "unknown baseline": (put("baseline", "MTP-2"), ("baseline 'MTP-2'", "MTP-1")),
    "unknown domain": (put("workload.domains", {"poetry": 1}), ("workload.domains", "'poetry'", "chat, code")),
    "no prefill cost": (put("engine.prefill", {"kind": "separate"}), ("engine.prefill.kind", "no prefill cost", "instant")),
    "no prefill cost elsewhere": (put("engine.prefill", {"kind": "disaggregated"}), ("engine.prefill.kind", "no prefill cost")),
    "name with a slash": (put("name", "../../etc"), ("name",)),
    "missing profile": (put("profile", "nowhere"), ("small.yaml", "profile", "no profile at", "nowhere")),
    "profile is a file": (put("profile", "small.yaml"), ("no profile at",)),
    "profile not a name": (put("profile", 3), ("profile",)),
    "missing scheduler's profile": (put("engine.scheduler_profile", "nowhere"), ("engine.scheduler_profile", "no profile at")),
    "trace and lengths": (put("workload.trace", {"path": "t.csv"}), ("workload", "drop trace")),
    "neither trace nor lengths": (put("workload", {"arrivals": {"kind": "closed_loop"}}), ("workload", "prompt_tokens, output_tokens")),
    "unknown public trace": (put("workload", {"trace": {"name": "azure-2032"}}), ("workload.trace.name", "azure-2032", "did you mean")),
    "public trace not here": (put("workload", {"trace": {"name": "azure-2023-code"}}), ("not on this machine", "dsim traces get azure-2023-code")),
    "trace file not here": (put("workload", {"trace": {"path": "t.csv"}}), ("t.csv", "no such file")),
    "lengths not here": (put("workload.prompt_tokens", {"kind": "empirical", "path": "t.csv", "column": "n"}), ("t.csv", "no such file")),
    "lognormal pinned twice": (put("workload.output_tokens.p50_tokens", 10), ("workload.output_tokens", "exactly one of")),
    "lognormal upside down": (
        put("workload.output_tokens", {"kind": "lognormal", "mean_tokens": 10, "cv": 1, "min_tokens": 9, "max_tokens": 5}),
        ("workload.output_tokens", "max_tokens = 5 is below min_tokens = 9"),
    ),
    "published table not there": (
        put("validation", [{"policy": "plain", "table": "fig9", "y": "tps_per_user", "metric": "tps_per_user_mean", "between": [1, 9]}]),
        ("validation.0", "kind"),
    ),
    "check of an unknown table": (
        put("validation", [{"kind": "curve", "policy": "plain", "table": "fig9", "y": "y", "metric": "tps_per_user_mean", "between": [1, 9]}]),
        ("validation.0.table", "no published table 'fig9'", "speed"),
    ),
    "check of an unknown policy": (
        put(
            "validation", [{"kind": "curve", "policy": "x", "table": "speed", "y": "tps_per_user", "metric": "tps_per_user_mean", "between": [1, 9]}]
        ),
        ("validation.0", "no policy 'x'", "MTP-1"),
    ),
    "check of an unknown column": (
        put("validation", [{"kind": "curve", "policy": "plain", "table": "speed", "y": "z", "metric": "tps_per_user_mean", "between": [1, 9]}]),
        ("validation", "'z'", "tps_per_user"),
    ),
    "check of an unknown metric": (
        put("validation", [{"kind": "curve", "policy": "plain", "table": "speed", "y": "tps_per_user", "metric": "tps_mean", "between": [1, 9]}]),
        ("validation.0.metric", "tps_mean"),
    ),
    "check of a range upside down": (
        put(
            "validation",
            [{"kind": "curve", "policy": "plain", "table": "speed", "y": "tps_per_user", "metric": "tps_per_user_mean", "between": [9, 1]}],
        ),
        ("validation.0",),
    ),
    "callouts of a curve": (
        put("validation", [{"kind": "callouts", "table": "speed", "systems": {"a": "plain", "b": "MTP-1"}}]),
        ("validation",),
    ),
    "unknown speed": (put("sla.speed", "tps_mean"), ("sla.speed", "tps_mean")),
    "negative promise": (put("sla.tps_per_user", [-80]), ("sla.tps_per_user.0",)),
    "seed not a number": (put("run.seed", "one"), ("run.seed", "one")),
    "question not a text": (put("question", ["a"]), ("question",)),
    "rate curve upside down": (
        lambda c: (put("workload.arrivals", {"kind": "rate_curve", "points": [[5, 1], [2, 1]]})(c), put("run.duration_s", 5)(c)),
        ("workload.arrivals", "increasing"),
    ),
}


CASES = [("run", case) for case in SCENARIOS]
CASES += [("validate", case) for case in ("misspelt key", "check of an unknown table", "missing profile")]


@pytest.mark.parametrize("command, case", CASES)
def test_scenario(command: str, case: str, world: Path, refused: Callable[..., str]) -> None:
    change, says = SCENARIOS[case]
    content = yaml.safe_load((world / "small.yaml").read_text())
    change(content)
    (world / "small.yaml").write_text(yaml.safe_dump(content))
    refused(command, "small.yaml", "--out", "out", says=says)


@pytest.mark.parametrize("format", ["text", "json"])
def test_both_formats_say_it_alike(format: str, refused: Callable[..., str]) -> None:
    refused("run", "small.yaml", "--out", "out", "--set", "laod=[1]", "--format", format, says=("did you mean 'load'?",))


FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("bad.yaml", "a mapping")),
    "only a comment": (b"# nothing\n", ("a mapping",)),
    "a list": (b"- name: x\n", ("a mapping",)),
    "a word": (b"hello", ("a mapping",)),
    "binary": (b"\x00\x01\x02\xff\xfe" * 40, ("bad.yaml",)),
    "latin-1": ("name: caf\u00e9".encode("latin-1"), ("UTF-8",)),
    "null byte": (b"name: a\x00b\n", ("bad.yaml",)),
    "tab": (b"name: x\nload:\n\t- 1\n", ("bad.yaml:3", "YAML")),
    "unclosed": (b"name: x\nload: [1, 2\n", ("bad.yaml:", "YAML")),
    "python object": (b"name: !!python/object/apply:os.system ['true']\n", ("bad.yaml:1", "YAML")),
    "key twice": (b"name: x\nname: y\n", ("bad.yaml:2", "'name'", "twice")),
    "numbers as keys": (b"1: 2\n", ("bad.yaml",)),
    "endless alias": (b"name: &a [*a]\n", ("bad.yaml",)),
}


@pytest.mark.parametrize("case", FILES)
def test_scenario_file(case: str, world: Path, refused: Callable[..., str]) -> None:
    content, says = FILES[case]
    (world / "bad.yaml").write_bytes(content)
    refused("run", "bad.yaml", "--out", "out", says=says)


def test_scenario_is_missing_or_a_folder(refused: Callable[..., str]) -> None:
    refused("run", "none.yaml", "--out", "out", says=("none.yaml", "no such file"))
    refused("run", "tiny", "--out", "out", says=("tiny", "folder"))
    refused("run", "small.yaml/x.yaml", "--out", "out", says=("small.yaml/x.yaml",))


SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no sign": ("run.seed", ("--set", "path.to.key=value")),
    "no path": ("=3", ("--set", "path.to.key=value")),
    "empty": ("", ("--set",)),
    "unknown path": ("run.seeed=3", ("run.seeed", "did you mean 'seed'?")),
    "unknown parent": ("rum.seed=3", ("rum", "did you mean 'run'?")),
    "below a value": ("run.seed.x=3", ("run.seed",)),
    "below a text": ("name.x=3", ("name",)),
    "wrong type": ("run.replications=many", ("run.replications", "many")),
    "index out of range": ("load.7=3", ("load.7", "list of 2")),
    "index of a policy out of range": ("policies.9.drafter=mtp", ("policies.9", "list of 3")),
    "negative index": ("load.-1=3", ("load.-1",)),
    "odd digit": ("load.\u00b2=3", ("load.\u00b2",)),
    "unknown policy": ("policies.MTP-7.drafter=mtp", ("MTP-7",)),
    "not YAML": ("load=[1", ("--set", "load", "YAML")),
    "empty part": ("run..seed=1", ("run",)),
    "nothing": ("load=", ("load",)),
}


@pytest.mark.parametrize("case", SETS)
def test_set(case: str, refused: Callable[..., str]) -> None:
    override, says = SETS[case]
    refused("run", "small.yaml", "--out", "out", "--set", override, says=says)


@pytest.mark.parametrize("workers", [0, -1])
def test_workers(workers: int, refused: Callable[..., str]) -> None:
    refused("run", "small.yaml", "--out", "out", "--workers", workers, says=("--workers",))


PROFILES: dict[str, tuple[Callable[[Content], Any], tuple[str, ...]]] = {
    "another format": (put("format", 2), ("tiny/profile.yaml", "got 2")),
    "no format": (drop("format"), ("tiny/profile.yaml", "format")),
    "misspelt key": (put("costs.verfy", {}), ("costs.verfy", "did you mean 'verify'?")),
    "misspelt key of a table": (put("costs.verify.per_tokens_s", 1), ("costs.verify.per_tokens_s", "did you mean 'per_token_s'?")),
    "negative cost": (put("costs.verify.base_s", -1), ("costs.verify.base_s", "-1")),
    "a unit": (put("costs.verify.base_s", "10 ms"), ("costs.verify.base_s", "10 ms")),
    "no provenance": (drop("costs.verify.provenance"), ("costs.verify.provenance", "missing")),
    "odd provenance": (put("costs.verify.provenance", "guessed"), ("costs.verify.provenance", "guessed")),
    "range upside down": (put("costs.verify.measured_tokens", [9, 1]), ("costs", "measured_tokens")),
    "missing blocks": (put("drafters.head.blocks", "none.parquet"), ("drafters.head.blocks", "none.parquet")),
    "blocks of another length": (put("drafters.head.gamma", 4), ("head.parquet", "blocks of 4", "got 3")),
    "confidences that are not there": (put("drafters.mtp.confidence", True), ("mtp.parquet", "confidences")),
    "too few temperatures": (put("drafters.head.temperatures", [1.0]), ("drafters.head", "expected 3 calibration temperatures", "got 1")),
    "missing cost table": (put("costs.verify", {"provenance": "measured", "kind": "table", "file": "v.csv"}), ("v.csv", "no such file")),
    "missing published table": (put("published.speed.file", "none.csv"), ("published.speed.file", "none.csv")),
    "no GPUs": (put("gpus_per_replica", 0), ("gpus_per_replica",)),
}


@pytest.mark.parametrize("case", PROFILES)
def test_profile(case: str, edit_profile: Edit, refused: Callable[..., str]) -> None:
    change, says = PROFILES[case]
    edit_profile(change)
    for command in (("run", "small.yaml", "--out", "out"), ("profile", "check", "tiny")):
        refused(*command, says=says)


def test_profile_folder(world: Path, refused: Callable[..., str]) -> None:
    refused("profile", "check", "nowhere", says=("nowhere", "no profile"))
    refused("profile", "check", "small.yaml", says=("small.yaml", "no profile"))
    (world / "tiny" / "profile.yaml").write_text("format: [1\n")
    refused("profile", "check", "tiny", says=("tiny/profile.yaml:", "YAML"))
    (world / "tiny" / "profile.yaml").write_bytes(b"\xff\xfe\x00")
    refused("profile", "check", "tiny", says=("tiny/profile.yaml",))
    (world / "tiny" / "profile.yaml").unlink()
    refused("run", "small.yaml", "--out", "out", says=("no profile",))


@pytest.mark.parametrize("broken", [b"", b"not parquet at all", None])
def test_recorded_blocks_corrupt(broken: bytes | None, world: Path, refused: Callable[..., str]) -> None:
    blocks = world / "tiny" / "head.parquet"
    content = blocks.read_bytes()
    blocks.write_bytes(content[: len(content) // 2] if broken is None else broken)
    refused("run", "small.yaml", "--out", "out", says=("head.parquet", "Parquet"))
    refused("profile", "check", "tiny", says=("head.parquet", "Parquet"))


TABLES = {
    "header alone": ("tokens,p50_s\n", ("v.csv", "no rows")),
    "nothing": ("", ("v.csv",)),
    "no times": ("tokens,ms\n1,2\n", ("v.csv", "p50_s", "columns found: tokens, ms")),
    "a word": ("tokens,p50_s\n1,0.1\n2,fast\n", ("v.csv:3", "p50_s", "fast")),
    "negative time": ("tokens,p50_s\n1,0.1\n2,-0.1\n", ("v.csv:3", "p50_s")),
    "missing time": ("tokens,p50_s\n1,0.1\n2,\n", ("v.csv:3", "p50_s")),
    "after a comment": ("# measured\ntokens,p50_s\n1,0.1\n\n2,fast\n", ("v.csv:5", "p50_s")),
    "twice": ("tokens,p50_s\n1,0.1\n1,0.2\n", ("v.csv", "twice")),
}


@pytest.mark.parametrize("case", TABLES)
def test_cost_table(case: str, world: Path, edit_profile: Edit, refused: Callable[..., str]) -> None:
    content, says = TABLES[case]
    edit_profile(put("costs.verify", {"provenance": "measured", "kind": "table", "file": "v.csv"}))
    (world / "tiny" / "v.csv").write_text(content)
    refused("run", "small.yaml", "--out", "out", says=says)


TRACES = {
    "empty": ("", ("t.csv", "empty")),
    "header alone": ("arrival_s,prompt_tokens,output_tokens\n", ("t.csv", "no rows")),
    "unknown header": ("a,b\n1,2\n", ("t.csv:1", "columns found: a, b", "workload.trace.columns")),
    "column missing": ("arrival_s,prompt_tokens\n0,5\n", ("t.csv:1", "output_tokens")),
    "a word": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,many,5\n", ("t.csv:3", "prompt_tokens", "many")),
    "a gap": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,,5\n", ("t.csv:3", "prompt_tokens", "missing value")),
    "a blank line before": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n\n1,5,0\n", ("t.csv:4", "output_tokens")),
    "negative time": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n-1,5,5\n", ("t.csv:3", "arrival_s")),
    "commas alone": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n,,\n", ("t.csv:3", "missing value")),
    "row too long": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n0,5,5,9\n", ("t.csv:3", "got 4")),
    "unknown domain": ("arrival_s,prompt_tokens,output_tokens,domain\n0,5,5,chat\n1,5,5,poetry\n", ("t.csv", "poetry", "chat, code")),
    "domains twice": ("arrival_s,prompt_tokens,output_tokens,domain\n0,5,5,chat\n", ("t.csv", "domain")),
}


@pytest.mark.parametrize("case", TRACES)
def test_trace_row(case: str, world: Path, scenario: Callable[..., Path], refused: Callable[..., str]) -> None:
    content, says = TRACES[case]
    (world / "t.csv").write_text(content)
    workload: Content = {"trace": {"path": "t.csv"}}
    if case == "domains twice":
        workload["domains"] = {"chat": 1}
    scenario(workload=workload, load=[1], run={"replications": 1, "warmup_s": 0})
    refused("run", "small.yaml", "--out", "out", says=says)


def test_mooncake_row(world: Path, scenario: Callable[..., Path], refused: Callable[..., str]) -> None:
    good = json.dumps({"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]})
    scenario(workload={"trace": {"path": "t.jsonl"}}, load=[1], run={"replications": 1, "warmup_s": 0})
    (world / "t.jsonl").write_text(f"{good}\n{{not json\n")
    refused("run", "small.yaml", "--out", "out", says=("t.jsonl:2", "JSON"))
    (world / "t.jsonl").write_text(f"{good}\n{good.replace('5', '0')}\n")
    refused("run", "small.yaml", "--out", "out", says=("t.jsonl:2", "1 of 2 rows has 0 tokens", "drop_empty_rows"))


def test_every_point_infeasible(scenario: Callable[..., Path], refused: Callable[..., str]) -> None:
    """No request fits in the memory: known before anything is written."""
    scenario(engine={"max_batch": 8, "prefill": {"kind": "instant"}, "kv_tokens": 16})
    refused("run", "small.yaml", "--out", "out", "--workers", 1, says=("small.yaml",))


def test_every_point_infeasible_open(scenario: Callable[..., Path], refused: Callable[..., str]) -> None:
    workload = yaml.safe_load(Path("small.yaml").read_text())["workload"] | {"arrivals": {"kind": "poisson"}}
    engine = {"max_batch": 8, "prefill": {"kind": "instant"}, "kv_tokens": 16}
    scenario(workload=workload, engine=engine, run={"replications": 1, "warmup_s": 0, "duration_s": 5})
    refused("run", "small.yaml", "--out", "out", "--workers", 1, says=("small.yaml",))


def test_nothing_comes(scenario: Callable[..., Path], refused: Callable[..., str]) -> None:
    """A rate so low that nobody comes."""
    workload = yaml.safe_load(Path("small.yaml").read_text())["workload"] | {"arrivals": {"kind": "poisson"}}
    scenario(workload=workload, load=[1e-9], run={"replications": 1, "warmup_s": 0, "duration_s": 5})
    refused("run", "small.yaml", "--out", "out", "--workers", 1, says=("small.yaml", "load"))


def test_out_is_a_file(world: Path, refused: Callable[..., str]) -> None:
    (world / "out").write_text("mine")
    refused("run", "small.yaml", "--out", "out", "--workers", 1, says=("out",))
    refused("run", "small.yaml", "--out", "out/below", "--workers", 1, says=("out",))


@pytest.fixture
def unwritable(world: Path) -> Iterator[Path]:
    folder = world / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_out_is_not_writable(unwritable: Path, refused: Callable[..., str]) -> None:
    refused("run", "small.yaml", "--out", unwritable / "out", "--workers", 1, says=("locked",))


def test_out_cannot_be_made(refused: Callable[..., str]) -> None:
    refused("run", "small.yaml", "--out", "/proc/dsim/out", "--workers", 1, says=("/proc/dsim", "cannot write"))
    refused("run", "small.yaml", "--out", "x" * 300, "--workers", 1, says=("cannot write",))


def test_validate_without_checks(refused: Callable[..., str]) -> None:
    refused("validate", "small.yaml", "--out", "out", says=("small.yaml", "validation", "has no checks"))


def test_compare(world: Path, refused: Callable[..., str]) -> None:
    (world / "empty").mkdir()
    (world / "a.json").write_text("{}")
    (world / "b.json").write_text("[1]")
    (world / "c.json").write_text("{")
    (world / "d.json").write_bytes(b"\xff\xfe")
    for one in ("none", "empty", "a.json", "b.json", "c.json", "d.json", "small.yaml", "tiny"):
        refused("compare", one, one, says=(one,))
    for frontier in (1, [1], [{"policy": 1}], {"a": 1}):
        (world / "e.json").write_text(json.dumps({"frontier": frontier}))
        refused("compare", "e.json", "e.json", says=("e.json",))


FIT = ("--accepted-length", 1.8, "--budget", 2, "--out", "new")
GOOD = "concurrency,tps_per_user\n4,100\n8,90\n16,70\n"
TELEMETRY = {
    "one column": ("concurrency,speed\n4,100\n8,90\n", ("t.csv", "two of the columns", "concurrency, speed")),
    "empty": ("", ("t.csv",)),
    "header alone": ("concurrency,tps_per_user\n", ("t.csv",)),
    "one row": ("concurrency,tps_per_user\n4,100\n", ("too few",)),
    "one load": ("concurrency,tps_per_user\n4,100\n4,101\n5,99\n", ("too few",)),
    "a word": ("concurrency,tps_per_user\n4,100\n8,fast\n", ("t.csv:3", "tps_per_user", "fast")),
    "a gap": ("concurrency,tps_per_user\n4,100\n8,\n", ("t.csv:3", "tps_per_user")),
    "negative": ("concurrency,tps_per_user\n4,100\n-8,90\n", ("t.csv:3", "concurrency")),
    "endless": ("concurrency,tps_per_user\n4,100\n8,inf\n", ("t.csv:3", "tps_per_user")),
    "after a comment": ("# from the dashboard\nconcurrency,tps_per_user\n4,100\n8,fast\n", ("t.csv:4", "tps_per_user")),
    "contradicts itself": ("concurrency,tps_per_user,throughput_tok_s_gpu\n4,100,400\n8,90,100\n", ("t.csv:3", "throughput")),
    "ragged": ("concurrency,tps_per_user\n4,100\n8,90,7,8\n", ("t.csv",)),
}


@pytest.mark.parametrize("case", TELEMETRY)
def test_fit_telemetry(case: str, world: Path, refused: Callable[..., str]) -> None:
    content, says = TELEMETRY[case]
    (world / "t.csv").write_text(content)
    refused("fit", "t.csv", *FIT, says=says)


ASSUMED: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "accepted above budget": (("--accepted-length", 2.5, "--budget", 2), ("--accepted-length", "2.5")),
    "accepted below 1": (("--accepted-length", 0.8, "--budget", 2), ("--accepted-length", "0.8")),
    "budget below 1": (("--accepted-length", 1, "--budget", 0), ("--budget",)),
    "not a number": (("--accepted-length", "nan", "--budget", 2), ("--accepted-length",)),
    "budget without end": (("--accepted-length", 1.5, "--budget", "inf"), ("--budget",)),
    "negative drafting": (("--accepted-length", 1.8, "--budget", 2, "--draft-s-per-request", -1), ("--draft-s-per-request",)),
    "drafting longer than the step": (("--accepted-length", 1.8, "--budget", 2, "--draft-s-per-request", 1), ("draft",)),
    "no GPUs": (("--accepted-length", 1.8, "--budget", 2, "--gpus-per-replica", 0), ("--gpus-per-replica",)),
    "endless GPUs": (("--accepted-length", 1.8, "--budget", 2, "--gpus-per-replica", "inf"), ("--gpus-per-replica",)),
    "drafter that is a path": (("--accepted-length", 1.8, "--budget", 2, "--drafter", "../../x"), ("--drafter",)),
    "negative cliff": (("--accepted-length", 1.8, "--budget", 2, "--cliff", -3), ("--cliff",)),
    "block too long": (("--accepted-length", 1.8, "--budget", 500), ("--budget",)),
}


@pytest.mark.parametrize("case", ASSUMED)
def test_fit_assumptions(case: str, world: Path, refused: Callable[..., str]) -> None:
    options, says = ASSUMED[case]
    (world / "t.csv").write_text(GOOD)
    refused("fit", "t.csv", *options, "--out", "new", says=says)


def test_fit_files(world: Path, refused: Callable[..., str]) -> None:
    (world / "t.csv").write_text(GOOD)
    refused("fit", "none.csv", *FIT, says=("none.csv", "no such file"))
    refused("fit", "tiny", *FIT, says=("tiny",))
    refused("fit", "tiny/head.parquet", *FIT, says=("head.parquet",))
    refused("fit", "t.csv", *FIT[:-1], "tiny", says=("tiny", "--force"))
    refused("fit", "t.csv", *FIT[:-1], "t.csv", says=("t.csv",))
    refused("fit", "t.csv", *FIT[:-1], "/proc/x", says=("/proc/x",))


def test_traces(world: Path, refused: Callable[..., str]) -> None:
    for command in (("get", "azure-2023-cod"), ("add", "azure-2023-cod", "small.yaml")):
        refused("traces", *command, says=("azure-2023-cod", "did you mean 'azure-2023-code'?"))
    refused("traces", "get", "zzz", says=("zzz", "public traces: "))
    refused("traces", "add", "azure-2023-code", "small.yaml", says=("small.yaml", "sha256"))
    refused("traces", "add", "azure-2023-code", "none.csv", says=("none.csv",))
    refused("traces", "add", "azure-2023-code", "tiny", says=("tiny",))


def test_usage_errors_are_typers(dsim: Dsim) -> None:
    for arguments in (("run",), ("run", "small.yaml", "--wrokers", 2), ("rum",), ("run", "small.yaml", "--format", "xml"), ("fit", "t.csv")):
        said = dsim(*arguments)
        assert said.code == 2
        assert "Traceback" not in said.err


def test_a_bad_scenario_leaves_a_finished_result_alone(world: Path, dsim: Dsim, refused: Callable[..., str]) -> None:
    assert dsim("run", "small.yaml", "--out", "out", "--workers", 1, "--set", "load=[2]", "--set", "run.replications=1").code == 0
    refused("run", "small.yaml", "--out", "out", "--set", "load=[-2]")
