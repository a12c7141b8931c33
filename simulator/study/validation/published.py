"""`dsim validate --published`: every scenario that names checks, and a recorded run where one is at hand, held against what others measured.
One result file each, small enough to commit; docs/validation.md is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from simulator.errors import DsimError
from simulator.measurements.recorded_run import RecordedRun, read_recorded_run
from simulator.reading.yaml_files import read_yaml
from simulator.study.profiles.fit_run import RunFit, compare_run, fit_run
from simulator.study.run.conditions import conditions
from simulator.study.run.facts import sources
from simulator.study.run.output import write_json
from simulator.study.run.prediction import Prediction
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import swept
from simulator.study.run.validated import ValidationRow, all_within
from simulator.study.validation.compare import check_checks, validate_result
from simulator.study.validation.result import Comparison, Fit, today

Say = Callable[[str], None]
RECORDED = "vllm_qwen3_32b_rtxpro6000"
LIMITS = {"TPOT p50": 0.03, "E2E p50": 0.03, "TTFT p50": 0.12, "TTFT p90": 0.12}
HELD_BACK_S = 80  # half of the recorded run


def published_scenarios(root: Path) -> list[Path]:
    """Scenarios below `root` that name something to validate against, in order of their names. Raises DsimError where there are none."""
    named = [path for path in (sorted(root.rglob("*.yaml")) if root.is_dir() else []) if read_yaml(path).get("validation")]
    if not named:
        raise DsimError("no scenario with published tables", where=root, remedy="run this in a checkout of dsim, or name a scenario")
    return named


def validate_published(
    scenarios: Path, measured: Path, out: Path, only: Sequence[str] = (), workers: int | None = None, say: Say = lambda _: None
) -> list[Comparison]:
    """Run the comparisons (those called in `only`, or all), write one result file each into `out`, return them.

    The recorded run is left out where `measured` does not hold it, and said so.
    """
    paths = {path.stem: path for path in published_scenarios(scenarios)}
    run = measured / RECORDED
    unknown = [name for name in only if name not in paths and name != RECORDED]
    if unknown:
        raise DsimError(f"no published comparison '{unknown[0]}'", key="--only", remedy=f"there are {', '.join([*paths, RECORDED])}")
    wanted = {name: load_scenario(path) for name, path in paths.items() if not only or name in only}
    for scenario in wanted.values():
        check_checks(scenario)
    recorded = read_recorded_run(run) if (RECORDED in only or not only) and (run.is_dir() or RECORDED in only) else None
    results = []
    for name, scenario in wanted.items():
        say(f"{name}: simulating")
        results.append(scenario_result(name, scenario, workers))
        write_json(results[-1].to_json(), out / f"{name}.json")
    if recorded is not None:
        results.append(recorded_result(recorded, say))
        write_json(results[-1].to_json(), out / f"{RECORDED}.json")
    elif not only:
        say(f"{RECORDED}: not here, left out")
    return results


def scenario_result(name: str, scenario: Scenario, workers: int | None = None) -> Comparison:
    """A scenario simulated and held against the tables that its checks name."""
    rows, moved = swept(scenario, workers=workers)
    validation = validate_result(scenario, rows, Prediction(scenario, rows, moved))
    profile = scenario.known
    return Comparison(
        name=name,
        title=scenario.question,
        system=f"{profile.target}, {profile.hardware}, {profile.engine}",
        sources=tuple(sorted({profile.published[check.table].source for check in scenario.validation})),
        command=f"dsim validate --published --only {name}",
        dsim_version=version("dsim"),
        date=today(),
        conditions=tuple(conditions(scenario)),
        provenance=sources(profile),
        assumed=tuple(profile.assumed),
        not_identifiable=tuple(profile.not_identifiable),
        rows=validation.rows,
        points=validation.points,
        ok=validation.ok,
    )


def recorded_result(run: RecordedRun, say: Say = lambda _: None) -> Comparison:
    """A recorded run: costs fitted on its series, its own requests simulated; once on the whole series, once on its first part alone."""
    rows: list[ValidationRow] = []
    fits = {}
    of_each = f" of each of {run.replicas} replicas" if run.replicas > 1 else ""
    half_s = HELD_BACK_S if run.folder.name == RECORDED else run.half_s
    for part, seconds in (("", None), (f", cost fitted on the first {half_s:g} s alone", half_s)):
        say(f"{run.folder.name}: fitting{part or ' on the whole series'}")
        fit = fit_run(run, seconds, say)
        for row in compare_run(run, fit):
            what, limit = row.pop("what"), None if part else LIMITS.get(row["what"])
            rows.append(ValidationRow.judged(what + part, row.pop("difference"), limit, **row, policy="none", unit="value"))
        fits[part.removeprefix(", ") or "cost fitted on the whole series"] = _fitted(fit)
    return Comparison(
        name=run.folder.name,
        title="A real run without speculation, request by request: TTFT, TPOT, E2E, requests running and waiting",
        system=f"{run.model}, {run.engine}, {run.gpus * run.replicas:g} RTX PRO 6000",
        sources=("casys-kaist/LLMServingSim @ 5daddb2 (MIT), bench/examples",),
        command=f"dsim validate --published --only {run.folder.name}",
        dsim_version=version("dsim"),
        date=today(),
        conditions=(
            f"{len(run)} requests with the arrivals, prompt and output lengths of the run; at most {run.max_batch} requests and "
            f"{run.token_budget} tokens in a step{of_each}, as the engine was set; memory for KV not recorded, so not a limit.",
            "Five costs and the clock of the series are fitted so that the running totals of prompt and output tokens follow the per-second series. "
            "No stamp of a request but its arrival enters the fit; the series and the stamps are of the same run, so the first part of the table "
            "says that the engine is simulated right, not that another load is foreseen. The second part fits on half of the series alone.",
            "TTFT counts from the arrival, put on the engine's clock by the soonest queued request; «from queued» as LLMServingSim counts it.",
        ),
        provenance=(),
        assumed=("a step costs base + tokens + context read, a prompt chunk its tokens and what they attend to; no padding to captured graphs",),
        not_identifiable=("host time apart from the step", "memory for KV"),
        fits=fits,
        rows=tuple(rows),
        points=(),
        ok=all_within(rows),
    )


def _fitted(fit: RunFit) -> Fit:
    """The costs found, seconds, and what they leave over."""
    verify = fit.costs.verify.model_dump(mode="json", include={"base_s", "per_token_s", "per_context_token_s"})
    prefill = fit.costs.prefill.model_dump(mode="json", include={"per_token_s", "per_token_context_s"}) if fit.costs.prefill else {}
    return Fit(verify=verify, prefill=prefill, clock_s=fit.clock_s, left_over=fit.residual, evaluations=fit.evaluations)
