"""The plan of `make engines`, without any engine: its order, what is resumed, its command lines, its scenarios, and that nothing stays behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.engines import cells, exported, measure, run, scenarios
from benchmarks.engines.plan import ENGINES, LLAMA, VLLM, Condition
from benchmarks.engines.processes import Client, Failed, Group, Server, Watch, alone_in, finish, free_port, reason, stop_all
from simulator.reading.yaml_files import read_yaml
from simulator.study.run.scenario import Scenario
from simulator.traffic.benchmark import Benchmark


@pytest.mark.parametrize("engine", ENGINES.values(), ids=str)
def test_policies_at_one_load_are_measured_one_after_the_other_with_the_same_prompts(engine, tmp_path: Path) -> None:
    plan = cells.measured(engine, tmp_path, 2.0)
    assert len({cell.result for cell in plan}) == len(plan)
    runs = [(cell.folder.parent.name, cell.load, cell.seed) for cell in plan]
    changes = sum(a != b for a, b in itertools.pairwise(runs))
    assert changes + 1 == len(set(runs))  # each block is in one piece, and no two share a seed
    assert len({seed for _, _, seed in runs}) == len(set(runs))
    assert not {cell.seed for cell in plan} & {cell.seed for cell in cells.probes(engine, tmp_path)}
    order = [run for run, _ in itertools.groupby((cell.folder.parent.name, cell.load, cell.name.endswith("-2")) for cell in plan)]
    early = order.index(next(run for run in order if run[2]))
    firsts = [run for run in order if not run[2]]
    assert early == (len(firsts) + 1) // 2  # noise is known halfway
    assert order[:early] == firsts[:early]
    repeated = {run[:2] for run in order if run[2]}
    assert order[early][:2] == next(run[:2] for run in firsts if run[:2] in repeated)
    assert order[early + 1 : len(firsts) + 1] == firsts[early:]  # all other second repeats come after all first ones
    assert plan == cells.measured(engine, tmp_path, 2.0)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=str)
def test_drafters_are_probed_with_the_prompts_that_they_are_measured_with(engine, tmp_path: Path) -> None:
    plain, prefixed = ({engine.policy(probe.policy).drafter for probe in engine.probes if probe.prefix == prefix} for prefix in (False, True))
    for condition in engine.conditions:
        assert {engine.policy(name).drafter for name in condition.policies} - {""} <= (prefixed if condition.prefix else plain)
    begins = [cell for cell in cells.probes(engine, tmp_path) if cell.prefix]
    assert {cell.folder.name for cell in begins} == {f"{drafter}-prefix" for drafter in prefixed}
    assert not any(cell.cached for cell in begins)  # what the server keeps would be missing in the cost of prompts
    folders = [(cell.folder, cell.name) for cell in cells.probes(engine, tmp_path)]
    assert len(set(folders)) == len(folders)


def test_enough_policies_and_loads() -> None:
    base = {engine.name: engine.conditions[0] for engine in ENGINES.values()}
    assert len(base["vllm"].policies) >= 6
    assert len(base["vllm"].loads) >= 5
    assert len(base["llama"].policies) >= 4
    assert len(base["llama"].loads) >= 4


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    plan = cells.measured(VLLM, tmp_path, 2.0)
    plan[3].folder.mkdir(parents=True)
    plan[3].result.write_text("{}")
    assert list(cells.missing(plan)) == plan[:3] + plan[4:]


def test_what_was_measured_on_a_shared_core_is_measured_again(tmp_path: Path) -> None:
    """When all are there, whatever came out: the pace alone decides, against the least that any cell had."""
    first, second, third = some = [
        cells.Cell(tmp_path, name, "none", 1, 3, 17, repeat=repeat) for name, repeat in (("c1", 1), ("c2", 1), ("c1-2", 2))
    ]

    def measured(paces: dict[str, list[float]]) -> list[str]:
        order = []
        for cell in measure.due(some):
            order.append(cell.name)
            pace_s = paces[cell.name].pop(0)
            if not cell.result.exists() or pace_s < measure.pace_of(cell):
                cell.result.write_text(json.dumps({"pace_s": pace_s, "output_throughput": 1 / pace_s}))
        return order

    assert measured({"c1": [0.0050], "c2": [0.0070, 0.0051], "c1-2": [0.0052]}) == ["c1", "c2", "c1-2", "c2"]
    assert list(measure.due(some)) == []
    third.result.unlink()
    again = {"c1": [0.0050] * 2, "c2": [0.0051] * 2, "c1-2": [0.0070, *[0.0069] * (measure.TIMES - 1)]}
    assert measured(again) == ["c1-2"] * measure.TIMES
    assert [measure.pace_of(cell) for cell in (first, second, third)] == [0.0050, 0.0051, 0.0069]


def test_a_watch_times_the_core_that_it_is_put_on(tmp_path: Path) -> None:
    watch = Watch("0", tmp_path / "pace.log")
    watch.stop()
    assert 0 < watch.pace_s(0) < 1
    with pytest.raises(Failed, match="the core's pace is not known"):
        watch.pace_s(watch.count())


def test_a_policy_without_a_probe_is_left_out(tmp_path: Path) -> None:
    for drafter in ("none", "ngram"):
        (tmp_path / "identify" / drafter).mkdir(parents=True)
        (tmp_path / "identify" / drafter / "c1.json").write_text('{"request_throughput": 3}')
    left = cells.identified(VLLM, tmp_path)
    assert [policy.name for policy in left.policies] == ["none", "ngram1", "ngram3", "ngram5"]
    assert {cell.policy for cell in cells.measured(left, tmp_path, 2.0)} == {"none", "ngram1", "ngram3", "ngram5"}
    assert cells.knee_rps(tmp_path) == 3


def test_nothing_half_is_sealed_and_nothing_sealed_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, asked = run.job_of(VLLM, tmp_path / "home", tmp_path, time.monotonic()), list[str]()
    monkeypatch.setattr(run, "run_cells", lambda *_: asked.append("identify") or True)
    monkeypatch.setattr(scenarios, "seal", lambda *_: asked.append("seal"))
    cell_of = {cell.result: cell for cell in cells.probes(VLLM, tmp_path)}

    def measured(but: Path | None = None) -> None:
        for result, cell in cell_of.items():
            cell.folder.mkdir(parents=True, exist_ok=True)
            result.unlink(missing_ok=True)
            if result != but and cell.policy != "eagle3":  # a drafter that could not be served
                result.write_text('{"pace_s": 0.004}')

    for lost in (tmp_path / "identify" / "eos" / "c16.json", tmp_path / "identify" / "none" / "c1.json", tmp_path / "identify" / "draft" / "c2.json"):
        measured(lost)
        with pytest.raises(Failed, match=f"1 probes are missing, the first {lost}"):
            run.STEPS["seal"](job)
    measured()
    (tmp_path / "measured" / "base" / "none").mkdir(parents=True)
    (tmp_path / "measured" / "base" / "none" / "c1.json").write_text("{}")
    with pytest.raises(Failed, match="results of another seal"):
        run.STEPS["seal"](job)
    (tmp_path / "measured" / "base" / "none" / "c1.json").unlink()
    assert run.STEPS["seal"](job)
    (tmp_path / "seal.json").write_text("{}")
    assert run.STEPS["identify"](job)
    assert run.STEPS["seal"](job)
    assert asked == ["seal"]


def test_the_clients_words(tmp_path: Path) -> None:
    plan = cells.measured(VLLM, tmp_path, 2.0)
    closed = next(cell for cell in plan if cell.folder.parent.name == "base" and cell.load == 4)
    words = closed.command(Path("T"), "http://h", Path("d.jsonl"), tmp_path / "o.json")
    assert words[words.index("--max-concurrency") + 1] == "4"
    assert words[words.index("--num-prompts") + 1] == "12"
    assert "--ignore-eos" in words
    assert "--request-rate" not in words
    assert "--extra-body" not in words
    rate = next(cell for cell in plan if cell.folder.parent.name == "open60")
    words = rate.command(Path("T"), "http://h", Path("d.jsonl"), tmp_path / "o.json", '{"cache_prompt": false}', "--header Connection=close")
    assert words[words.index("--header") + 1] == "Connection=close"
    assert words[words.index("--request-rate") + 1] == "1.2"
    assert words[words.index("--extra-body") + 1] == '{"cache_prompt": false}'
    assert "--max-concurrency" not in words
    ends = next(cell for cell in plan if cell.folder.parent.name == "eos")
    assert "--ignore-eos" not in ends.command(Path("T"), "http://h", Path("d.jsonl"), tmp_path / "o.json")


def test_the_servers_words(tmp_path: Path) -> None:
    machine = measure.Machine(VLLM, tmp_path, tmp_path)
    words = machine.command("draft3", False, 8123)
    config = json.loads(words[words.index("--speculative-config") + 1])
    assert config["num_speculative_tokens"] == 3
    assert config["model"].endswith("/models/smollm2/draft")
    assert "--no-enable-prefix-caching" in words
    assert "--enable-prefix-caching" in machine.command("none", True, 8123)
    assert "8123" in words
    assert not any("{" in word for word in machine.command("none", False, 1))
    llama = measure.Machine(LLAMA, tmp_path, tmp_path).command("dspark5", False, 8124)
    assert llama[llama.index("--spec-draft-n-max") + 1] == "5"
    assert llama[llama.index("-md") + 1].endswith("dspark.gguf")


@pytest.mark.parametrize("engine", ENGINES.values(), ids=str)
def test_scenarios_say_what_the_client_sends(engine, tmp_path: Path) -> None:
    for condition in engine.conditions:
        file = scenarios.write_scenario(engine, condition, tmp_path, 2.0, [20, 30], 16 if condition.prefix else 0, [5, 9] if condition.eos else None)
        content = read_yaml(file)
        arrivals = Benchmark.model_validate(content["workload"]["arrivals"])
        sent = {
            (cell.policy, cell.load): cell.requests for cell in cells.measured(engine, tmp_path, 2.0) if cell.folder.parent.name == condition.name
        }
        assert sent == {(policy["name"], load): arrivals.prompts(load, 1) for policy in content["policies"] for load in content["load"]}
        assert set(Scenario.model_fields) >= set(content)


def test_common_beginning() -> None:
    assert scenarios.common([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]]) == 2
    assert scenarios.common([[1, 2], [1, 2]]) == 2


def test_requests_of_a_cell() -> None:
    condition = Condition("x", ("none",), (1, 8), requests=12, per_user=4)
    assert [cells.requests_of(condition, load) for load in condition.loads] == [12, 32]
    assert cells.requests_of(dataclasses.replace(condition, knee=True, requests=60), 0.6) == 60


SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok 1")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_and_its_children_are_gone_when_stopped(tmp_path: Path) -> None:
    port = free_port()
    server = Server([sys.executable, "-c", SERVER, str(port)], tmp_path / "log", {}, port, "/", 30)
    group = server.process.pid
    assert server.metrics() == "ok 1"
    assert server.cpu_s() > 0
    server.pause(True)
    stop_all()
    assert not Group.running
    end = time.monotonic() + 10
    while _members(group) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _members(group)


def _members(group: int) -> list[str]:
    stats = [stat.read_text().rpartition(")")[2].split() for stat in Path("/proc").glob("[0-9]*/stat") if stat.exists()]
    return [fields[0] for fields in stats if int(fields[2]) == group and fields[0] != "Z"]


def test_a_server_that_ends_is_said_with_its_words(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise ValueError('unknown model type')"]
    with pytest.raises(Failed, match="the server ended: ValueError: unknown model type"):
        Server(words, tmp_path / "log", {}, free_port(), "/", 30)
    assert not Group.running


def test_the_reason_of_an_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text, said in (
        ("WARNING failed to find x\nE load: failed to open 'd.gguf'\nE exiting due to model loading error", "E load: failed to open 'd.gguf'"),
        ("ERROR engine failed to start\nERROR ValueError: no class X\nRuntimeError: see above", "ERROR ValueError: no class X"),
        ("one\ntwo", "two"),
        ("", "(nothing was written)"),
    ):
        log.write_text(text)
        assert reason(log) == said


def test_a_client_that_hangs_is_ended(tmp_path: Path) -> None:
    client = Client.__new__(Client)
    client.log = tmp_path / "log"
    Group.__init__(client, [sys.executable, "-c", "input(); input()"], os.environ, client.log, pipes=True)
    with pytest.raises(Failed, match=r"no answer of the client within 0\.5 s"):
        client.bench(["--x"], 0.5)
    assert not Group.running


def test_a_command_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    program = "import os, subprocess, sys; subprocess.Popen(['sleep', '600']); open(sys.argv[1], 'w').write(str(os.getpgrp())); sys.exit(3)"
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        finish([sys.executable, "-c", program, str(tmp_path / "group")], {})
    assert not Group.running
    end = time.monotonic() + 10
    while (left := _members(int((tmp_path / "group").read_text()))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def test_two_runs_keep_out_of_each_others_way(tmp_path: Path) -> None:
    alone_in(tmp_path / "home")
    with pytest.raises(Failed, match="is used by another run of this program"):
        alone_in(tmp_path / "home")


def test_rounds_without_drafts_are_not_counted_against_an_engine(tmp_path: Path) -> None:
    """What an export is held against: prompts' steps verify nothing."""
    (tmp_path / "steps.csv").write_text("start_s,verified,accepted\n0,0,0\n1,5,2\n2,5,0\n3,0,0\n")
    assert exported.counted(tmp_path / "steps.csv") == exported.Counts(2, 10, 2)
