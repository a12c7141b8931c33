"""What `dsim validate --silicon` finds: errors of the judged half by group, concurrency and lengths, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from simulator.study.estimate.hosts import Hosts
from simulator.study.estimate.package import PACKAGE, package_version
from simulator.study.run.record import Record
from simulator.study.run.validated import ValidationRow, all_within
from simulator.study.validation.result import Comparison, today
from simulator.study.validation.silicon.predicted import Predicted
from simulator.study.validation.silicon.sample import Run, contradicted

LIMITS = {"tpot": (0.08, 0.20), "ttft": (0.20, 0.50)}  # median and 90 % of sizes of errors
_WORSE_GROUPS = 0.25  # of the groups may have a larger error than the package's own estimate
_NINE_TENTHS = 1.645  # standard deviations on either side hold so many
Pair = tuple[Run, Predicted]


class Errors(Record):
    """Relative errors of some runs: sizes in the median and at nine of ten, and the median with its sign. `static_…`: the package's own estimate."""

    name: str
    runs: NonNegativeInt
    tpot_median: NonNegativeFloat
    tpot_p90: NonNegativeFloat
    tpot_middle: float
    ttft_median: NonNegativeFloat
    ttft_p90: NonNegativeFloat
    ttft_middle: float
    static_tpot_median: NonNegativeFloat
    static_ttft_median: NonNegativeFloat


class LeftOut(Record):
    """Runs that were not predicted, and why."""

    group: str
    why: str
    runs: NonNegativeInt


class Added(Record):
    """What was fitted on the other half for an engine's series."""

    engine: str
    major: str
    host_s: NonNegativeFloat
    collective: NonNegativeFloat
    frontend_s: NonNegativeFloat


class SiliconComparison(Comparison):
    """The judged half of the sample, beside what was measured."""

    all_judged: tuple[Errors, ...]
    groups: tuple[Errors, ...]
    engines: tuple[Errors, ...]
    concurrencies: tuple[Errors, ...]
    lengths: tuple[Errors, ...]
    left_out: tuple[LeftOut, ...]
    added: tuple[Added, ...]


def errors_of(name: str, pairs: Sequence[Pair]) -> Errors:
    """Of runs that were predicted."""
    tpot, ttft, static_tpot, static_ttft = (
        np.array(values)
        for values in zip(
            *(
                (row.tpot_s / run.tpot_s - 1, row.ttft_s / run.ttft_s - 1, row.static_tpot_s / run.tpot_s - 1, row.static_ttft_s / run.ttft_s - 1)
                for run, row in pairs
            ),
            strict=True,
        )
    )
    tenth = [float(np.quantile(np.abs(values), 0.9)) for values in (tpot, ttft)]
    medians = [float(np.median(np.abs(values))) for values in (tpot, ttft, static_tpot, static_ttft)]
    return Errors(
        name=name, runs=len(pairs), tpot_median=medians[0], tpot_p90=tenth[0], tpot_middle=float(np.median(tpot)), ttft_median=medians[1],
        ttft_p90=tenth[1], ttft_middle=float(np.median(ttft)), static_tpot_median=medians[2], static_ttft_median=medians[3],
    )  # fmt: skip


def spread(pairs: Sequence[Pair], of: Callable[[Run, Predicted], float]) -> float:
    """Standard deviation of a logarithm of measured ÷ predicted: that of normal errors of which nine tenths are as small as these, since a few runs
    are off by factors."""
    return float(np.quantile(np.abs([of(run, row) for run, row in pairs]), 0.9)) / _NINE_TENTHS


def compared(runs: Sequence[Run], predicted: Sequence[Predicted], hosts: Hosts, sample: Sequence[Run], command: str) -> SiliconComparison:
    """The judged ones of `runs`, in all and in parts; `sample` is all of it."""
    pairs = [(run, row) for run, row in zip(runs, predicted, strict=True) if not row.why and run.judged]
    groups = _parts(pairs, lambda run: run.group)
    odd, fitted_on = contradicted(sample), {run.measurement for run in sample if not run.judged}
    whole = errors_of("all that were predicted", pairs)
    plain = [pair for pair in pairs if pair[0].id not in odd]
    fresh = [pair for pair in pairs if pair[0].measurement not in fitted_on]
    named = (
        (f"without {len(pairs) - len(plain)} that the sample contradicts", plain),
        (f"without {len(pairs) - len(fresh)} whose measurement the other half has too", fresh),
    )
    rows = _judged(whole, groups)
    skipped = Counter((run.group, row.why) for run, row in zip(runs, predicted, strict=True) if row.why and run.judged)
    return SiliconComparison(
        name="silicon",
        title="Real serving runs of others, predicted from kernel times: step costs composed of operators, everything else simulated",
        system="vLLM, SGLang and TensorRT-LLM on H100, H200, B200, B300 and GB200, aggregated serving without speculation",
        sources=(f"systems/silicon_sample.csv of {PACKAGE} {package_version()}",),
        command=command,
        dsim_version=version("dsim"),
        date=today(),
        rows=rows,
        points=(),
        ok=all_within(rows),
        compared_with="measured",
        cells=tuple(round(row.tpot_s / run.tpot_s - 1, 4) for run, row in pairs),
        all_judged=(whole, *(errors_of(name, part) for name, part in named if part)),
        groups=groups,
        engines=_parts(pairs, lambda run: f"{run.engine} {run.series}"),
        concurrencies=_parts(pairs, lambda run: _power(run.concurrency)),
        lengths=_parts(pairs, lambda run: f"{run.prompt_tokens:,} in, {run.output_tokens:,} out", least=10),
        left_out=tuple(LeftOut(group=group, why=why, runs=count) for (group, why), count in sorted(skipped.items())),
        added=tuple(Added(engine=engine, major=major, **vars(host)) for (engine, major), host in hosts.fitted.items()),
    )


def _judged(whole: Errors, groups: Sequence[Errors]) -> tuple[ValidationRow, ...]:
    judged = ValidationRow.judged
    worse = sum(group.tpot_median >= group.static_tpot_median for group in groups) / max(len(groups), 1)
    return (
        judged("TPOT: median error", whole.tpot_median, LIMITS["tpot"][0], n=whole.runs),
        judged("TPOT: nine of ten errors are below", whole.tpot_p90, LIMITS["tpot"][1], n=whole.runs),
        judged("TTFT: median error", whole.ttft_median, LIMITS["ttft"][0], n=whole.runs),
        judged("TTFT: nine of ten errors are below", whole.ttft_p90, LIMITS["ttft"][1], n=whole.runs),
        judged("groups whose TPOT the package's own static estimate has closer", worse, _WORSE_GROUPS, n=len(groups)),
        judged("TPOT: median error of the package's own static estimate", whole.static_tpot_median, None, n=whole.runs),
        judged("TTFT: median error of the package's own static estimate", whole.static_ttft_median, None, n=whole.runs),
    )


def _parts(pairs: Sequence[Pair], name: Callable[[Run], str], least: int = 1) -> tuple[Errors, ...]:
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(name(pair[0]), []).append(pair)
    order = sorted(parts, key=lambda text: (len(text) if text[:1].isdigit() else 0, text))
    return tuple(errors_of(part, parts[part]) for part in order if len(parts[part]) >= least)


def _power(concurrency: int) -> str:
    low = 1 << (concurrency.bit_length() - 1)
    return f"{low} to {2 * low - 1}" if low > 1 else "1"
