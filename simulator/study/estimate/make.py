"""`dsim estimate`: a profile whose costs are composed of operators that others have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from simulator.errors import DsimError
from simulator.measurements.composed import OperatorPrefill, OperatorVerify
from simulator.measurements.cost import Costs, Overhead
from simulator.measurements.profile import KvMemory, Profile
from simulator.study.estimate.checks import V4, check_kernels, check_sources, check_v4
from simulator.study.estimate.engines import EngineDefaults, defaults
from simulator.study.estimate.hosts import Host, read_hosts
from simulator.study.estimate.memory import kv_memory
from simulator.study.estimate.models import Model
from simulator.study.estimate.operators import Operators
from simulator.study.estimate.package import PACKAGE, Deployment, Facts, facts_of, package_version
from simulator.study.estimate.tables import Table, cost_tables, text_of
from simulator.study.profiles.about import About

if TYPE_CHECKING:
    from simulator.study.estimate.with_drafters import PricedFor

_QUERY = "attention's arithmetic, from prompts with and without 8,192 cached tokens"


@dataclass(frozen=True)
class Asked:
    """One replica to estimate: the model and how it is split, limits where they are not the engine's own, drafters with their acceptance."""

    model: Model
    of: Deployment
    max_batch: int | None = None
    step_tokens: int | None = None
    memory_fraction: float | None = None
    drafters: tuple[str, ...] = ()
    acceptances: tuple[str, ...] = ()


@dataclass
class Estimate:
    """All that an estimated profile holds, priced and checked, before anything is written."""

    asked: Asked
    operators: Operators
    facts: Facts
    settings: EngineDefaults
    host: Host
    fitted: str  # the series of the engine that the host is of; empty where none was fitted
    kv: KvMemory
    drafters: list[PricedFor]
    tables: dict[str, Table]
    assumed: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Where step costs come from."""
        return f"{PACKAGE} {package_version()}, tables of {self.settings.title} {self.operators.version} for {self.asked.of.system}"

    def costs(self) -> Costs:
        """Step costs of the profile; what they read is in `tables`."""
        known: dict[str, Any] = {"provenance": "estimated", "source": self.source}
        graphs = [size * self.asked.of.dp for size in self.settings.graph_sizes]
        verify = OperatorVerify(
            file="operators.csv", attention="attention.csv", query_s=self.operators.query_s(), padded_to=graphs, note=f"query_s is {_QUERY}", **known
        )
        prefill = OperatorPrefill(file="prompt_operators.csv", attention="prompt_attention.csv", **known)
        fitted = f"fitted to silicon runs of {self.settings.title} {self.fitted}" if self.fitted else "not known: none is counted"
        return Costs(verify=verify, prefill=prefill, overhead=Overhead(seconds=self.host.host_s, note=f"host time per step, {fitted}", **known))

    def about(self) -> dict[str, Any]:
        """What the profile is of."""
        of = self.asked.of
        split = [
            f"{word} {count}" for word, count in (("TP", of.tp), ("PP", of.pp), ("DP", of.dp), ("EP", of.moe_ep or 1)) if count > 1 or word == "TP"
        ]
        formats = sorted(set(self.operators.quantisation.values()))
        engine = f"{self.settings.title} {self.operators.version}, {', '.join(split)}, {' and '.join(formats)}"
        return {"hardware": of.system, "engine": engine, "target": self.asked.model.name, "gpus_per_replica": float(of.gpus)}

    def environment(self) -> dict[str, Any]:
        """What was asked, in plain values."""
        of, settings = self.asked.of, self.settings
        split = {"tp": of.tp, "pp": of.pp, "dp": of.dp, "moe_tp": of.moe_tp, "moe_ep": of.moe_ep}
        return {
            "package": f"{PACKAGE} {package_version()}",
            "tables": f"{of.engine} {self.operators.version} for {of.system}",
            "parallel": {key: value for key, value in split.items() if value is not None},
            "quantisation": dict(self.operators.quantisation),
            "scenario_engine": settings.scenario,
            "operators": dict(sorted(self.operators.sources.items())),
        } | ({"frontend_s": self.host.frontend_s} if self.host.frontend_s else {})

    def notes(self) -> list[str]:
        """Where the numbers come from, and the gaps."""
        of, sources = self.asked.of, self.operators.sources
        formulas = sorted(op.name for op in (*self.operators.generation, *self.operators.context) if sources.get(op.name, "silicon") != "silicon")
        lines = [
            f"priced by {self.source}",
            f"formulas, not kernels, are {', '.join(dict.fromkeys(formulas))}" if formulas else "",
            self.asked.model.note,
        ]
        by: dict[str, list[str]] = {}
        for name, engine in sorted(self.operators.borrowed.items()):
            by.setdefault(engine, []).append(name)
        for engine, names in sorted(by.items()):
            lines.append(f"priced from tables of {engine}, because those of {of.engine} hold more than the kernel: {', '.join(names)}")
        if self.host.collective != 1 and of.gpus > 1:
            lines.append(f"collectives take {self.host.collective:.3g} times what the tables say, fitted to silicon runs")
        lines += [line for drafter in self.drafters for line in drafter.priced.notes]
        return list(dict.fromkeys(line for line in lines if line))


def estimated(asked: Asked) -> Estimate:
    """Everything priced and checked. Raises DsimError, one line, for what the package cannot do."""
    of = asked.of
    facts = facts_of(of)
    if not facts.experts and (of.moe_tp or of.moe_ep or of.moe):
        raise DsimError("has no experts", where=asked.model.name, key="--moe-tp, --moe-ep, --moe", remedy="leave them out")
    v4 = check_v4(of) if facts.architecture == V4 else ""
    operators = Operators(of)
    check_kernels(operators)
    settings = defaults(of.engine, facts.gpu_bytes, of.tp, asked.max_batch, asked.step_tokens)
    hosts = read_hosts()
    host, fitted = hosts.of(of.engine, operators.version), hosts.series(of.engine, operators.version)
    priced = _priced(asked, operators, settings)
    kv, _ = kv_memory(of, settings.step_tokens, settings.max_batch, asked.memory_fraction, sum(one.priced.weight_bytes for one in priced))
    tables = cost_tables(operators, settings, host.collective, facts.context)
    check_sources(operators)
    made = Estimate(asked, operators, facts, settings, host, fitted, kv, priced, tables)
    made.assumed = [*_assumed(made), *([v4] if v4 else [])]
    return made


def _priced(asked: Asked, operators: Operators, settings: EngineDefaults) -> list[PricedFor]:
    if not (asked.drafters or asked.acceptances):
        return []
    from simulator.study.estimate.with_drafters import drafters_of

    return drafters_of(asked.drafters, asked.acceptances, asked.model.name, operators, settings.max_batch)


def _assumed(of: Estimate) -> list[str]:
    settings, lines = of.settings, []
    sizes = ", ".join(map(str, settings.graph_sizes[:4]))
    lines.append(f"steps are padded to {settings.title}'s captured sizes: {sizes}, … {settings.graph_sizes[-1]} tokens a data-parallel rank")
    lines.append("attention of a verification step reads a request's cache once, whatever is verified")
    host = f"{1000 * of.host.host_s:.3g} ms of its own in every step, as under {settings.title} {of.fitted}" if of.fitted else "no time of its own"
    lines.append(f"the host takes {host}")
    lines += [line for drafter in of.drafters for line in drafter.assumed]
    return list(dict.fromkeys(lines))


def write_estimate(made: Estimate, about: About, made_by: str = "Made by dsim estimate") -> dict[str, Any]:
    """The profile's folder; what was made, for people and programs. Raises DsimError where it cannot be written."""
    files = {name: text_of(rows) for name, rows in made.tables.items()}
    files |= {name: text_of(rows) for drafter in made.drafters for name, rows in drafter.priced.files.items()}
    more = {"kv": made.kv, "notes": made.notes(), "environment": made.environment(), "max_context_tokens": made.facts.context}
    unknown = [] if made.fitted else ["the host's time per step"]
    drafters = {drafter.name: (drafter.drafter, drafter.blocks) for drafter in made.drafters}
    profile = replace(about, **made.about()).write(made.costs(), drafters, made.assumed, unknown, made_by, files, more=more)
    if made.drafters:
        from simulator.study.estimate.with_drafters import with_acceptance

        with_acceptance(profile, made.drafters, made_by)
    return {"profile": str(about.out), **_data(made, profile), "text": _text(made, profile)}


def _data(made: Estimate, profile: Profile) -> dict[str, Any]:
    lists = {"assumed": profile.assumed, "not_identifiable": profile.not_identifiable, "notes": profile.notes}
    engine = {"scenario_engine": made.settings.scenario, "kv_tokens": profile.kv_tokens(None)}
    return {"target": profile.target, "hardware": profile.hardware, "engine": profile.engine, "drafters": list(profile.drafters), **engine, **lists}


def _text(made: Estimate, profile: Profile) -> str:
    verify = profile.costs.verify
    most = min(made.settings.max_batch * made.asked.of.dp, made.settings.step_tokens * made.asked.of.dp, verify.most("requests") or 1)
    requests = [r for r in (1, 16, 64) if r <= most]
    steps = ", ".join(f"{r} × 1k: {1000 * (float(verify.seconds(r, r, 1024)) + made.host.host_s):.2f} ms" for r in requests)
    engine = ", ".join(f"{key}: {_flow(value)}" for key, value in made.settings.scenario.items())
    lines = [f"{profile.target} on {profile.hardware}, {profile.engine}", f"decode steps of requests × context: {steps}"]
    lines.append(f"KV: {profile.kv_tokens(None):,} tokens, {made.kv.bytes_per_token:,.0f} bytes each ({made.kv.note.partition(';')[0]})")
    lines += [f"drafter {drafter.name}: {drafter.said(profile)}" for drafter in made.drafters]
    lines += [f"assumed: {line}" for line in profile.assumed] + [f"note: {line}" for line in profile.notes]
    return "\n".join([*lines, f"for a scenario: engine: {{{engine}}}"])


def _flow(value: Any) -> str:
    return "{" + ", ".join(f"{key}: {inner}" for key, inner in value.items()) + "}" if isinstance(value, Mapping) else str(value)


def check_asked(asked: Sequence[Asked], systems: Mapping[str, Mapping[str, str]]) -> None:
    """Raises DsimError for a system or engine that there are no kernel times of, and for numbers that cannot be."""
    from simulator.misspelt import nearest

    names = [one.of.system for one in asked]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DsimError(f"two systems are {twice}", where="--system", remedy="give every system once")
    for one in asked:
        of, share = one.of, one.memory_fraction
        if share is not None and not 0 < share <= 1:
            raise DsimError(f"expected a share above 0 and up to 1, got {share:g}", where="--memory-fraction", remedy="for example 0.9")
        if of.system not in systems:
            raise DsimError(f"no kernel times of '{of.system}'", where="--system", remedy=nearest(of.system, list(systems), "systems"))
        if of.engine not in systems[of.system]:
            there = ", ".join(systems[of.system])
            raise DsimError(f"no kernel times of '{of.engine}' on {of.system}", where="--engine", remedy=f"engines there: {there}")
