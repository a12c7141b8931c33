"""Runs cells against servers: those of all policies side by side where memory allows, idle ones paused; what is there is not measured again."""

from __future__ import annotations

import datetime
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.engines.cells import Cell, missing, write_prompts
from benchmarks.engines.models import OFFLINE, paths
from benchmarks.engines.plan import SERVED, USERS, Engine
from benchmarks.engines.processes import Client, Failed, Server, cores, free_port, on_core
from benchmarks.engines.prompts import PREFIX, prompts
from benchmarks.engines.setup import engine_folder
from simulator.errors import DsimError
from simulator.files import whole
from simulator.reading.json_files import read_json

CELL_S, CELL_LIMIT_S = 30.0, 600.0  # that a cell is expected to take while none has been run, and the most
SPARE_GB = 2.0  # memory that no server gets
WARM_TOKENS = 8
PACE_KEEPS_S = 5.0
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class Machine:
    """The servers that run, by policy and whether they keep beginnings of prompts, and the client."""

    engine: Engine
    home: Path
    logs: Path
    servers: dict[tuple[str, bool], Server] = field(default_factory=dict)
    client: Client | None = None
    paced: tuple[float, float] = (0.0, -math.inf)  # the last pace, and when (time.monotonic)
    failed: int = 0  # cells

    def command(self, policy: str, prefix: bool, port: int) -> list[str]:
        """The server's."""
        engine = self.engine
        words = " ".join([engine.serve, engine.cached if prefix else engine.uncached, engine.policy(policy).flags]).split()
        names = paths(self.home) | {"engine": str(engine_folder(self.home, engine.name)), "port": str(port)}
        for name, value in names.items():  # not str.format: flags are JSON
            words = [word.replace(f"{{{name}}}", value) for word in words]
        return on_core(cores()[1], words)

    def server(self, cell: Cell) -> Server:
        """That of the cell, alone awake; one that ended is started again, and the one that was not used for longest makes room. Raises Failed."""
        key = self._key(cell)
        if key in self.servers and self.servers[key].process.poll() is not None:
            self.servers.pop(key).stop()
        if key not in self.servers:
            while self.servers and available_gb() < SPARE_GB + self.engine.memory_gb:
                oldest = min(self.servers, key=lambda key: self.servers[key].used)
                self.servers.pop(oldest).stop()
            self.only(None)
            self.servers[key] = self.start(*key)
        self.only(self.servers[key])
        self.servers[key].used = time.monotonic()
        return self.servers[key]

    def start(self, policy: str, prefix: bool) -> Server:
        """A new server of a policy, warm."""
        port, name = free_port(), policy + ("-prefix" if prefix else "")
        print(f"    starting {self.engine.label}, {name}", flush=True)
        words = self.command(policy, prefix, port)
        server = Server(words, self.logs / f"{name}.log", self.engine.environment, port, self.engine.health, self.engine.start_s)
        try:
            server.warm(SERVED, prompts("train", min(self.engine.batch, USERS), 1), WARM_TOKENS)
        except Failed:
            server.stop()
            raise
        return server

    def drop(self, cell: Cell) -> None:
        """Ends the cell's server: the next cell gets a new one."""
        if server := self.servers.pop(self._key(cell), None):
            server.stop()

    def _key(self, cell: Cell) -> tuple[str, bool]:
        return cell.policy, cell.cached and bool(self.engine.cached)

    def only(self, awake: Server | None) -> None:
        """That server is awake, all others are paused."""
        for server in self.servers.values():
            server.pause(server is not awake)

    def pace_s(self, keeps_s: float = 0.0) -> float:
        """That of the servers' core, all servers paused: pace.py's; the last one where it is not older than `keeps_s`."""
        if time.monotonic() - self.paced[1] > keeps_s:
            self.only(None)
            words = on_core(cores()[1], [sys.executable, str(Path(__file__).with_name("pace.py"))])
            said = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | ONE_THREAD).stdout
            self.paced = float(said), time.monotonic()
        return self.paced[0]

    def ready_client(self) -> Client:
        """The one that runs, or a new one."""
        if self.client is None or self.client.process.poll() is not None:
            python = engine_folder(self.home, "vllm") / "bin" / "python"
            self.client = Client(python, cores()[0], self.logs / "client.log", OFFLINE | {"VLLM_NO_USAGE_STATS": "1"})
        return self.client

    def stop(self) -> None:
        """Ends all of it."""
        for group in (*self.servers.values(), *([self.client] if self.client else [])):
            group.stop()
        self.servers, self.client = {}, None


def run_cells(cells: Sequence[Cell], machine: Machine, out: Path, end: float) -> bool:
    """Measures what is missing until `end` (time.monotonic); whether there was time for all. A cell that fails is said and left out. The machine's
    servers stay, paused."""
    todo, failed, begun = list(missing(cells)), 0, time.monotonic()
    for number, cell in enumerate(todo):
        each_s = (time.monotonic() - begun) / number if number else CELL_S
        if time.monotonic() + each_s > end:
            print(f"stopped with {len(todo) - number} of {len(cells)} cells to do: run it again", flush=True)
            return False
        try:
            said = run_cell(cell, machine, out)
        except (Failed, DsimError, OSError, subprocess.CalledProcessError) as problem:
            machine.drop(cell)
            failed += 1
            machine.failed += 1
            said = f"FAILED: {problem}"
        left = (len(todo) - number - 1) * (time.monotonic() - begun) / (number + 1) / 60
        done = f"[{len(cells) - len(todo) + number + 1}/{len(cells)}] {cell.result.relative_to(out)}"
        print(f"{done}: {said}; some {left:.0f} min left", flush=True)
    machine.only(None)
    print(f"{failed} of {len(cells)} cells failed; running it again measures them" if failed else f"all {len(cells)} cells are there", flush=True)
    return True


def run_cell(cell: Cell, machine: Machine, out: Path) -> str:
    """One benchmark with the counters around it; what it said. Raises Failed."""
    data = out / "prompts" / f"{cell.seed}-{cell.requests}{'-prefix' if cell.prefix else ''}.jsonl"
    write_prompts(cell, data)
    client, _ = machine.ready_client(), machine.server(cell)
    paces = [machine.pace_s(PACE_KEEPS_S)]
    server = machine.server(cell)
    beginning = PREFIX if cell.prefix else ""
    warm = min(int(cell.load) if not cell.open_loop else 4, USERS)
    server.warm(SERVED, [beginning + text for text in prompts("train", warm, 2)], WARM_TOKENS)
    cell.folder.mkdir(parents=True, exist_ok=True)
    draft = out / "unfinished" / cell.result.name
    words = cell.command(Path(paths(machine.home)["target"]), server.url, data, draft, machine.engine.body, machine.engine.client)
    before, busy = server.metrics(), (busy_s(), server.cpu_s() + client.cpu_s())
    client.bench(words, CELL_LIMIT_S)
    others = busy_s() - busy[0] - (server.cpu_s() + client.cpu_s() - busy[1])
    after = server.metrics()
    paces.append(machine.pace_s())
    result: dict[str, Any] = read_json(draft) | {"pace_s": fmean(paces)}
    if result["completed"] != cell.requests or result.get("failed"):
        raise Failed(f"{server.log}: {result['completed']} of {cell.requests} requests were answered")
    for when, text in (("before", before), ("after", after)):
        with whole(cell.folder / f"{cell.name}-{when}.txt") as scrape:
            scrape.write_text(text)
    write_launch(cell, machine, words, server)
    note(out, cell, result["duration"], others, paces)
    draft.write_text(json.dumps(result))
    os.replace(draft, cell.result)
    told = f"pace {' and '.join(f'{pace:.3f}' for pace in paces)} s, others used {others:.1f} s of the cores"
    return f"{result['output_throughput']:.1f} tok/s in {result['duration']:.0f} s, {told}"


def write_launch(cell: Cell, machine: Machine, words: Sequence[str], server: Server) -> None:
    """How server and client were started, for whoever repeats it."""
    with whole(cell.folder / "launch.txt") as draft:
        lines = [f"{name}={value}" for name, value in machine.engine.environment.items()]
        lines.append(shlex.join(machine.command(cell.policy, cell.cached, int(server.url.rpartition(":")[2]))))
        draft.write_text("\n".join([*lines, shlex.join(on_core(cores()[0], ["vllm", "bench", "serve", *words]))]) + "\n")


def note(out: Path, cell: Cell, seconds: float, others_s: float, paces: Sequence[float]) -> None:
    """A row on the cell in cells.csv: when, how long, what other programs used of the cores meanwhile, and the pace before and after."""
    file = out / "cells.csv"
    new = not file.exists()
    with file.open("a") as rows:
        rows.write("at,cell,policy,load,requests,seconds,others_cpu_s,load_average,pace_before_s,pace_after_s\n" if new else "")
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        measured = (seconds, others_s, os.getloadavg()[0], *paces)
        told = (at, cell.result.relative_to(out), cell.policy, f"{cell.load:g}", cell.requests, *(f"{value:.4g}" for value in measured))
        rows.write(",".join(map(str, told)) + "\n")


def busy_s() -> float:
    """CPU seconds that all programs of the machine have used."""
    user, nice, system, _, _, irq, softirq, *_ = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def available_gb() -> float:
    """Memory that new programs can have."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1e6
