"""docs/board.md, its page as HTML and the README's lines, from score files and the results of published comparisons:
`python -m simulator.report.board.page`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from simulator.files import write_whole
from simulator.reading.opening import read_bytes, read_text
from simulator.report.blocks import HTML, PAGES, Block, Cell, Code, Column, Lines, Picture, Prose, Row, Table, Text, table
from simulator.report.board.score import bound, decided, limits_table, others_table, pace_lines, policies_table, size, summary_table
from simulator.report.board.seal import load_unit
from simulator.report.page import Page, Section, section
from simulator.report.render.html import html
from simulator.report.render.markdown import markdown
from simulator.report.validation.page import anchor, cell_errors, held, read_results, with_headline
from simulator.report.wording import DASH, short, validation_cells
from simulator.study.sealed.numbers import SPEED, THROUGHPUT
from simulator.study.sealed.read_score import read_scores
from simulator.study.sealed.result import Score, Summary
from simulator.study.sealed.seal import SHOWN, sha256
from simulator.study.validation.result import Comparison

ABOUT = (
    "How far off dsim is, on engines that others wrote and on sweeps that others published. A line of an engine begins with a seal: `dsim predict` "
    "writes down what a benchmark will measure, with a digest, before it is run; `dsim score` compares. Errors are predicted ÷ measured − 1. Limits "
    "are the same for all lines, and a line that exceeds one stays, with its size. What every number means: "
    "[exchange.md](exchange.md#seal-and-score). Made by `make validation` from [board/](board) and [validation/](validation); do not edit."
)


_PLAIN = re.compile(r"`|\[([^\]]*)\]\([^)]*\)")  # what only Markdown needs


@dataclass(frozen=True)
class Published:
    """A comparison with published measurements, and the digest of its file."""

    comparison: Comparison
    digest: str


def read_published(folder: Path) -> list[Published]:
    """Comparisons with what others published or measured. Raises DsimError."""
    return [
        Published(entry.comparison, sha256(read_bytes(folder / f"{entry.comparison.name}.json"))[:SHOWN])
        for entry in read_results(folder)
        if (folder / f"{entry.comparison.name}.json").is_file()
    ]


def board_page(scores: Sequence[Score], published: Sequence[Published], add: str) -> Page:
    """All of the board; `add` is what a user does to add a line."""
    parts = (
        section(
            "engines",
            "Engines",
            Prose(ABOUT),
            Text(_PLAIN.sub(r"\1", ABOUT), on=HTML),
            engines_table(scores) if scores else Text("No engine has been scored yet."),
        ),
        section("failures", "Limits that are exceeded, and what is missing", Lines((*failures(scores), *exceeded(published)))),
        section("published", "Published sweeps", Text(_PUBLISHED), published_table(published)),
        *(_score_section(score) for score in scores),
        section("add-your-line", "Add your line", Prose(add.strip()), Code(add, "How", on=HTML)),
    )
    return Page("The board: sealed predictions and their errors", "docs", "board", "", tuple(part for part in parts if part))


_PUBLISHED = (
    "What others published or recorded, and servers that we measured, compared with a simulation that was given only what each comparison says. "
    "Nothing was sealed here: the measurements were there before. The digest is of the result file (SHA-256)."
)


def engines_table(scores: Sequence[Score]) -> Table:
    """A line for each score."""
    rows: list[Row] = []
    for score in scores:
        speed, throughput = (score.errors_of(name) for name in (SPEED, THROUGHPUT))
        judged = [one for one in (speed, throughput) if one]
        inside = f"{sum(one.held for one in judged)} of {sum(one.intervals for one in judged)}"
        worst_loss = max((one.loss for one in score.regret), default=None)
        kept = sum(limit.ok for limit in score.limits)
        rows.append([
            Cell(score.name, link=f"#{anchor(score.name)}"), _sealed(score), _cells(score), _errors(speed), _errors(throughput), inside,
            f"{score.ranking.right} of {score.ranking.pairs}", f"{size(score.mean_regret)}, {size(worst_loss)}" if score.regret else DASH,
            f"{kept} of {len(score.limits)}", _system(score), ", ".join(condition.name for condition in score.conditions), score.seal.digest[:SHOWN],
        ])  # fmt: skip
    heads = (
        "line", Column("sealed", words=True), "cells", "per-user speed: median, worst", "throughput: median, worst", "in the 90 % interval",
        "pairs ranked rightly", "regret: mean, worst", "limits kept", Column("engine, model, hardware", words=True),
        Column("conditions", words=True), Column("digest", words=True),
    )  # fmt: skip
    return table("engines", "", heads, rows)


def _system(score: Score) -> str:
    return "; ".join(text for text in (score.engine, score.model, score.hardware) if text)


def _of(score: Score) -> str:
    return short(f"{score.name}: {_system(score)}", 110)


def _cells(score: Score) -> str:
    """How many were measured, and of how many that were sealed."""
    done, left = len(score.cells), len(score.not_measured)
    return f"{done} of {done + left}" if left else str(done)


def _sealed(score: Score) -> str:
    """When, and how many measurements are not known to have been made afterwards."""
    counts = ((score.older, "measured before"), (score.undated, "undated"))
    return ", ".join((score.seal.sealed_at[:10], *(f"{count} {what}" for count, what in counts if count)))


def _errors(summary: Summary | None) -> str:
    return f"{size(summary.median)}, {size(summary.worst)}" if summary else DASH


def failures(scores: Sequence[Score]) -> Iterator[str]:
    """Every exceeded limit, with its size; failed requests, cells that were not measured, and measurements that may be older than their seal."""
    for score in scores:
        for limit in score.limits:
            if not limit.ok:
                yield f"{score.name}: {limit.what} {size(limit.value)}, limit {bound(limit)}"
        if score.failed:
            yield f"{score.name}: {score.failed} requests failed"
        if score.not_measured:
            yield f"{score.name}: {len(score.not_measured)} sealed cells were not measured"
        if score.older:
            yield f"{score.name}: {score.older} measurements are older than the seal"
        if score.undated:
            yield f"{score.name}: {score.undated} measurements do not say when they were made"


def exceeded(published: Sequence[Published]) -> Iterator[str]:
    """Limits of published comparisons that are exceeded, with their sizes."""
    for one in published:
        for row in one.comparison.rows:
            if row.ok is False:
                *_, difference, limit, _ = validation_cells(row)
                yield f"{one.comparison.name}: {row.what}: {difference}, limit {limit}"


def published_table(published: Sequence[Published]) -> Table:
    """A line for each comparison."""
    rows: list[Row] = []
    for one in published:
        result, errors = one.comparison, cell_errors(one.comparison)
        judged = [row.ok for row in result.rows if row.ok is not None]
        sizes = (size(float(share(errors))) if errors else DASH for share in (np.median, np.max))
        rows.append([
            Cell(result.name, link=f"validation.md#{anchor(result.name)}"), result.date or DASH, str(len(errors)), *sizes, held(result)[0],
            f"{sum(judged)} of {len(judged)}" if judged else "none set", short(result.system, 70), short("; ".join(result.sources), 60), one.digest,
        ])  # fmt: skip
    heads = (
        "comparison", Column("date", words=True), "cells not fitted", "median error", "worst", "in the 90 % interval", "limits kept",
        Column("model, hardware", words=True), Column("source", words=True), Column("digest", words=True),
    )  # fmt: skip
    return table("published", "", heads, rows)


def _score_section(score: Score) -> Section | None:
    return section(anchor(score.name), score.name, *_score_blocks(score))


def _score_blocks(score: Score) -> Iterator[Block | None]:
    seal, when = score.seal, f"{score.first_measured} to {score.last_measured}" if score.first_measured else "not in the files"
    yield Text(f"{_of(score)}. Measured {when} (time of the client); scored {score.scored_at} by dsim {score.dsim_version}.")
    yield Code(f"digest {seal.digest}\nsealed {seal.sealed_at} by dsim {seal.dsim_version} {seal.commit}".rstrip(), "Seal")
    yield limits_table(score.limits)
    yield summary_table(score)
    yield policies_table(score)
    from simulator.report.board.plots import against_measured

    yield Picture(f"board/{score.name}", f"{score.name}: predicted against measured speed and throughput", partial(against_measured, score), on=PAGES)
    yield Lines(tuple(pace_lines(score)), "Pace of the machine")
    yield Lines(tuple(decided(score)), "Decisions")
    yield others_table(score)
    for condition in score.conditions:
        loads = ", ".join(f"{load:g}" for load in condition.loads)
        unit = "requests per second" if condition.kind == "rate_rps" else load_unit(condition.kind, condition.replicas)
        told = (f"{', '.join(condition.policies)} at {loads} {unit}", *condition.description)
        yield Lines(told, f"Condition {condition.name}")
    yield Lines(score.remarks, "Before you rely on it")


def readme_lines(scores: Sequence[Score], published: Sequence[Published]) -> str:
    """The board in a few lines: median and worst of each engine by its newest line, the worst of those before, then published sweeps."""
    lines, by_engine = list[str](), dict[str, list[tuple[Score, Summary, Summary]]]()
    for score in scores:
        if (speed := score.errors_of(SPEED)) and (throughput := score.errors_of(THROUGHPUT)):
            by_engine.setdefault(score.engine.partition(" ")[0], []).append((score, speed, throughput))
    for (score, speed, throughput), *before in by_engine.values():
        undated = f"{score.undated} measurements do not say whether after the seal" if score.undated else "sealed before they were measured"
        when = "kept out, measured before the seal" if score.older else undated
        kept = f"{sum(limit.ok for limit in score.limits)} of {len(score.limits)} limits kept"
        worst_before = max((max(one.worst, other.worst) for _, one, other in before), default=0.0)
        older = f"; older lines: {len(before)}, worst {size(worst_before)}" if before else ""
        lines.append(
            f"- {_of(score)}: {_cells(score)} cells, {when}: per-user speed off by {size(speed.median)} in the "
            f"median and {size(speed.worst)} at worst, throughput by {size(throughput.median)} and {size(throughput.worst)}; {kept}{older}"
        )
    every = [(one.comparison.name, errors) for one in published if (errors := cell_errors(one.comparison)) and one.comparison.name != "silicon"]
    if every:
        medians = sorted(float(np.median(errors)) for _, errors in every)
        name, worst = max(((name, max(errors)) for name, errors in every), key=lambda pair: pair[1])
        lines.append(
            f"- {len(every)} sweeps that were published or recorded: medians {size(medians[0])} to {size(medians[-1])}, worst {size(worst)} ({name})"
        )
    return "\n".join(["How far off, on [the board](docs/board.md), which anyone can add a line to:", "", *lines])


def main(docs: Path = Path("docs"), readme: Path = Path("README.md"), page: Path = Path("reports/board.html")) -> None:
    """Write docs/board.md with its pictures, the HTML page and the README's lines."""
    scores, published = read_scores(docs / "board"), read_published(docs / "validation")
    board = board_page(scores, published, read_text(docs / "board" / "add_your_line.md"))
    made = with_headline(read_text(readme), readme_lines(scores, published), "board")
    for picture in board.pictures():
        from simulator.report import style

        write_whole(docs / f"{picture.stem}.png", style.png(picture.wide))
    write_whole(docs / "board.md", markdown(board))
    write_whole(page, html(board))
    write_whole(readme, made)


if __name__ == "__main__":
    main()
