"""What to deploy: the commands for every rule on both engines, what they do otherwise, and where they appear."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from simulator.measurements.formats.sglang import AdditiveSps, read_sps, read_sts
from simulator.measurements.profile import load_profile
from simulator.policies.verification import FixedLength, Oracle, Serving, VerificationPolicy
from simulator.study.deploy.asked import launch_of
from simulator.study.deploy.launch import launch, recommended
from simulator.study.deploy.scripts import shell, write_launch
from simulator.study.run.launch import EngineLaunch, Launch
from simulator.study.run.scenario import load_scenario
from tests.conftest import SCENARIO
from tests.report import synthetic_result

Dsim = Callable[..., Any]
WriteScenario = Callable[..., Path]
POLICIES: dict[str, Any] = {
    "plain": {"verification": {"kind": "none"}},
    "mtp": {"drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
    "two": {"drafter": "head", "verification": {"kind": "fixed", "length": 2}},
    "table": {"drafter": "head", "verification": {"kind": "by_batch", "table": [[1, 4, 3], [5, 8, 1]]}},
    "scheduled": {"drafter": "head", "verification": {"kind": "confidence_scheduled"}},
    "one behind": {"drafter": "head", "verification": {"kind": "confidence_scheduled", "lag": 1}},
    "synchronous": {"drafter": "head", "verification": {"kind": "confidence_scheduled", "mode": "synchronous", "min_length": 1}},
    "uniform": {"drafter": "head", "verification": {"kind": "uniform"}},
    "threshold": {"drafter": "head", "verification": {"kind": "threshold", "threshold": 0.5}},
    "oracle": {"drafter": "head", "verification": {"kind": "oracle"}},
}


@pytest.fixture
def engines(scenario: WriteScenario) -> Callable[..., tuple[EngineLaunch, EngineLaunch]]:
    """vLLM's and SGLang's command for a policy, with keys of the scenario replaced."""

    def of(name: str, **changes: Any) -> tuple[EngineLaunch, EngineLaunch]:
        asked = load_scenario(scenario(policies=[{"name": name, **POLICIES[name]}], baseline=None, **changes))
        vllm, sglang = launch(asked, name).engines
        return vllm, sglang

    return of


Engines = Callable[..., tuple[EngineLaunch, EngineLaunch]]


def options(engine: EngineLaunch) -> dict[str, str]:
    words = engine.command
    return {
        word: words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else "" for i, word in enumerate(words) if word[:2] == "--"
    }


def speculative(engine: EngineLaunch) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(options(engine)["--speculative-config"])
    return config


def says(engine: EngineLaunch, text: str) -> bool:
    return any(text in line for line in engine.otherwise)


def test_without_speculation_there_is_none(engines: Engines) -> None:
    for engine in engines("plain"):
        assert not any("speculative" in word for word in engine.command)
        assert not engine.files


def test_llama_cpp_is_asked_for_by_name(scenario: WriteScenario, dsim: Dsim, tmp_path: Path) -> None:
    def asked(name: str, **changes: Any) -> EngineLaunch:
        (engine,) = launch(load_scenario(scenario(policies=[{"name": name, **POLICIES[name]}], baseline=None, **changes)), name, ["llamacpp"]).engines
        return engine

    block = options(asked("two", engine={"max_batch": 8, "kv_tokens": 4096, "prefill": {"kind": "instant"}}))
    assert [block[f"--{name}"] for name in ("parallel", "ctx-size")] == ["8", "4096"]
    assert "--kv-unified" in block
    assert [block[f"--spec-{name}"] for name in ("type", "draft-model", "draft-n-max")] == ["draft-dspark", "PATH/TO/DRAFTER", "2"]
    assert "--spec-draft-model" not in options(asked("mtp"))
    assert not any("spec" in word for word in asked("plain").command)
    assert says(asked("scheduled"), "lengths by confidence: llama.cpp drafts whole blocks")
    assert says(asked("table"), "lengths by batch size: llama.cpp has one length")
    path = scenario(policies=[{"name": "two", **POLICIES["two"]}], baseline=None)
    told = dsim("export", "launch", path, "--engine", "llamacpp", "--out", tmp_path / "out")
    assert told.code == 0, told.err
    assert (tmp_path / "out" / "llama.cpp.sh").read_text().splitlines()[-1].endswith("--spec-draft-n-max 2")
    assert "both do otherwise" not in told.out


def test_an_mtp_head_is_in_the_targets_checkpoint(engines: Engines) -> None:
    vllm, sglang = engines("mtp")
    assert speculative(vllm) == {"method": "mtp", "num_speculative_tokens": 1}
    asked = options(sglang)
    assert asked["--speculative-algorithm"] == "NEXTN"
    assert [asked[f"--speculative-{name}"] for name in ("num-steps", "eagle-topk", "num-draft-tokens")] == ["1", "1", "2"]
    assert "--speculative-draft-model-path" not in asked


def test_a_fixed_length_of_a_block(engines: Engines) -> None:
    vllm, sglang = engines("two")
    assert speculative(vllm) == {"method": "dspark", "model": "PATH/TO/DRAFTER", "num_speculative_tokens": 2}
    assert options(sglang)["--speculative-algorithm"] == "DSPARK"
    assert options(sglang)["--speculative-dspark-block-size"] == "2"
    assert sglang.environment == {"SGLANG_RAGGED_VERIFY_MODE": "static"}
    for engine in (vllm, sglang):
        assert says(engine, "shorter verification of blocks of 3")  # of which the recorded blocks know nothing
        assert "PATH/TO/DRAFTER: folder or hub name of the drafter, which the profile does not name" in engine.fill_in


def test_a_table_by_batch_size(engines: Engines) -> None:
    vllm, sglang = engines("table")
    config = speculative(vllm)
    assert config["num_speculative_tokens"] == 3
    assert config["num_speculative_tokens_per_batch_size"] == [[1, 4, 3], [5, 8, 1]]
    assert json.loads(vllm.files["vllm-lengths.json"]) == {"num_speculative_tokens_per_batch_size": [[1, 4, 3], [5, 8, 1]]}
    assert says(sglang, "lengths by batch size: SGLang has one length")


def test_a_schedule_has_its_cost_table_beside_it(engines: Engines, tmp_path: Path) -> None:
    vllm, sglang = engines("scheduled")
    assert speculative(vllm)["enable_adaptive_verification"] is True
    assert speculative(vllm)["num_speculative_tokens"] == 3
    assert says(vllm, "confidences of two steps before: vLLM takes those of one step before")
    assert says(vllm, "vLLM profiles its own")
    assert sglang.environment == {"SGLANG_RAGGED_VERIFY_MODE": "compact"}
    assert options(sglang)["--speculative-dspark-sps-table-path"] == "sglang-sps.json"
    (tmp_path / "t.json").write_text(sglang.files["sglang-sps.json"])
    table = read_sps(tmp_path / "t.json")
    assert isinstance(table, AdditiveSps)
    assert table.seconds(4, 10) == pytest.approx(0.01 + 10e-4 + 0.001)  # the tiny profile's curve and overhead
    assert not says(sglang, "confidences")
    assert "--speculative-dspark-confidence-sts-path" not in options(sglang)


def test_a_calibration_is_written_where_there_is_one(engines: Engines, edit_profile: Callable[..., None], tmp_path: Path) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(temperatures=[1.1, 1.2, 1.3]))
    vllm, sglang = engines("scheduled")
    (tmp_path / "t.json").write_text(sglang.files["sglang-sts.json"])
    assert read_sts(tmp_path / "t.json") == [1.1, 1.2, 1.3]
    assert options(sglang)["--speculative-dspark-confidence-sts-path"] == "sglang-sts.json"
    assert says(vllm, "calibrated confidences")


def test_a_lag_that_is_not_the_engines_is_said(engines: Engines) -> None:
    vllm, sglang = engines("one behind")
    assert not says(vllm, "confidences of")
    assert says(sglang, "confidences of one step before: SGLang takes those of two steps before")
    for engine in engines("synchronous"):
        assert says(engine, "confidences of the present step")
        assert says(engine, "Algorithm 1, which stops early")
        assert says(engine, "at least one drafted token")


def test_rules_that_no_engine_has_get_the_nearest(engines: Engines) -> None:
    vllm, sglang = engines("threshold")
    assert speculative(vllm)["num_speculative_tokens"] == 3
    assert says(vllm, "a threshold of 0.5 on confidences")
    assert says(sglang, "a threshold of 0.5 on confidences")
    vllm, sglang = engines("uniform")
    assert speculative(vllm)["num_speculative_tokens_per_batch_size"][0][0] == 1
    assert says(vllm, "chosen in every step from confidences")


def test_a_schedule_needs_dspark(engines: Engines, edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(family="eagle3"))
    vllm, sglang = engines("scheduled")
    assert speculative(vllm)["method"] == "eagle3"
    assert "enable_adaptive_verification" not in speculative(vllm)
    assert speculative(vllm)["num_speculative_tokens_per_batch_size"]
    assert options(sglang)["--speculative-algorithm"] == "EAGLE3"
    assert not sglang.files
    for engine in (vllm, sglang):
        assert says(engine, "schedules DSpark's alone")


def test_a_drafter_of_unknown_family_is_left_to_be_filled_in(engines: Engines, edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(family="other"))
    vllm, sglang = engines("two")
    assert "method" not in speculative(vllm)
    assert options(sglang)["--speculative-algorithm"] == "ALGORITHM"
    assert any(line.startswith("ALGORITHM") for line in sglang.fill_in)
    assert any("family is not in the profile" in line for line in vllm.fill_in)


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("ngram", {"method": "ngram"}, {"algorithm": "NGRAM", "num-draft-tokens": "3", "ngram-max-bfs-breadth": "1"}),
        ("suffix", {"method": "suffix"}, {"algorithm": "NGRAM", "num-draft-tokens": "3", "ngram-max-bfs-breadth": "1"}),
        ("mtp", {"method": "mtp"}, {"algorithm": "NEXTN", "num-steps": "2", "eagle-topk": "1", "num-draft-tokens": "3"}),
    ],
)
def test_what_has_no_checkpoint_of_its_own_is_asked_for_by_its_method(
    engines: Engines, edit_profile: Callable[..., None], family: str, config: dict[str, Any], words: dict[str, str]
) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(family=family))
    vllm, sglang = engines("two")
    assert speculative(vllm) == config | {"num_speculative_tokens": 2}
    assert {name: text for name, text in options(sglang).items() if "speculative" in name} == {f"--speculative-{k}": v for k, v in words.items()}
    for engine in (vllm, sglang):
        assert not any("DRAFTER" in line for line in (*engine.command, *engine.fill_in))
    said = {"ngram": "prompt_lookup_max and prompt_lookup_min: as on the server", "suffix": "pip install arctic-inference"}.get(family)
    assert said is None or any(line.startswith(said) for line in vllm.fill_in)
    assert says(sglang, "SGLang's NGRAM verifies 3 tokens in every one") == (family != "mtp")
    assert says(sglang, "suffix decoding: SGLang has none") == (family == "suffix")


def test_a_small_model_that_drafts_is_called_as_engines_call_it(engines: Engines, edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(family="draft"))
    vllm, sglang = engines("two")
    assert speculative(vllm) == {"method": "draft_model", "model": "PATH/TO/DRAFTER", "num_speculative_tokens": 2}
    assert options(sglang)["--speculative-algorithm"] == "STANDALONE"


def test_llama_cpp_looks_up_without_a_checkpoint(scenario: WriteScenario, edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content["drafters"]["head"].update(family="ngram"))
    (engine,) = launch(load_scenario(scenario(policies=[{"name": "two", **POLICIES["two"]}], baseline=None)), "two", ["llamacpp"]).engines
    said = {name: text for name, text in options(engine).items() if "spec" in name}
    assert said == {"--spec-type": "ngram-simple", "--spec-ngram-simple-size-m": "2"}
    assert any(line.startswith("--spec-ngram-simple-size-n: as on the server that was measured") for line in engine.fill_in)


class Custom(VerificationPolicy):
    """A rule that says nothing of engines."""

    kind: Literal["custom"] = "custom"


def test_a_rule_of_ones_own_is_said_to_be_nobodys() -> None:
    assert Custom().serving(4) == Serving(4, beyond=("the rule 'custom': whole blocks are verified instead",))
    assert FixedLength(length=9).serving(4) == Serving(4)
    assert Oracle().serving(4).beyond


def test_settings_of_the_engine(engines: Engines, edit_profile: Callable[..., None]) -> None:
    prefill = {"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 1e-5}
    edit_profile(lambda content: (content["costs"].update(prefill=prefill), content.update(gpus_per_replica=4.0, target="org/small")))
    settings = {"max_batch": 8, "page_tokens": 32, "graph_sizes": [8, 16, 32]}
    chunked = {"engine": settings | {"prefill": {"kind": "chunked", "token_budget": 512}}}
    vllm, sglang = engines("two", fleet={"replicas": 3}, **chunked)
    assert vllm.command[:3] == ("vllm", "serve", "org/small")
    expected = {
        "--tensor-parallel-size": "4",
        "--max-num-seqs": "8",
        "--max-num-batched-tokens": "512",
        "--block-size": "32",
        "--max-model-len": "110",
    }
    assert options(vllm).items() >= expected.items()  # 50 prompt tokens and 60 at most of the answer
    assert json.loads(options(vllm)["--compilation-config"]) == {"cudagraph_capture_sizes": [8, 16, 32]}
    expected = {"--tp-size": "4", "--max-running-requests": "8", "--chunked-prefill-size": "512", "--page-size": "32", "--context-length": "110"}
    assert options(sglang).items() >= expected.items()
    assert says(sglang, "prompt chunks beside decoding")
    assert "--enable-mixed-chunk" not in sglang.command
    assert "--enable-mixed-chunk" in engines("plain", **chunked)[1].command
    assert any("start it on 3 servers" in line and "least loaded" in line for line in vllm.fill_in)
    separate = {"engine": settings | {"prefill": {"kind": "separate", "max_tokens": 512}}}
    vllm, sglang = engines("two", **separate)
    assert says(vllm, "prompts in steps of their own")
    assert not says(sglang, "prompt")
    away = {"engine": settings | {"prefill": {"kind": "disaggregated"}, "admission": {"kind": "shortest_prompt"}}}
    for engine in engines("two", **away):
        assert says(engine, "prompts on other machines")
        assert says(engine, "admitted by shortest prompt")
    classes = {"a": {"share": 1, "sla": {"e2e_s": 9}}, "b": {"share": 1, "sla": {"e2e_s": 99}, "priority": 1}}
    chunked["engine"] |= {"admission": {"kind": "priority"}}
    vllm, sglang = engines("two", **chunked, workload=SCENARIO["workload"] | {"classes": classes})
    assert options(vllm)["--scheduling-policy"] == "priority"
    assert "--schedule-low-priority-values-first" in sglang.command
    assert says(sglang, "preempted to let another in")
    assert not says(vllm, "priority")
    assert all(any("`priority` of their class" in line for line in engine.fill_in) for engine in (vllm, sglang))


def test_lengths_without_a_bound_set_no_limit(engines: Engines) -> None:
    workload = {
        "arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "lognormal", "mean_tokens": 20, "cv": 0.9},
    }  # fmt: skip
    assert "--max-model-len" not in options(engines("plain", workload=workload)[0])
    limited = {"prefill": {"kind": "instant"}, "max_context_tokens": 128}
    assert options(engines("plain", workload=workload, engine=limited)[0])["--max-model-len"] == "128"


def test_a_command_can_be_typed(engines: Engines) -> None:
    for name in POLICIES:
        if name == "oracle":
            continue
        for engine in engines(name):
            assert max(map(len, shell(engine).splitlines())) <= 80
            words = [" ".join(word.split()) for word in shlex.split(shell(engine).replace("\\\n", ""))]  # JSON takes a line end for a space
            assert words == [*(f"{k}={v}" for k, v in engine.environment.items()), *engine.command]


def test_a_run_ends_with_what_to_deploy(scenario: WriteScenario, dsim: Dsim, world: Path, sketched: None) -> None:
    said = dsim("run", scenario(), "--out", world / "o", "--workers", 1)
    assert said.code == 0, said.err
    result = json.loads((world / "o" / "result.json").read_text())
    assert result["launch"]["policy"] in result["answer"][0]
    assert "vllm serve PATH/TO/small" in said.out
    assert said.out.strip().splitlines()[-1] == f"launch: {world}/o/launch/vllm.sh, {world}/o/launch/sglang.sh"
    for page in ("report.md", "report.html"):
        assert "What to deploy" in (world / "o" / page).read_text()
    for script in sorted((world / "o" / "launch").glob("*.sh")):
        subprocess.run(["sh", "-n", script], check=True)
    told = dsim("export", "launch", world / "o", "--format", "json")  # of the result, as it is there
    assert json.loads(told.out) == result["launch"] | {
        "files": [str(world / "o" / "launch" / name) for name in ("vllm.sh", "sglang.sh", "sglang-sps.json")]
    }
    told = dsim("export", "launch", world / "o", "--policy", "MTP-1", "--out", "elsewhere", "--format", "json")
    assert json.loads(told.out)["policy"] == "MTP-1"
    assert (world / "elsewhere" / "vllm.sh").exists()


@pytest.mark.parametrize(("promise", "missed"), [(1e4, 1), (20, 0)])
def test_a_command_that_keeps_no_promise_says_so(promise: float, missed: int, scenario: WriteScenario, dsim: Dsim, sketched: None) -> None:
    said = dsim("run", scenario(sla={"tps_per_user": [promise]}), "--workers", 1)
    assert said.code == 0, said.err
    assert said.out.count("No policy meets the SLA at the simulated loads; ") == missed


def test_a_plan_ends_with_what_to_deploy(world: Path, dsim: Dsim, sketched: None) -> None:
    import yaml

    plan = {
        "name": "p", "profiles": ["tiny"], "price": {"gpu_hour": 2.0}, "load_rps": 20, "sla": {"speed": {"tps": 70}},
        "policies": [{"name": name, **POLICIES[name]} for name in ("plain", "mtp")],
        "settings": [{"max_batch": 8, "prefill": {"kind": "instant"}}],
        "workload": {
            "arrivals": {"kind": "poisson"}, "prompt_tokens": {"kind": "fixed", "tokens": 50}, "output_tokens": {"kind": "fixed", "tokens": 30},
        },
        "what_if": False, "run": {"replications": 2, "warmup_s": 2, "window_s": 10},
    }  # fmt: skip
    (world / "plan.yaml").write_text(yaml.safe_dump(plan))
    said = dsim("plan", "plan.yaml", "--out", "o", "--workers", 1, "--format", "json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    chosen = next(cell for cell in result["cells"] if cell["cell"] == result["best"])
    assert (result["launch"]["policy"], result["launch"]["replicas"]) == (chosen["policy"], chosen["replicas"])
    assert (world / "o" / "launch" / "vllm.sh").exists()
    other = next(cell for cell in result["cells"] if cell["cell"] != result["best"])
    assert launch_of(world / "o", other["policy"]).replicas == (other["replicas"] or 1)
    assert launch_of(world / "plan.yaml", "plain").policy == "plain"


def test_the_recommended_policy_is_the_answers(scenario: WriteScenario, dsim: Dsim, world: Path) -> None:
    from simulator.study.run.output import read_result

    assert (
        dsim(
            "run", scenario(sla=None, load=[2, 4, 6], run={"replications": 1, "requests": 12}), "--out", "o", "--workers", 1, "--format", "json"
        ).code
        == 0
    )
    result = read_result(world / "o")
    at = {point.policy: point.mean(result.speed_metric) or 0.0 for point in result.frontier if point.load == 4}
    assert recommended(result) == max(at, key=at.__getitem__)


def test_shipped_scenarios_go_by_name(world: Path, dsim: Dsim) -> None:
    told = dsim("export", "launch", "quickstart", "--policy", "DSpark-5 scheduled", "--format", "json")
    assert told.code == 0, told.err
    scenario = load_scenario("quickstart")
    facts = {"name": "", "file": "scenarios/quickstart.yaml", "seed": 0, "replications": 1, "content": scenario.content}
    (world / "result.json").write_text(json.dumps(synthetic_result.example(loads=()) | {"scenario": facts}))
    assert (
        json.loads(dsim("export", "launch", world, "--policy", "DSpark-5 scheduled", "--format", "json").out)["engines"]
        == json.loads(told.out)["engines"]
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("absent.yaml",), "absent.yaml: no such file"),
        (("small.yaml",), "small.yaml: --policy: has 3 policies; give one of plain, MTP-1, scheduled"),
        (("small.yaml", "--policy", "MTP"), "--policy: no policy 'MTP'; policies: plain, MTP-1, scheduled"),
        (("tiny",), "tiny/result.json: no such file; name the --out folder"),
        (("bounded.yaml", "--policy", "oracle"), "--policy: policy 'oracle' knows outcomes beforehand"),
        (("other.json",), "other.json: dsim_version: not a result of this dsim"),
        (("other.json", "--set", "load=3"), "other.json: --set: a result has no keys to override"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(scenario: WriteScenario, dsim: Dsim, world: Path, arguments: tuple[str, ...], problem: str) -> None:
    scenario("bounded.yaml", policies=[{"name": name, **POLICIES[name]} for name in ("plain", "oracle")])
    (world / "other.json").write_text("{}")
    said = dsim("export", "launch", *arguments)
    assert said.code == 2
    assert problem in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (world / "launch").exists()
    assert load_profile(world / "tiny").name == "tiny"


def test_the_longest_request_of_a_trace_may_lie_outside_its_window(engines: Engines, world: Path) -> None:
    """A plan plays the busiest part of a trace; its servers get all of it."""
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,50,11\n1,50,11\n2,900,100\n")
    trace = {"path": "t.csv", "window_s": [0, 2]}
    assert options(engines("plain", workload={"trace": trace}, run={"replications": 1, "warmup_s": 0})[0])["--max-model-len"] == "1000"


@pytest.mark.parametrize(
    "target",
    [
        "--load-format=/x",
        "-c/x",
        "a/$(touch x)",
        "a/`touch x`",
        "a/b; touch x",
        "a/b\ntouch x",
        "a/'b",
        'a/{"x", "y"}',
        "a/\x1b[31m",
        "a/b|c&d",
        "~root\\/x",
    ],
)
def test_a_model_s_name_is_no_option_and_no_command(engines: Engines, edit_profile: Callable[..., None], target: str) -> None:
    edit_profile(lambda content: content.update(target=target))
    for engine, place in zip(engines("plain"), (2, 4), strict=True):
        assert re.fullmatch(r"PATH/TO/[A-Za-z0-9.+-]+", engine.command[place])
        assert shlex.split(shell(engine).replace("\\\n", " ")) == list(engine.command)


@pytest.mark.parametrize("target", ["org/small", "/models/a b/c", "./x", "~/models/x+y", "org/名前"])
def test_a_model_s_usual_name_is_used(engines: Engines, edit_profile: Callable[..., None], target: str) -> None:
    edit_profile(lambda content: content.update(target=target))
    vllm, sglang = engines("plain")
    assert (vllm.command[2], sglang.command[4]) == (target, target)


def test_scripts_quote_what_a_result_names(tmp_path: Path) -> None:
    """A result of a stranger's: whatever its words are, the shell sees these words and nothing else."""
    words = ("vllm", "serve", "$(touch x)", 'a, "b', "'; touch x; '", "line\nbreak", '{"a": 1, "b": "c, "}', "-x`touch x`", "\x1b[31m")
    engine = EngineLaunch(engine="vLLM", environment={"VLLM_X": "$(touch x) '\n"}, command=words, otherwise=("one\ntouch x", "\x1b]0;t\x07"))
    (script,) = write_launch(Launch(policy="p\ntouch x", replicas=1, engines=(engine,)), tmp_path / "launch")
    (tmp_path / "vllm").write_text('#!/bin/sh\nprintf "%s\\0" "$VLLM_X" "$@" > words\n')
    (tmp_path / "vllm").chmod(0o755)
    subprocess.run(["sh", script], cwd=tmp_path, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    shown = [*words[1:-1], "\\x1b[31m"]
    assert (tmp_path / "words").read_text().split("\0")[:-1] == ["$(touch x) '\n", *shown]
    assert not (tmp_path / "x").exists()
    assert all(line.isprintable() for line in script.read_text().splitlines())
