"""The section of a page that says what to deploy: a command for each engine, and what it does otherwise than was simulated."""

from __future__ import annotations

from pathlib import Path

from simulator.report.blocks import PAGES, TERMINAL, Block, Code, Form, Lines, Text
from simulator.report.page import Page, Section, section
from simulator.study.deploy.scripts import shell
from simulator.study.planning.result import PlanResult
from simulator.study.run.launch import Launch
from simulator.study.run.place import LAUNCH
from simulator.study.run.result import RunResult
from simulator.study.run.wording import count


def what_to_deploy(result: RunResult | PlanResult) -> Section | None:
    """On pages, among the answers."""
    return _deploy(result, PAGES)


def last_lines(result: RunResult | PlanResult) -> Section | None:
    """On a terminal, at its end, where it is read."""
    return _deploy(result, TERMINAL)


def _deploy(result: RunResult | PlanResult, on: frozenset[Form]) -> Section | None:
    """The commands, behind a sentence where what they start keeps no promise."""
    if (launch := result.launch) is None:
        return None
    missed = isinstance(result, RunResult) and bool(result.gains.at_sla) and not result.best_at_sla()
    why = Text(f"No policy meets the SLA at the simulated loads; {launch.policy} is the fastest at the middle one.") if missed else None
    return section("deploy", "What to deploy", why, *launch_blocks(launch), short="Deploy", on=on)


def launch_page(launch: Launch, folder: Path, version: str) -> Page:
    """What `dsim export launch` prints."""
    made = section("deploy", "What to deploy", *launch_blocks(launch, str(folder)))
    return Page(
        title=f"{launch.policy} on {' and '.join(engine.engine for engine in launch.engines)}",
        kind="dsim export launch",
        name=launch.policy,
        version=version,
        sections=(made,) if made else (),
    )


def launch_blocks(launch: Launch, folder: str = LAUNCH) -> list[Block]:
    """A command for each engine; what is to be done by hand, and what the engines do otherwise than was simulated: what both do once."""
    servers = f"{count(launch.replicas, 'server')} with {launch.policy}, on the engine that you have. Scripts and tables are in {folder}/."
    several = len(launch.engines) > 1
    both = [line for line in launch.engines[0].otherwise if several and all(line in engine.otherwise for engine in launch.engines)]
    by_hand = tuple(dict.fromkeys(line for engine in launch.engines for line in engine.fill_in))
    own = [
        Lines(tuple(line for line in engine.otherwise if line not in both), f"Simulated, and {engine.engine} does otherwise")
        for engine in launch.engines
    ]
    codes = [Code(shell(engine), engine.engine) for engine in launch.engines]
    return [Text(servers), *codes, Lines(by_hand, "To do by hand"), *own, Lines(tuple(both), "Simulated, and both do otherwise")]
