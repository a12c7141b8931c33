"""Every reader of files that a command calls, with valid files to start from: name, family, files, and what the command does with them until it would
begin to simulate or to measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np

from simulator.cli import acceptance, exchange, imports, profiles, simulate, traces
from simulator.cli.figure import figure
from tests.fuzz import checkpoints, samples
from tests.fuzz.checkpoints import golden_target
from tests.fuzz.samples import Files

Family = Literal["yaml", "json", "csv", "parquet", "checkpoints"]
OUT = Path("out")


@dataclass(frozen=True)
class Reader:
    """`read` is called with the folder that the files are in, which is the working folder too. `weight` is its share of its family's inputs."""

    name: str
    family: Family
    files: Callable[[], Files]
    read: Callable[[Path], object]
    weight: int = 6
    mutable: tuple[str, ...] = ()  # endings of the files that are mutated; none: all


def _scenario(folder: Path, overrides: tuple[str, ...] = ()) -> None:
    from simulator.study.run.fleet import fleet_of
    from simulator.study.run.limits import check_limits
    from simulator.study.run.place import Place
    from simulator.study.run.point import check_traffic
    from simulator.study.run.scenario import load_scenario
    from simulator.study.run.sweep import bundle
    from simulator.study.validation.compare import check_checks

    scenario = load_scenario(folder / "small.yaml", list(overrides))
    check_checks(scenario)
    Place(Path("reports") / scenario.name, "scenario", scenario.name, scenario.file)
    check_limits(scenario)
    check_traffic(scenario)
    bundle(scenario)
    fleet_of(scenario, scenario.policies[-1], 0).prices.round_s(2, 0.0)


def _yaml(folder: Path) -> None:
    from simulator.reading.yaml_files import read_yaml

    json.dumps(read_yaml(folder / "a.yaml"), default=str)


def _set_alone(folder: Path) -> None:
    from simulator.study.run.document import apply_override

    content = {"name": "small", "load": [1, 2], "policies": [{"name": "plain"}, {"name": "MTP-1", "verification": {}}], "run": {"replications": 1}}
    for line in (folder / "set.txt").read_text(errors="replace").split("\n")[:-1]:
        apply_override(content, line)


def _costs(folder: Path) -> None:
    from simulator.measurements.profile import load_profile

    costs = load_profile(folder / "tiny").costs
    for tokens in (1.0, 20.0, 1000.0):
        assert np.isfinite(costs.verify.seconds(np.array([tokens]), 4, 100.0)).all()


def _blocks_alone(folder: Path) -> None:
    from simulator.measurements.draft_blocks import RecordedBlocks

    RecordedBlocks.load(folder / "b.parquet")


def _with_set(folder: Path) -> None:
    _scenario(folder, tuple((folder / "set.txt").read_text(errors="replace").split("\n")[:-1]))


def _plan(folder: Path) -> None:
    from simulator.study.planning.question import load_plan
    from simulator.study.run.limits import check_limits
    from simulator.study.run.place import Place
    from simulator.study.run.sweep import bundle

    plan = load_plan(folder / "plan.yaml")
    Place(Path("reports") / plan.question.name, "plan", plan.question.name, plan.file)
    for choice in plan.choices[:1]:
        check_limits(choice.scenario)
        bundle(choice.scenario)


def _profile(folder: Path) -> None:
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.numbers import drafter_numbers

    profiles.check(folder / "tiny")
    drafter_numbers(load_profile(folder / "tiny"))


def _exported_sps(folder: Path) -> None:
    exchange.export_sglang_sps(folder / "tiny", OUT / "sps.json", "head", max_batch=4)


def _exported_lengths(folder: Path) -> None:
    exchange.export_vllm_lengths(folder / "tiny", OUT / "lengths.json", "head", max_batch=4)


def _named(folder: Path) -> None:
    name = (folder / "name.txt").read_text(errors="replace")
    imports.import_vllm(
        OUT, curves=folder / "curves.json", metrics=[str(folder / "metrics.txt")], metrics_before=[str(folder / "before.txt")], drafter=name
    )


def _compared(folder: Path) -> None:
    simulate.compare(folder / "result.json", folder / "other" / "result.json")


def _launched(folder: Path) -> None:
    exchange.export_launch(folder / "result.json", out=OUT)


def _validation_page(folder: Path) -> None:
    from simulator.report.render.markdown import markdown
    from simulator.report.validation.page import headline, page, read_results

    results = read_results(folder / "results")
    markdown(page(results, "nothing"))
    headline(results)


def _engine_check(folder: Path) -> None:
    from simulator.report.validation.engine import engine_page
    from simulator.study.run.scenario import load_scenario
    from simulator.study.validation.engine_check import compare, judged
    from simulator.study.validation.engine_runs import read_facts, read_run

    scenario = load_scenario(folder / "small.yaml")
    with patch("simulator.engine.simulate.why_plain", lambda *_: "a small run"):  # compiling takes more time than a reader has, and writes a cache
        check = compare(scenario, [read_run(folder / "run", scenario.policies)], replications=1)
    comparison = judged(scenario, check, "dsim", read_facts(folder / "run"))
    simulate.show("text", {}, engine_page(comparison, "title"))


def _sessions(folder: Path) -> None:
    traces.show_(str(folder / "t.jsonl"), override=["answers_tps=20", "accept=[orphans, overlaps, shorter]"], sessions=True)


def _trace(name: str) -> Callable[[Path], object]:
    return lambda folder: traces.show_(str(folder / name), override=["prefix_cache=infinite"] if name == "t.jsonl" else None)


def _service(folder: Path) -> None:
    from simulator.traffic.servegen import ServeGenSource

    arrival, prompt, output, _ = ServeGenSource(path=folder / "service").requests(2.0, 60.0, 0, 0)
    assert np.isfinite(arrival).all()
    assert (np.diff(arrival) >= 0).all()
    assert ((prompt >= 0) & (prompt <= 10**9) & (output >= 0) & (output <= 10**9)).all()


def _recorded_run(folder: Path) -> None:
    from simulator.measurements.recorded_run import read_recorded_run

    run = read_recorded_run(folder / "run")
    assert 0 < run.gpus < 1e6
    assert run.max_batch >= 1
    assert (run.output_tokens >= 1).all()
    assert (np.diff(run.series["t"]) > 0).all()


def _prompts(folder: Path) -> None:
    from simulator.measurements.endpoint import Server
    from simulator.study.profiles.probe_plan import ProbePlan

    for name in ("prompts.txt", "prompts.jsonl"):
        ProbePlan.of(Server("http://127.0.0.1:1/v1", "m", True, 8, {}, 1.0, {}), folder / name, "1,2", "", 2)


def _turns_and_texts(folder: Path) -> None:
    from real_runner.prompts import read_prompt_set
    from real_runner.texts import read_texts

    read_prompt_set(folder / "turns.jsonl")
    read_texts(folder / "texts.jsonl")


def _blocks(folder: Path) -> None:
    from simulator.measurements.profile import load_profile
    from simulator.measurements.replay import lay_out
    from simulator.measurements.statistics import acceptance_statistics, visited_rows

    blocks = load_profile(folder / "tiny").blocks("head")
    acceptance_statistics(blocks, blocks.domains[0], visited_rows(blocks))
    lay_out(blocks, None, False, 0, 0)


@cache
def _drafter() -> Any:
    from real_runner.drafters.loading import load_drafter

    return load_drafter(str(checkpoints.GOLDEN / "dspark_vanilla"), golden_target())


def _checkpoint(folder: Path) -> None:
    from real_runner.check import describe
    from real_runner.drafters.loading import load_drafter

    drafter = load_drafter(str(folder / "draft"), golden_target())
    drafter.allocate(1, 8)
    golden_target().allocate(1, 8)
    describe(drafter, golden_target())


def _packagings(folder: Path) -> None:
    """Each config by itself; the last one is understood and refused."""
    from simulator.errors import DsimError
    from simulator.measurements.drafters.packaging import read_spec

    refused = []
    for name in ("specforge", "dspark", "speculators", "eagle3", "mtp", "fused"):
        try:
            read_spec(folder / name, 6)
        except DsimError as error:
            refused.append(error)
    if len(refused) > 1:
        raise refused[0]


def _target(folder: Path) -> None:
    from real_runner.prompts import encode, tokenizer_of
    from real_runner.target import load_target

    target = load_target(str(folder / "target"))
    if (tokenizer := tokenizer_of(target)) is not None:
        encode("Why is the sky blue?", tokenizer)


def _fused(folder: Path) -> None:
    from real_runner.check_fused import check_fused

    report = check_fused(folder / "target")
    json.loads(report.as_json())
    report.as_text()


def _kept(folder: Path) -> None:
    from simulator.study.run.result import PointRow
    from simulator.study.work.kept import Kept, Task

    Kept(folder / "points", PointRow).read(Task(None, "a", "mark", print))


def _expected(folder: Path) -> None:
    from real_runner.expect import compare

    compare(folder / "expect", golden_target(), _drafter())


def _loads(tool: Literal["AIPerf", "GuideLLM"], *names: str) -> Callable[[Path], object]:
    read = imports._import_loads(tool)
    return lambda folder: read([str(folder / name) for name in names], OUT, accepted_length=1.0, budget=1.0)


def _seal(folder: Path) -> None:
    """As if whoever changed it had made its digest anew: else nothing but the digest would be looked at."""
    from simulator.study.sealed.seal import digest_of, read_seal

    file = folder / "seal.json"
    if file.is_file():
        with suppress(ValueError, AttributeError, RecursionError):
            content = json.loads(file.read_bytes())
            file.write_bytes(json.dumps(content | {"digest": digest_of(content)}).encode())
    read_seal(file)


def _others(folder: Path) -> None:
    from simulator.study.sealed.others import read_others
    from simulator.study.sealed.seal import read_seal

    read_others(folder / "others.csv", read_seal(folder / "seal.json"))


def _score(folder: Path) -> None:
    from simulator.study.sealed.read_score import read_scores

    read_scores(folder)


READERS: tuple[Reader, ...] = (
    Reader("yaml", "yaml", samples.yaml_text, _yaml, 30),
    Reader("set-alone", "yaml", samples.set_options, _set_alone, 16, ("set.txt",)),
    Reader("scenario", "yaml", samples.scenario, _scenario, 4, (".yaml",)),
    Reader("set", "yaml", samples.set_options, _with_set, 4, ("set.txt",)),
    Reader("plan", "yaml", samples.plan_file, _plan, 2, ("plan.yaml",)),
    Reader("profile", "yaml", samples.profile, _profile, 3, ("profile.yaml",)),
    Reader("profile-tables", "yaml", samples.tables, _profile, 1, ("profile.yaml",)),
    Reader("profile-diff", "yaml", samples.profile, lambda folder: profiles.diff(folder / "tiny", folder / "tiny"), 1, ("profile.yaml",)),
    Reader("acceptance", "yaml", samples.acceptance, lambda folder: acceptance.show_("mine", "Qwen3-8B"), 1, ("acceptance.yaml",)),
    Reader("export-sps", "yaml", samples.profile, _exported_sps, 1, ("profile.yaml",)),
    Reader("export-lengths", "yaml", samples.profile, _exported_lengths, 1, ("profile.yaml",)),
    Reader("compare", "json", samples.run_result, _compared, 2),
    Reader("figures", "json", samples.run_result, lambda folder: figure(folder / "result.json"), 2),
    Reader("figure-drawn", "json", samples.run_result, lambda folder: figure(folder / "result.json", "pareto", out=OUT / "f.svg"), 1),
    Reader("kept", "json", samples.kept_point, _kept, 2),
    Reader("plan-figures", "json", samples.plan_result, lambda folder: figure(folder / "result.json"), 2),
    Reader("launch", "json", samples.launched_run, _launched, 1, ("result.json",)),
    Reader("plan-launch", "json", samples.launched_plan, _launched, 1, ("result.json",)),
    Reader("validation-page", "json", samples.validation_files, _validation_page),
    Reader("sglang-sampled", "json", samples.sps("sampled"), lambda folder: imports.import_sglang(OUT, sps=folder / "sps.json"), 2),
    Reader("sglang-additive", "json", samples.sps("additive"), lambda folder: imports.import_sglang(OUT, sps=folder / "sps.json"), 2),
    Reader("sglang-records", "json", samples.sglang_records, lambda folder: imports.import_sglang(
        OUT, sps=folder / "sps.json", sts=folder / "sts.json", records=folder / "records.json"), 3),
    Reader("vllm-curves", "json", samples.vllm_curves, lambda folder: imports.import_vllm(
        OUT, curves=folder / "curves.json", metrics=[str(folder / "metrics.txt")], metrics_before=[str(folder / "before.txt")]), 3),
    Reader("drafter-option", "json", samples.named_drafter, _named, 1, ("name.txt",)),
    Reader("bench", "json", samples.bench, lambda folder: imports.import_vllm(OUT, bench=[str(folder / "a.json"), str(folder / "b.jsonl")]), 2),
    Reader("llamacpp", "json", samples.bench, lambda folder: imports.import_llamacpp([str(folder / "a.json"), str(folder / "b.jsonl")], OUT), 2),
    Reader("aiperf", "json", samples.aiperf, _loads("AIPerf", "a.json", "b.json"), 2),
    Reader("guidellm", "json", samples.guidellm, _loads("GuideLLM", "a.json"), 1),
    Reader("servegen", "json", samples.service, _service),
    Reader("mooncake", "json", samples.mooncake_trace, _trace("t.jsonl")),
    Reader("bailian", "json", samples.bailian_trace, _trace("t.jsonl")),
    Reader("sessions", "json", samples.bailian_trace, _sessions),
    Reader("spans", "json", samples.spans, _sessions, 2),
    Reader("weka", "json", samples.weka, _sessions, 2),
    Reader("array", "json", samples.array_trace, _trace("t.json"), 2),
    Reader("seal", "json", samples.seal, _seal, 4, ("seal.json",)),
    Reader("score", "json", samples.score, _score, 2, ("a.score.json",)),
    Reader("recorded-run", "json", samples.recorded_run, _recorded_run, 4, (".json", ".jsonl")),
    Reader("prompts", "json", samples.prompts, _prompts, 4, ("prompts.txt", "prompts.jsonl")),
    Reader("turns-texts", "json", samples.prompts, _turns_and_texts, 4, ("turns.jsonl", "texts.jsonl")),
    Reader("costs", "csv", samples.tables, _costs, 2, (".csv",)),
    Reader("cost-tables", "csv", samples.tables, _profile, 1, (".csv",)),
    Reader("cost-diff", "csv", samples.tables, lambda folder: profiles.diff(folder / "tiny", folder / "tiny"), 1, (".csv",)),
    Reader("telemetry", "csv", samples.telemetry, lambda folder: profiles.fit(folder / "telemetry.csv", OUT, 1.8, 2.0), 2),
    Reader("plain", "csv", samples.trace("plain"), _trace("t.csv"), 16),
    Reader("azure", "csv", samples.trace("azure"), _trace("t.csv"), 12),
    Reader("semicolons", "csv", samples.trace("semicolons"), _trace("t.csv"), 12),
    Reader("scenario-trace", "csv", samples.with_trace, _scenario, 1, ("trace.csv",)),
    Reader("lengths-pauses", "csv", samples.with_files, _scenario, 1, ("pauses.csv", "lengths.csv")),
    Reader("predictions-of-others", "csv", samples.seal, _others, 2, ("others.csv",)),
    Reader("published", "csv", samples.scenario, _scenario, 1, ("speed.csv",)),
    Reader("servegen-windows", "csv", samples.service, _service, 8, (".csv",)),
    Reader("recorded-series", "csv", samples.recorded_run, _recorded_run, 8, (".csv",)),
    Reader("engine-run", "csv", samples.engine_runs, _engine_check, 1, ("requests.csv", "steps.csv", "run.json")),
    Reader("blocks-alone", "parquet", samples.blocks_alone, _blocks_alone, 16),
    Reader("blocks", "parquet", samples.profile, _blocks, 3, ("head.parquet",)),
    Reader("profile-blocks", "parquet", samples.profile, _profile, 1, (".parquet",)),
    Reader("dspark", "checkpoints", checkpoints.drafter("dspark_vanilla"), _checkpoint, 3),
    Reader("dspark-rnn", "checkpoints", checkpoints.drafter("dspark_rnn"), _checkpoint, 2),
    Reader("dflash", "checkpoints", checkpoints.drafter("dflash"), _checkpoint, 2),
    Reader("eagle3", "checkpoints", checkpoints.drafter("eagle3"), _checkpoint, 3),
    Reader("sharded", "checkpoints", checkpoints.sharded, _checkpoint, 2),
    Reader("mtp", "checkpoints", lambda: checkpoints.trained("mtp"), _checkpoint, 2),
    Reader("eagle3-reduced", "checkpoints", lambda: checkpoints.trained("eagle3", True), _checkpoint, 2),
    Reader("packagings", "checkpoints", checkpoints.packagings, _packagings, 16),
    Reader("target", "checkpoints", checkpoints.target, _target, 1),
    Reader("fused", "checkpoints", checkpoints.fused, _fused, 4),
    Reader("expected", "checkpoints", checkpoints.expected, _expected, 1),
)  # fmt: skip


def of_family(family: Family) -> list[Reader]:
    """The readers of a family."""
    return [reader for reader in READERS if reader.family == family]


def by_name(name: str) -> Reader:
    """The reader of this name."""
    return next(reader for reader in READERS if reader.name == name)
