"""What a newcomer may type wrong, kind by kind: one line that names the place, the value and what to write, before any work and without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from simulator.study.run.scenario import validate_scenario
from tests.cli.conftest import Refuse
from tests.conftest import SCENARIO, Content

# --set … on the small scenario, and what the line must say
SETS = {
    # numbers
    "load=[99999999999999999999]": "small.yaml: load.0: | 99999999999999999999",
    "load=100000000": "load: | 100,000,000 users",
    "load=[-3]": "load.0: | above 0, got -3",
    "load=[1e400]": "number '1e400' is too large",
    "load=[.nan]": "load.0: | finite number, got nan",
    "load=[true]": "load.0: expected a number, got true",
    "load=yes": "load: expected a list, got 'yes'",
    "load=12:30": "load: expected a list, got '12:30'",
    "load=0x10": "load: expected a list, got '0x10'",
    "load=8,16": "load: expected a list, got '8,16'; write [8, 16]",
    "load=[8 16]": "load.0: expected a number, got '8 16'",
    "load=80 tok/s": "load: | '80 tok/s'; write [80]",
    "load=[]": "load: expected at least 1 entry, got none",
    "load=[2, 2.0]": "load: has 2 twice",
    "load=[2.5]": "load | whole",
    "load=[1, [2]]": "load.1: expected a number, got a list",
    "load=2026-01-01": "load: | '2026-01-01'",
    "run.replications=yes": "run.replications: expected a whole number, got 'yes'",
    "run.replications=true": "run.replications: expected a whole number, got true",
    "run.replications=2.5": "run.replications: expected a whole number, got 2.5",
    "run.replications=1000000": "run.replications: | at most 10,000 replications, got 1000000",
    "run.replications=10k": "run.replications: | '10k'; write the number alone: 10000",
    "run.warmup_s=2,50": "run.warmup_s: | '2,50'; write the number alone: 2.5",
    "run.replications=3 times": "run.replications: | '3 times'; write the number alone: 3",
    "run.replications=": "run.replications: is empty, expected a whole number",
    "run.requests=1e12": "run.requests: | at most 50,000,000 requests",
    "run.seed=-1": "run.seed: | at least 0, got -1",
    "run.seed=1e16": "run.seed: | at most 1e+15",
    "run.seed=[3]": "run.seed: expected a whole number, got a list; write 3, without brackets",
    "run.warmup_s=2 min": "run.warmup_s: expected a number, got '2 min'; write the seconds alone: 120",
    "run.warmup_s=500ms": "run.warmup_s: | write the seconds alone: 0.5",
    "fleet.replicas=0": "fleet.replicas: | above 0, got 0",
    "fleet.replicas=10000000": "fleet.replicas: | at most 1,000,000 replicas",
    "engine.max_batch=1e9": "engine.max_batch: | at most 100,000 requests",
    "engine.kv_tokens=16": "engine.kv_tokens: no request fits in 16 tokens | the shortest prompt and answer have 51",
    "engine.page_tokens=true": "engine.page_tokens: expected a whole number, got true",
    "engine.graph_sizes=[8, 8]": "engine.graph_sizes: has 8 twice",
    "workload.output_tokens.mean_tokens=1e12": "mean_tokens: | at most 100,000,000 tokens",
    "workload.output_tokens=200": "output_tokens: | got 200; write {kind: fixed, tokens: 200}",
    "policies.2.verification={kind: threshold, threshold: 50}": "policies.2.verification.threshold: | got 50; for 50 % write 0.5",
    "policies.2.verification={kind: threshold, threshold: 50%}": "threshold: | '50%'; write a number: 50 % is 0.5",
    "sla.tps_per_user=[90, 90]": "sla.tps_per_user: has 90 twice",
    "sla.tps_per_user=90": "sla.tps_per_user: expected a list, got 90; write [90]",
    "sla.goodput={tpot_s: 50}": "sla.goodput.tpot_s: expected a number of at most 5 seconds, got 50; for 50 ms write 0.05",
    "name=3": "name: expected a text, got 3; write '3' in quotes",
    # keys
    "run.reps=3": "run.reps: unknown key 'reps'; did you mean 'replications'?",
    "replications=3": "replications: unknown key 'replications'; did you mean 'run.replications'?",
    "engine.replications=3": "engine.replications: | did you mean 'run.replications'?",
    "warmup=3": "warmup: | did you mean 'run.warmup_s'?",
    "seed=3": "seed: | did you mean 'run.seed'?",
    "run.Replications=3": "did you mean 'replications'?",
    "run.warm-up-s=3": "did you mean 'warmup_s'?",
    "Load=[3]": "did you mean 'load'?",
    "drafter=mtp": "did you mean 'policies.0.drafter'?",
    "policies.1.length=1": "policies.1.length: | did you mean 'policies.1.verification.length'?",
    "policies.1.verification.num_speculative_tokens=1": "did you mean 'length'?",
    "engine.max_num_seqs=8": "did you mean 'max_batch'?",
    "workload.arrivals.rate=3": "did you mean 'load'?",
    "qps=3": "did you mean 'load'?",
    "arrivals={kind: poisson}": "did you mean 'workload.arrivals'?",
    "zzzz=1": "unknown key 'zzzz'; valid keys: ",
    "load_rps=3": "it is a key of a plan (dsim plan); did you mean 'load'?",
    "growth=2": "growth: unknown key 'growth'; it is a key of a plan (dsim plan)",
    "engine.prefill.token_budget=9": "unknown key 'token_budget'; it goes with kind chunked, not instant",
    "policies.1.verification.kind=threshold": "policies.1.verification.length: | it goes with kind fixed, not threshold",
    # kinds and words
    "engine.prefill=instant": "engine.prefill: | got 'instant'; write {kind: instant}",
    "fleet.routing=round-robin": "write {kind: round_robin}",
    "workload.arrivals.kind=Poisson": "did you mean 'poisson'?",
    "policies.1.verification={kind: eagle}": "unknown kind 'eagle'; kinds: none, fixed, ",
    "policies.1.verification={}": "policies.1.verification: has no 'kind'; kinds: none, ",
    "sla.speed=p90": "sla.speed: | did you mean 'tps_per_user_p90'?",
    "workload.domains=chat": "workload.domains: | write {chat: 1}",
    "workload.trace=trace.csv": "workload.trace: | write {path: trace.csv}",
    # policies
    "policies.1.name=plain": "two policies are called 'plain'",
    "policies.1.name=' '": "policies.1.name: | one line",
    "policies.1.drafter=null": "policies.1.drafter: policy 'MTP-1' verifies drafts but names no drafter",
    "policies.1.drafter=MTP": "policies.1.drafter: | no drafter 'MTP'; its drafters: head, mtp",
    "policies.1.verification={kind: fixed, length: 4}": "policies.1.verification: verifies 4 tokens, drafter 'mtp' drafts 1",
    "policies.1.verification={kind: confidence_scheduled}": "needs confidences and drafter 'mtp' has none",
    "policies.2.verification={kind: by_batch, table: [[1, 4]]}": "table.0: has too few entries",
    "policies=[]": "policies: expected at least 1 entry",
    # sections
    "engine=null": "engine: is empty, expected a mapping",
    "run=3": "run: expected a mapping of keys to values, got 3",
    "policies.0=null": "policies.0: is empty",
    "profile=tniy": "small.yaml: profile: no profile at 'tniy'; did you mean 'tiny'?",
    "profile=tiny/profile.yaml": "profile: | name its folder, 'tiny'",
    "profile=nowhere/tiny": "no profile at 'nowhere/tiny'; | `dsim profile list`",
    # the argument itself
    "engine": "--set: 'engine' is not path.to.key=value",
    "=3": "--set: '=3' is not path.to.key=value",
    "load.9=3": "--set: load.9: '9' is not an entry of a list of 2",
    "policies.fast.drafter=mtp": "'fast' is not an entry of a list of 3; count from 0, or name one: plain, MTP-1, scheduled",
    "name.x=3": "--set: name.x: 'x' lies below a plain value",
    "load=[1,2": "--set: load: not valid YAML | got '[1,2'; close the bracket",
    "policies[0].name=x": "--set: policies[0].name: | write policies.0.name",
    "run/seed=3": "write run.seed",
    "run..seed=3": "write run.seed",
    "--load=[3]": "write load",
    "run.replications=!!int x": "--set: run.replications: not valid YAML",
}


@pytest.mark.parametrize("override", SETS)
def test_set(override: str, refuse: Refuse) -> None:
    refuse("run", "small.yaml", "--out", "out", "--set", override, says=SETS[override])


OPEN = {
    "load=[1e8]": "load: | at most 50,000,000 requests",
    "run.duration_s=9e7": "load: 5 requests per second | at most 50,000,000 requests",
    "run.duration_s=0": "run.duration_s: | above 0, got 0",
    "run.duration_s=null": "run.duration_s",
    "workload.arrivals={kind: gamma}": "workload.arrivals.cv: required key is missing",
    "workload.arrivals.think_s=1": "it goes with kind closed_loop, not poisson",
}


@pytest.mark.parametrize("override", OPEN)
def test_set_of_open_traffic(override: str, scenario: Callable[..., Path], refuse: Refuse) -> None:
    workload = SCENARIO["workload"] | {"arrivals": {"kind": "poisson"}}
    scenario(workload=workload, load=[5], run={"replications": 1, "warmup_s": 1, "duration_s": 5})
    refuse("run", "small.yaml", "--out", "out", "--set", override, says=OPEN[override])


def test_a_key_is_set_once(refuse: Refuse) -> None:
    refuse("run", "small.yaml", "--set", "run.seed=1", "--set", "run.seed=2", says="--set: run.seed: is set more than once")


PLANS = {
    "sla.ttft={seconds: -1}": "plan.yaml: sla.ttft.seconds: | above 0, got -1",
    "sla.ttft={seconds: 500}": "sla.ttft.seconds: expected a number of at most 120 seconds, got 500; for 500 ms write 0.5",
    "sla.ttft=1": "sla.ttft: | got 1; write {seconds: 1}",
    "sla.speed=40": "sla.speed: | write {tps: 40}",
    "sla.speed={tps: 40, share: 95}": "sla.speed.share: | got 95; for 95 % write 0.95",
    "sla.speed={tps: 40, share: 90%}": "sla.speed.share: | 90 % is 0.9",
    "sla.tps=40": "sla.tps: | did you mean 'sla.speed.tps'?",
    "price=2.5": "price: | write {gpu_hour: 2.5}",
    "price={gpu_hour: $2.5}": "price.gpu_hour: | '$2.5'; write the number alone: 2.5",
    "price={gpu_hour: 2.5 USD}": "price.gpu_hour: | write the number alone: 2.5",
    "load=30": "load: unknown key 'load'; it is a key of a scenario (dsim run); did you mean 'load_rps'?",
    "load_rps=30 req/s": "load_rps: | write the number alone: 30",
    "load_rps=[30]": "load_rps: | write 30, without brackets",
    "load_rps=1e8": "load_rps: 1e+08 requests per second | at most 50,000,000 requests",
    "run.window_s=9e7": "load_rps: 30 requests per second | at most 50,000,000 requests",
    "profile=tiny": "did you mean 'profiles'?",
    "profiles=[tiny, tiny]": "two profiles are called 'tiny'",
    "profiles=[tnyi]": "plan.yaml: profiles.0: no profile at 'tnyi'",
    "profiles=tiny": "profiles: expected a list, got 'tiny'; write [tiny]",
    "engine={max_batch: 8}": "engine: unknown key 'engine'; it is a key of a scenario (dsim run)",
    "settings=[{prefill: {kind: chunked}}]": "plan.yaml: settings.0.prefill.kind: profile 'tiny' has no prefill cost",
    "settings=[{max_batch: 8}, {max_batch: 9}]": "two settings are called 'default'",
    "policies.0={name: x, verification: {kind: fixed, length: 1}}": "plan.yaml: policies.0.drafter: | names no drafter",
    "policies=[{name: x, drafter: head, verification: {kind: fixed}, lengths: [1, 1]}]": "policies.0.lengths: has 1 twice",
    "promises=[50, 50]": "promises: has 50 twice",
    "what_if=maybe": "what_if: expected true or false or 'short', got 'maybe'",
    "fleet.survive_loss=2": "fleet.survive_loss: expected true or false, got 2",
    "sla.speed={tps: 0.1}": "sla.speed.tps: expected a number of at least 0.2 tokens per second, got 0.1",
    "fleet.max_replicas=100000000": "fleet.max_replicas: | at most 1,000,000 replicas",
    "gpu_hour=2": "did you mean 'price.gpu_hour'?",
    "run.duration_s=60": "did you mean 'window_s'?",
}


@pytest.mark.parametrize("override", PLANS)
def test_set_of_a_plan(override: str, refuse: Refuse) -> None:
    refuse("plan", "plan.yaml", "--out", "out", "--set", override, says=PLANS[override])


SMALL = yaml.safe_dump(SCENARIO, sort_keys=False)
WIDE = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 9))
FILES = {
    "tab": (SMALL.replace("  replications: 2", "\treplications: 2"), "small.yaml:39:1: | spaces, not tabs"),
    "no space": (SMALL.replace("replications: 2", "replications:2"), "small.yaml:40:11: | a space after each colon"),
    "colon in a text": (SMALL.replace("Which is", "Which: is"), "small.yaml:2:16: | quote a text"),
    "no colon": (SMALL.replace("load:", "load"), "small.yaml:18:11: | KEY: VALUE"),
    "unclosed quote": (SMALL.replace("Which", '"Which'), "small.yaml:44:1: | close the quote"),
    "unclosed bracket": (SMALL + "notes: [a, b\n", "small.yaml:45:1: | close the bracket"),
    "twice": (SMALL + "load: [3]\n", "small.yaml:44:1: | key 'load' appears twice"),
    "two documents": (SMALL + "---\n" + SMALL, "small.yaml:44:1: | one file holds one document"),
    "star": (SMALL.replace("small", "*small"), "small.yaml:1:7: | quote a text that begins with *"),
    "python": ("name: !!python/object/apply:os.system [x]\n", "small.yaml:1:7: | drop the tag"),
    "a number as a key": (SMALL + "1: 2\n", "expected a text as a key, got 1; write '1' in quotes"),
    "true as a key": (SMALL + "true: 2\n", "small.yaml:44:1: | expected a text as a key, got 'true'"),
    "an alias of itself": ("name: &a [*a]\n", "aliases"),
    "aliases of aliases": (f"x0: &x0 [x]\n{WIDE}{SMALL}", "aliases"),
    "deep": (f"name: {'[' * 3000}{']' * 3000}\n", "nested more than 64 deep"),
    "list": ("- a\n", "small.yaml: expected a mapping of keys to values, got a list"),
    "csv": ("arrival_s,prompt_tokens\n0,5\n", "small.yaml: expected a mapping of keys to values, got a text"),
    "comments": ("# nothing\n", "small.yaml: expected a mapping of keys to values, got an empty file"),
    "result": ('{"dsim_version": "1", "answer": [], "warnings": []}', "expected a scenario, got a result"),
}


@pytest.mark.parametrize("case", FILES)
def test_file(case: str, world: Path, refuse: Refuse) -> None:
    text, says = FILES[case]
    (world / "small.yaml").write_text(text)
    refuse("run", "small.yaml", "--out", "out", says=says)


def test_files_of_another_kind_or_name(refuse: Refuse) -> None:
    refuse("run", "plan.yaml", says="plan.yaml: expected a scenario, got a plan; use dsim plan plan.yaml")
    refuse("validate", "plan.yaml", says="expected a scenario, got a plan")
    refuse("plan", "small.yaml", says="small.yaml: expected a plan, got a scenario; use dsim run small.yaml")
    refuse("run", "tiny/profile.yaml", says="expected a scenario, got a profile; | dsim profile check tiny")
    refuse("run", "smal.yaml", says="smal.yaml: no such file; did you mean 'small.yaml'?")
    refuse("run", "nowhere/small.yaml", says="there is no folder 'nowhere'")
    refuse("profile", "check", "tiny/profile.yaml", says="name its folder, 'tiny'")
    refuse("profile", "check", "tniy", says="no profile at 'tniy'; did you mean 'tiny'?")


def test_yaml_is_read_as_it_looks(scenario: Callable[..., Path], world: Path) -> None:
    """A byte order mark, Windows' ends of lines, 1_000 and 1e1 are no mistakes; nor is 010, which is ten."""
    text = SMALL.replace("requests: 12", "requests: 1_000").replace("- 6", "- 1e1").replace("max_batch: 8", "max_batch: 010")
    (world / "small.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    loaded = validate_scenario(yaml_content(world / "small.yaml"), world / "small.yaml")
    assert (loaded.run.requests, loaded.load, loaded.engine.max_batch) == (1000, [2, 10], 10)


def yaml_content(path: Path) -> Content:
    from simulator.reading.yaml_files import read_yaml

    return read_yaml(path)
