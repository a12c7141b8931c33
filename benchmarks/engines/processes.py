"""Servers and the client as process groups: started on given cores, paused while others are measured, and gone when this program is."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from statistics import fmean
from typing import IO

STOP_S = 20  # that a process has to end by itself
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LOCKS: list[IO[str]] = []  # held as long as this program runs


class Failed(Exception):
    """A server or a client did not do what was asked, in one line."""


def cores() -> tuple[str, str]:
    """The client's and the server's: the first and the last that this program may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return str(allowed[0]), str(allowed[-1])


def on_core(core: str, words: Sequence[str]) -> list[str]:
    """The command on that core alone, where the machine has `taskset`."""
    return ["taskset", "-c", core, *words] if shutil.which("taskset") else list(words)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Group:
    """A command in a process group of its own; `stop` ends all of it."""

    running: set[Group] = set()

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None = None, pipes: bool = False) -> None:
        """What it prints goes to `log`, or where this program prints."""
        self.paused = False
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True} if pipes else {"stdin": subprocess.DEVNULL}
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") if log is not None else nullcontext() as out:
            self.process = subprocess.Popen(words, env=environment, start_new_session=True, stderr=out, **({"stdout": out} | pipe))
        Group.running.add(self)

    def signal(self, number: int) -> None:
        """To every process of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def pause(self, paused: bool) -> None:
        """A paused group takes no time of a core: idle servers may."""
        if paused != self.paused:
            self.signal(signal.SIGSTOP if paused else signal.SIGCONT)
            self.paused = paused

    def stop(self) -> None:
        """Ends it: asked first, killed after a while."""
        self.pause(False)
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.signal(signal.SIGKILL)
        self.process.wait()
        Group.running.discard(self)

    def cpu_s(self) -> float:
        """CPU seconds of all its processes."""
        total, ticks = 0, os.sysconf("SC_CLK_TCK")
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12]) if int(fields[2]) == self.process.pid else 0
        return total / ticks


def finish(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """The command to its end; whatever ends this program ends all of it. Raises CalledProcessError."""
    group = Group(words, os.environ | environment)
    try:
        code = group.process.wait()
    finally:
        group.stop()
    if code:
        raise subprocess.CalledProcessError(code, words)


def of_others(environment: Mapping[str, str]) -> dict[str, str]:
    """This program's environment for programs of other environments, and more."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment


class Server(Group):
    """An engine at `url`."""

    def __init__(self, words: Sequence[str], log: Path, environment: dict[str, str], port: int, health: str, start_s: float) -> None:
        super().__init__(words, of_others(environment), log)
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        self.used = time.monotonic()
        end = time.monotonic() + start_s
        while not self._answers(health):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise Failed(f"{log}: the server {'ended' if time.monotonic() < end else f'did not answer within {start_s:g} s'}: {reason(log)}")
            time.sleep(0.5)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def metrics(self) -> str:
        """What /metrics says."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=20) as reply:
            return str(reply.read(16_000_000).decode())

    def warm(self, model: str, prompts: Sequence[str], tokens: int) -> None:
        """All prompts at once, so that nothing is done for the first time while it is measured."""

        def ask(prompt: str) -> None:
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=180) as reply:
                reply.read()

        try:
            with ThreadPoolExecutor(len(prompts)) as pool:
                list(pool.map(ask, prompts))
        except OSError as problem:
            raise Failed(f"{self.log}: a warm-up request failed ({problem}): {reason(self.log)}") from None


class Client(Group):
    """client.py, which runs one benchmark after the other."""

    def __init__(self, python: Path, core: str, log: Path, environment: dict[str, str]) -> None:
        words = on_core(core, [str(python), str(Path(__file__).with_name("client.py"))])
        super().__init__(words, of_others(environment), log, pipes=True)
        self.log = log
        self._reply(300)

    def bench(self, words: Sequence[str], limit_s: float) -> None:
        """The words after `vllm bench serve`. Raises Failed, then the client is gone."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(words)) + "\n")
        self.process.stdin.flush()
        reply = self._reply(limit_s)
        if reply != "done":
            self.stop()
            raise Failed(f"{self.log}: the client failed: {reply}")

    def _reply(self, limit_s: float) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit_s)[0]:
            self.stop()
            raise Failed(f"{self.log}: no answer of the client within {limit_s:g} s")
        line = self.process.stdout.readline().strip()
        if not line:
            self.stop()
            raise Failed(f"{self.log}: the client ended: {reason(self.log)}")
        return str(line)


class Watch(Group):
    """pace.py on a core, from now on. Raises Failed where it does not begin."""

    def __init__(self, core: str, log: Path) -> None:
        words = on_core(core, [sys.executable, str(Path(__file__).with_name("pace.py"))])
        super().__init__(words, os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, log)
        self.log = log
        end = time.monotonic() + STOP_S
        while not self.count():
            if time.monotonic() > end:
                self.stop()
                raise Failed(f"{log}: the core's pace is not known: {reason(log)}")
            time.sleep(0.1)

    def count(self) -> int:
        """How often it has done its work."""
        return len(self._lines())

    def pace_s(self, since: int) -> float:
        """Mean CPU seconds of its work since it had been done so often. Raises Failed."""
        if not (lines := self._lines()[since:]):
            raise Failed(f"{self.log}: the core's pace is not known: {reason(self.log)}")
        return fmean(map(float, lines))

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines()


def reason(log: Path) -> str:
    """Why a program ended, in its words: its first exception, else the first line of an error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip() and "WARNING" not in line]
    for pattern in (r"\w(Error|Exception): ", r"(?i)\berror\b|failed to"):
        if first := next((line for line in lines if re.search(pattern, line)), None):
            return first[-300:]
    return lines[-1][-300:] if lines else "(nothing was written)"


def stop_all() -> None:
    """Ends all that was started."""
    for group in list(Group.running):
        group.pause(False)
        group.signal(signal.SIGTERM)
    for group in list(Group.running):
        group.stop()


def end_with_this_program() -> None:
    """A signal of ENDS, Ctrl-C and an error end what this program started, too. A signal that is ignored (nohup) stays so."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    def uninterrupted() -> None:
        for number in (signal.SIGINT, *ENDS):
            signal.signal(number, signal.SIG_IGN)
        stop_all()

    atexit.register(uninterrupted)
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def alone_in(home: Path) -> None:
    """Keeps another run of this program out of the folder. Raises Failed where there is one."""
    home.mkdir(parents=True, exist_ok=True)
    lock = (home / ".lock").open("w")
    _LOCKS.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failed(f"{home} is used by another run of this program: wait for it, or name another --home and --out") from None


def local_directly() -> None:
    """No proxy between this machine and itself, for this program and what it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
