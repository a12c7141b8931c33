"""`dsim probe`: against a server whose pace is known, and against transformers' own server in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from simulator.errors import DsimError
from simulator.measurements.endpoint import Server
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.profile import load_profile
from simulator.measurements.server import Answer, _measured, ask
from simulator.report.render.markdown import markdown
from simulator.report.validation.page import Entry, page
from simulator.study.profiles.about import About
from simulator.study.profiles.given_points import Cell
from simulator.study.profiles.probe import widest_jump
from simulator.study.profiles.probe_fit import profile_of
from simulator.study.profiles.probe_plan import ProbePlan
from simulator.study.validation.result import Comparison

Dsim = Callable[..., Any]
TOKENS = 12
STEP_S = 0.02


class Paced(BaseHTTPRequestHandler):
    """Streams TOKENS tokens, one each STEP_S + 5 ms per request that is being answered, in pieces of two tokens, and counts them."""

    protocol_version = "HTTP/1.1"
    active = 0
    drafts = 0
    lock = threading.Lock()

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        prefix = "vllm:spec_decode_num_"
        totals = "".join(f"{prefix}{name}_total {self.drafts}\n" for name in ("drafts", "draft_tokens", "accepted_tokens"))
        self._send("# HELP x\n" + totals + f'{prefix}accepted_tokens_per_pos_total{{position="0"}} {self.drafts}\n', "text/plain")

    def _send(self, text: str, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] != "paced":
            self._send('{"error": "no such model"}', "application/json", 404)
            return
        with self.lock:
            Paced.active += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event({"choices": [{"delta": {"role": "assistant"}}]})
        for _ in range(body["max_tokens"] // 2):
            time.sleep(2 * (STEP_S + 0.005 * self.active))
            with self.lock:
                Paced.drafts += 1
            self._event({"choices": [{"delta": {"content": "two tokens"}}]})
        self._event({"choices": [], "usage": {"completion_tokens": body["max_tokens"], "prompt_tokens": 7}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        with self.lock:
            Paced.active -= 1

    def _event(self, content: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def running(handler: type[Paced]) -> Iterator[str]:
    """The base URL of a server while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def paced() -> Iterator[str]:
    yield from running(Paced)


class Guarded(Paced):
    """Answers only with the right key, and repeats a wrong one as some gateways do."""

    def do_GET(self) -> None:
        self._send("", "text/plain", 404)

    def do_POST(self) -> None:
        if "Bearer right-key-123" in (self.headers.get("Authorization"), self.headers.get("X-Key")):
            super().do_POST()
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(f'{{"error": "bad key {self.headers.get("Authorization", "")[7:]}"}}', "application/json", 401)


@pytest.fixture
def guarded() -> Iterator[str]:
    yield from running(Guarded)


def guarded_call(url: str, out: Path) -> tuple[Any, ...]:
    fixed = ("--concurrency", "1,4", "--requests", 2, "--output-tokens", 4, "--accepted-length", 2, "--budget", 2)  # two tokens in a piece
    return ("probe", "--base-url", url, "--model", "paced", "--out", out, *fixed)


@pytest.mark.parametrize("way", ["environment", "header", "other header"])
def test_a_key_is_sent_and_left_nowhere(guarded: str, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "right-key-123" if way == "environment" else "wrong-key-456")
    header = {"environment": (), "header": ("authorization: Bearer right-key-123",), "other header": ("X-Key:Bearer right-key-123",)}[way]
    out = tmp_path / "p"
    said = dsim(*guarded_call(guarded.replace("//", "//me:pass-word@"), out), *(part for line in header for part in ("--header", line)))
    assert said.code == 0, said.err
    written = [file.read_text() for file in out.rglob("*") if file.is_file()]
    assert written
    for text in (said.out, said.err, *written):
        assert "-key-" not in text
        assert "pass-word" not in text


def test_a_wrong_key_is_not_repeated(guarded: str, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-456")
    said = dsim(*guarded_call(guarded, tmp_path / "p"))
    assert said.code == 2
    assert "answered 401" in said.err
    assert "check OPENAI_API_KEY and --header" in said.err
    assert "wrong-key" not in said.err
    monkeypatch.delenv("OPENAI_API_KEY")
    said = dsim(*guarded_call(guarded, tmp_path / "p"))
    assert "set OPENAI_API_KEY, or give --header" in said.err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "line", ["right-key-123", "X Key: right-key-123", ": right-key-123", "Authorization:", "X-Key: right-key-123\nEvil: 1", "X-Key: schlüssel"]
)
def test_a_header_that_is_none_is_refused_without_being_shown(guarded: str, dsim: Dsim, tmp_path: Path, line: str) -> None:
    said = dsim(*guarded_call(guarded, tmp_path / "p"), "--header", line)
    assert said.code == 2
    assert said.err.startswith("error: --header: expected")
    assert "right-key" not in said.err


def test_an_answer_has_the_servers_own_count(paced: str) -> None:
    found = ask(Server(paced, "paced", True, TOKENS), "hello")
    assert found.tokens == TOKENS
    assert found.counted
    assert found.prompt_tokens == 7
    assert found.last_s - found.first_s >= (TOKENS // 2 - 1) * 2 * (STEP_S + 0.005) * 0.95
    assert found.first_s - found.sent_s >= 2 * STEP_S * 0.95


def test_the_window_holds_what_all_users_were_there_for() -> None:
    """Two users at 10 tok/s each without a pause: throughput and speed by hand."""
    answers = [Answer(user, turn, turn * 2.0, turn * 2.0 + 0.1, turn * 2.0 + 2.0, 20, None, True) for user in (0, 1) for turn in range(4)]
    found = _measured(2, answers)
    assert found.tps_per_user == pytest.approx(10)
    assert len(found.answers) == 6  # the first of each user warms up
    assert found.decoding == pytest.approx(2 * 1.9 / 2)
    assert found.throughput_tok_s == pytest.approx(20)


def test_a_paced_server_gives_a_profile_of_its_pace(paced: str, dsim: Dsim, tmp_path: Path) -> None:
    arguments = ("--base-url", paced, "--model", "paced", "--out", tmp_path / "p", "--concurrency", "1,3,6", "--check", "2", "--requests", 2)
    said = dsim("probe", *arguments, "--output-tokens", TOKENS, "--format", "json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["accepted_length"], found["budget"]) == (2.0, 2.0)  # from the scraped counters: one draft accepted in every round
    profile = load_profile(tmp_path / "p")
    assert profile.costs.verify.provenance == "imported"
    for point in found["measured"]:
        assert point["tokens_counted_by_server"] == point["answers"]
        # 11 token gaps in 5 bursts of 2 (STEP + 5 ms · users) each; a loaded machine can only be slower
        fastest = 11 / (5 * 2 * (STEP_S + 0.005 * point["users"]))
        assert 0.3 * fastest < point["tps_per_user_mean"] < 1.1 * fastest
    told = {row["users"]: row for row in found["comparison"]}
    assert told[2]["held_out"]
    assert not told[1]["held_out"]
    kept = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert kept["measured"] == found["measured"]
    assert {row["what"]: row["fitted"] for row in kept["rows"]}["per-user speed of 2 users, left out of the fit"] is False
    assert "## probe-p" in markdown(page([Entry(Comparison.from_json(kept))], ""))


def test_a_look_is_taken_where_steps_jump_and_what_is_kept_for_checking_is_left_alone() -> None:
    steps = {1: 0.054, 2: 0.061, 4: 0.096, 8: 0.134, 16: 0.159}  # a server whose kernels change between three and four users
    speeds = {users: 1 / step for users, step in steps.items()}
    assert widest_jump(speeds, ()) == 3
    assert widest_jump(speeds, (3,)) == 6  # 4 to 8 is the next
    assert widest_jump(speeds | {3: 1 / 0.066, 6: 1 / 0.11}, (5, 10)) is None  # 3 to 4 has nothing between, the others differ less
    assert widest_jump({1: 10.0, 9: 9.0}, ()) is None


def test_a_server_that_no_curve_follows_becomes_a_table(tmp_path: Path) -> None:
    """Step times that go up and down with the batch: the profile has them as they were, and straight lines between."""

    def cells(steps: dict[int, float]) -> list[Cell]:
        plain = {"accepted_length": 1.0, "budget": 1.0, "proposing": 0.0, "slots": 0}
        points = [LoadPoint(f"{users} users", 1 / step, users / step, offered=users, **plain) for users, step in steps.items()]
        return [Cell(point, "", Path("probe.json")) for point in points]

    steps = {1: 0.05, 2: 0.05, 4: 0.10, 8: 0.11, 12: 0.17, 16: 0.15}
    about = About(tmp_path / "p", None, "a machine", "an engine", "a model")
    told = profile_of(about, "test", cells(steps), ())
    verify = load_profile(tmp_path / "p").costs.verify
    assert verify.seconds(list(steps)) == pytest.approx(list(steps.values()))
    assert verify.seconds([10]) == pytest.approx(0.14)
    assert "a smooth curve misses them" in told["text"]
    smooth = {users: 0.02 + 0.001 * users for users in steps}
    told = profile_of(About(tmp_path / "q", None, "a machine", "an engine", "a model"), "test", cells(smooth), ())
    assert "a smooth curve misses them" not in told["text"]
    assert load_profile(tmp_path / "q").costs.verify.seconds([10], 10) == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--model": "other"}, "answered 404"),
        ({"--base-url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
        ({"--base-url": "localhost:8000"}, "expected a URL"),
        ({"--base-url": "http:///v1"}, "expected a URL"),
        ({"--base-url": "http://[::1/v1"}, "expected a URL"),
        ({"--base-url": "http://127.0.0.1:99999/v1"}, "expected a URL"),
        ({"--base-url": "me:secret@host:8000/v1"}, "got 'host:8000/v1'"),
        ({"--concurrency": "4"}, "expected at least two numbers of users"),
        ({"--concurrency": "1,x"}, "expected whole numbers above 0"),
        ({"--concurrency": "1,5000"}, "--concurrency: expected at most 4096 users, got 5000"),
        ({"--accepted-length": "2"}, "--accepted-length, --budget: expected both or none"),
        ({"--accepted-length": "nan", "--budget": "2"}, "--accepted-length: expected 1 to 128 tokens"),
        ({"--accepted-length": "3", "--budget": "2"}, "--accepted-length: expected 1 to the budget of 2, got 3"),
        ({"--add": "nowhere"}, "probe.json: "),
        ({"--check": "3"}, "has a number of users that --concurrency fits"),
        ({"--extra": "[1]"}, "expected a JSON object"),
        ({"--prompts": "absent.txt"}, "absent.txt: no such file"),
    ],
)
def test_mistakes_are_one_line(paced: str, dsim: Dsim, tmp_path: Path, changes: dict[str, str], told: str) -> None:
    given = {"--base-url": paced, "--model": "paced", "--concurrency": "1,3", "--requests": "2", "--output-tokens": "4"} | changes
    said = dsim("probe", "--out", tmp_path / "p", *(part for pair in given.items() for part in pair))
    assert said.code == 2
    assert told in said.err
    assert said.err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "p").exists()


def test_prompts_of_both_forms(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\u2028lines\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"prompt": "three"}\n')
    (tmp_path / "c.jsonl").write_text('{"text": "four"}\n')

    def plan(name: str) -> ProbePlan:
        return ProbePlan.of(Server("http://x/v1", "m", True, 8), tmp_path / name, "1,2", "", 2)

    assert plan("a.txt").prompts == ("one", "two\u2028lines")
    assert plan("b.jsonl").prompts == ("three",)
    with pytest.raises(DsimError, match=r"c\.jsonl:1: prompt: required key is missing"):
        plan("c.jsonl")
    for line, problem in (("[1]", "expected an object"), ('{"prompt": 5}', "prompt: expected a text"), ('{"prompt": ""}', "prompt: is empty")):
        (tmp_path / "d.jsonl").write_text(line)
        with pytest.raises(DsimError, match=rf"d\.jsonl:1: .*{problem}"):
            plan("d.jsonl")


# ---- a real server that is not ours ----

SERVING = [name for name in ("torch", "transformers", "fastapi", "uvicorn", "openai") if find_spec(name) is None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """`transformers serve` with the golden target of the real runner's tests and a tokenizer made here; address and model."""
    if SERVING:
        pytest.skip(f"transformers serve needs {SERVING[0]}: pip install 'dsim[serving]'")
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(Path(__file__).parents[1] / "golden" / "target", folder)
    make_tokenizer(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = ["serve", str(folder), "--continuous-batching", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log = (folder / "server.log").open("wb")
    command = [sys.executable, "-m", "transformers.cli.transformers", *serve, "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def make_tokenizer(folder: Path) -> None:
    """A word for every id, and a chat template that passes the text through."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    words = {"<unk>": 0} | {f"w{i}": i for i in range(1, size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(folder)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


@pytest.mark.torch
def test_a_real_server_is_measured_and_its_profile_simulates(served: tuple[str, str], dsim: Dsim, tmp_path: Path) -> None:
    base_url, model = served
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w5 w6 w7 w8 w9\nw10 w11 w12\n")
    arguments = ("--base-url", base_url, "--model", model, "--out", tmp_path / "p", "--prompts", prompts, "--concurrency", "1,2,4", "--check", "3")
    said = dsim("probe", *arguments, "--requests", 2, "--output-tokens", 16, "--format", "json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [point["users"] for point in found["measured"]] == [1, 2, 3, 4]
    for point in found["measured"]:
        assert 2 <= point["output_tokens_mean"] <= 16
        assert point["ttft_p50_s"] > 0
        assert 0 < point["decoding_mean"] <= point["users"]
        assert point["throughput_tok_s"] <= 1.2 * point["users"] * point["tps_per_user_p90"]
    profile = load_profile(tmp_path / "p")
    speeds = {row["users"]: row["simulated"] for row in found["comparison"]}
    for users, speed in speeds.items():  # a closed loop sees one over the step time, or less where others' prompts are in between
        assert 0.4 < speed * float(profile.costs.verify.seconds([users], users)[0]) < 1.3
