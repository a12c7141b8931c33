"""Runs cells against servers: those of all policies side by side where memory allows, idle ones paused; what is there is not measured again."""

from __future__ import annotations

import datetime
import json
import math
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engines.cells import Cell, missing, write_prompts
from benchmarks.engines.models import OFFLINE, paths
from benchmarks.engines.plan import SERVED, USERS, Engine
from benchmarks.engines.processes import Client, Failed, Server, Watch, cores, free_port, on_core
from benchmarks.engines.prompts import PREFIX, prompts
from benchmarks.engines.setup import engine_folder
from simulator.errors import DsimError
from simulator.files import whole
from simulator.reading.json_files import read_json

CELL_S, CELL_LIMIT_S = 30.0, 600.0  # that a cell is expected to take while none has been run, and the most
SPARE_GB = 2.0  # memory that no server gets
WARM_TOKENS = 8
SHARED = 1.08  # pace ÷ the least, from which a core is not the engine's alone
TIMES = 4  # that a cell is measured at most, until its core was the engine's alone
LOOK_S, WAIT_S = 2.0, 60.0  # that one looks at a core before a cell, and the most that one waits for it


@dataclass
class Machine:
    """The servers that run, by policy and whether they keep beginnings of prompts, and the client."""

    engine: Engine
    home: Path
    logs: Path
    servers: dict[tuple[str, bool], Server] = field(default_factory=dict)
    client: Client | None = None
    pace: Watch | None = None
    least_s: float = math.inf  # pace that the core had while all servers were paused
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

    def watch(self) -> Watch:
        """Of the servers' core."""
        if self.pace is None or self.pace.process.poll() is not None:
            self.pace = Watch(cores()[1], self.logs / "pace.log")
        return self.pace

    def alone(self) -> None:
        """Waits, all servers paused, until nothing else shares their core, or for WAIT_S."""
        watch, end = self.watch(), time.monotonic() + WAIT_S
        self.only(None)
        while True:
            since = watch.count()
            time.sleep(LOOK_S)
            pace_s = watch.pace_s(since)
            self.least_s = min(self.least_s, pace_s)
            if pace_s < SHARED * self.least_s or time.monotonic() > end:
                return

    def ready_client(self) -> Client:
        """The one that runs, or a new one."""
        if self.client is None or self.client.process.poll() is not None:
            python = engine_folder(self.home, "vllm") / "bin" / "python"
            self.client = Client(python, cores()[0], self.logs / "client.log", OFFLINE | {"VLLM_NO_USAGE_STATS": "1"})
        return self.client

    def stop(self) -> None:
        """Ends all of it."""
        for group in (*self.servers.values(), *filter(None, (self.client, self.pace))):
            group.stop()
        self.servers, self.client, self.pace = {}, None, None


def run_cells(cells: Sequence[Cell], machine: Machine, out: Path, end: float) -> bool:
    """Measures what is due until `end` (time.monotonic); whether all are there. A cell that fails is said and left out. The machine's servers stay,
    paused."""
    failed_before, begun = machine.failed, time.monotonic()
    for number, cell in enumerate(due(cells)):
        each_s = (time.monotonic() - begun) / number if number else CELL_S
        left = sum(1 for _ in missing(cells))
        if time.monotonic() + each_s > end:
            print(f"stopped with {left} of {len(cells)} cells to do" + (": run it again" if left else ", some measured on a shared core"), flush=True)
            return not left
        try:
            said = run_cell(cell, machine, out)
        except (Failed, DsimError, OSError, subprocess.CalledProcessError) as problem:
            machine.drop(cell)
            machine.failed += 1
            said = f"FAILED: {problem}"
        left = sum(1 for _ in missing(cells))
        done = f"[{len(cells) - left}/{len(cells)}] {cell.result.relative_to(out)}"
        print(f"{done}: {said}; some {left * (time.monotonic() - begun) / (number + 1) / 60:.0f} min left", flush=True)
    machine.only(None)
    failed = machine.failed - failed_before
    print(f"{failed} of {len(cells)} cells failed; running it again measures them" if failed else f"all {len(cells)} cells are there", flush=True)
    return True


def due(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Those that are missing, then again and again those that were measured on a shared core, whatever came out."""
    yield from missing(cells)
    for _ in range(TIMES - 1):
        yield from shared(cells)


def shared(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Those whose pace is SHARED times the least."""
    paces = {cell: pace_of(cell) for cell in cells if cell.result.exists()}
    return (cell for cell in paces if paces[cell] > SHARED * min(paces.values()))


def pace_of(cell: Cell) -> float:
    """Seconds that the fixed piece of work took while the cell was measured."""
    return float(read_json(cell.result)["pace_s"])


def run_cell(cell: Cell, machine: Machine, out: Path) -> str:
    """One benchmark with the counters around it; what it said. Raises Failed."""
    data = out / "prompts" / f"{cell.seed}-{cell.requests}{'-prefix' if cell.prefix else ''}.jsonl"
    write_prompts(cell, data)
    if cell.cached and cell.result.exists():
        machine.drop(cell)  # its server may have kept these prompts whole
    client, _ = machine.ready_client(), machine.server(cell)
    machine.alone()
    server, watch = machine.server(cell), machine.watch()
    beginning = PREFIX if cell.prefix else ""
    warm = min(int(cell.load) if not cell.open_loop else 4, USERS)
    server.warm(SERVED, [beginning + text for text in prompts("train", warm, 2)], WARM_TOKENS)
    cell.folder.mkdir(parents=True, exist_ok=True)
    draft = out / "unfinished" / cell.result.name
    words = cell.command(Path(paths(machine.home)["target"]), server.url, data, draft, machine.engine.body, machine.engine.client)
    before, busy, since = server.metrics(), (busy_s(), *(group.cpu_s() for group in (server, client, watch))), watch.count()
    client.bench(words, CELL_LIMIT_S)
    pace_s, after = watch.pace_s(since), server.metrics()
    others = busy_s() - busy[0] - sum(group.cpu_s() - used for group, used in zip((server, client, watch), busy[1:], strict=True))
    result: dict[str, Any] = read_json(draft) | {"pace_s": pace_s}
    if result["completed"] != cell.requests or result.get("failed"):
        raise Failed(f"{server.log}: {result['completed']} of {cell.requests} requests were answered")
    note(out, cell, result["duration"], others, pace_s)
    told = (
        f"{result['output_throughput']:.1f} tok/s in {result['duration']:.0f} s, pace {1000 * pace_s:.2f} ms, others used {others:.1f} s of the cores"
    )
    if cell.result.exists() and pace_of(cell) <= pace_s:
        return f"{told}; the earlier one had its core more for itself, and is kept"
    for when, text in (("before", before), ("after", after)):
        with whole(cell.folder / f"{cell.name}-{when}.txt") as scrape:
            scrape.write_text(text)
    write_launch(cell, machine, words, server)
    draft.write_text(json.dumps(result))
    os.replace(draft, cell.result)
    return told


def write_launch(cell: Cell, machine: Machine, words: Sequence[str], server: Server) -> None:
    """How server and client were started, for whoever repeats it."""
    with whole(cell.folder / "launch.txt") as draft:
        lines = [f"{name}={value}" for name, value in machine.engine.environment.items()]
        lines.append(shlex.join(machine.command(cell.policy, cell.cached, int(server.url.rpartition(":")[2]))))
        draft.write_text("\n".join([*lines, shlex.join(on_core(cores()[0], ["vllm", "bench", "serve", *words]))]) + "\n")


def note(out: Path, cell: Cell, seconds: float, others_s: float, pace_s: float) -> None:
    """A row on the cell in cells.csv: when, how long, what other programs used of the cores meanwhile, their pace; also of one that is not kept."""
    file = out / "cells.csv"
    new = not file.exists()
    with file.open("a") as rows:
        rows.write("at,cell,policy,load,requests,seconds,others_cpu_s,load_average,pace_s\n" if new else "")
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        measured = (seconds, others_s, os.getloadavg()[0], pace_s)
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
