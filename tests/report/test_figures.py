"""Every picture by name, at every size: nothing overlaps, nothing leaves the picture, and what is asked for is what is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulator.errors import DsimError
from simulator.measurements.profile import load_profile
from simulator.report import style
from simulator.report.figure import FORMATS, save
from simulator.report.notebook import Evaluation, Planned, Profiled
from simulator.study.run.result import RunResult
from tests.report import synthetic_plan, synthetic_result
from tests.report.drawn import faults

LOOKS: dict[str, Callable[[Any, str], Figure]] = {
    "wide": lambda result, name: result.figure(name, title=True),
    "phone": lambda result, name: next(p for p in result.pictures if p.stem == name).draw(style.PHONE),
    "paper": lambda result, name: result.figure(name, size=(3.3, 2.4)),
    "slide": lambda result, name: result.figure(name, style="slide", title=True),
}
LONG = [f"a-very-long-policy-name-with-many-words-{i}" for i in range(9)]
OTHER_SCRIPT = ["投機的デコード・確信度で検証", "_leading_underscore"]


def evaluation(policies: list[str], loads: tuple[int, ...], open_loop: bool = False) -> Evaluation:
    return Evaluation(synthetic_result.result(policies, loads, open_loop), [])


@pytest.mark.parametrize("policies", [LONG[:1], OTHER_SCRIPT, LONG], ids=["1", "2", "9"])
@pytest.mark.parametrize("loads", [(80,), (10, 50, 100, 200, 320)], ids=["1 load", "5 loads"])
@pytest.mark.parametrize("look", LOOKS)
def test_every_picture_of_a_run_and_a_plan(look: str, loads: tuple[int, ...], policies: list[str]) -> None:
    results = (
        evaluation(policies, loads, open_loop=len(policies) < 9),
        Planned(synthetic_plan.plan(policies, [20.0 * (i + 2) for i in range(len(loads))])),
    )
    for result in results:
        for picture in result.pictures:
            figure = LOOKS[look](result, picture.stem)
            assert faults(figure) == [], picture.stem
            assert all(axes.get_position().height * figure.get_size_inches()[1] > 0.15 for axes in figure.axes), picture.stem


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["cpu-smollm2-135m", "deepseek-v4-flash"])
def test_every_picture_of_a_profile(name: str, look: str, repository: Path) -> None:
    result = Profiled(load_profile(repository / "profiles" / name))
    assert name in repr(result).lower()
    for picture in result.pictures:
        assert faults(LOOKS[look](result, picture.stem)) == [], picture.stem


def test_a_fault_is_seen() -> None:
    """The test's own eye: a name over another one, and one beyond the edge."""
    figure = LOOKS["paper"](evaluation(["MTP-1"], (80,)), "pareto")
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.51, "other")
    figure.text(0.95, 0.1, "far too long for what is left here")
    assert [fault.split(":")[0] for fault in faults(figure)] == ["outside", "overlap"]


def words(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_a_paper_has_names_and_no_title() -> None:
    figure = evaluation(["MTP-1", "DSpark-5"], (10, 50, 100)).figure(size=(3.3, 2.4), labels={"DSpark-5": "ours"}, colours={"DSpark-5": "#123456"})
    assert tuple(figure.get_size_inches()) == (3.3, 2.4)
    assert "ours" in words(figure)
    assert "DSpark-5" not in words(figure)
    assert "Throughput against" not in words(figure)
    assert any(line.get_color() == "#123456" for line in figure.axes[0].lines)
    least = min(float(text.get_fontsize()) for text in figure.legends[0].get_texts())
    assert least >= 6


def test_colours_in_order() -> None:
    figure = evaluation(["MTP-1", "DSpark-5"], (10, 50)).figure("accepted_length", colours=["#111111", "#222222"])
    assert {"#111111", "#222222"} <= {line.get_color() for line in figure.axes[0].lines}


def test_own_axes_are_drawn_into() -> None:
    mine = Figure(figsize=(7, 3))
    FigureCanvasAgg(mine)
    left, right = mine.subplots(1, 2)
    result = evaluation(["MTP-1", "DSpark-5"], (10, 50))
    assert result.figure("pareto", ax=left) is mine
    assert left.lines
    assert left.get_legend() is not None
    assert not right.lines
    result.figure("against_load", ax=[left, right])
    assert right.lines


def test_what_others_set_stays_outside() -> None:
    """Their settings change no picture, and ours do not stay."""
    result, before = evaluation(["MTP-1"], (80,)), dict(mpl.rcParams)
    usual = style.png(result.figure())
    with mpl.rc_context({"font.size": 30, "axes.titlesize": 40, "text.usetex": False, "xtick.labelsize": 40}):
        assert style.png(result.figure()) == usual
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"name": "frontir"}, "pareto"),
        ({"size": (0.5, 0.5)}, "size"),
        ({"size": "large"}, "(3.3, 2.4)"),
        ({"size": (3.3, 0.9)}, "height"),
        ({"style": "poster"}, "slide"),
        ({"labels": {"DSpark": "ours"}}, "the names are MTP-1"),
        ({"colours": ["no colour"]}, "not a colour"),
        ({"name": "against_load", "ax": Figure().subplots()}, "2 panels"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], part: str) -> None:
    with pytest.raises(DsimError) as refused:
        evaluation(["MTP-1"], (80,)).figure(**options)
    assert part in refused.value.line()


@pytest.mark.parametrize("kind", FORMATS)
def test_files_hold_their_fonts_and_no_date(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(evaluation(["MTP-1"], (10, 80)).figure(size=(3.3, 2.4)), tmp_path / f"{name}.{kind}")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"<text" not in one
    if kind == "pdf":
        assert b"/CIDFontType2" in one  # TrueType: fonttype 42
        assert b"/Type3" not in one


def test_a_figure_saved_by_hand_has_the_same_fonts(tmp_path: Path) -> None:
    evaluation(["MTP-1"], (10, 80)).figure().savefig(tmp_path / "by-hand.pdf")
    assert b"/Type3" not in (tmp_path / "by-hand.pdf").read_bytes()


def test_a_notebook_shows_a_figure_and_a_result() -> None:
    result = evaluation(["MTP-1", "DSpark-5"], (10, 80))
    content, size = result.figure(size=(3.3, 2.4))._repr_png_()  # type: ignore[attr-defined]
    assert content.startswith(b"\x89PNG")
    assert size == {"width": 317, "height": 230}
    assert result.run.answer[0] in result._repr_html_()
    assert "<svg" in result._repr_html_()


def test_reprs_are_short() -> None:
    run, made = evaluation(LONG, (10, 80)), Planned(synthetic_plan.plan(LONG, [40.0]))
    for result, name in ((run, "synthetic-flash"), (made, "synthetic")):
        assert name in repr(result)
        assert 1 <= len(repr(result).splitlines()) <= 4
        assert len(repr(result)) < 600


def test_the_command(world: Path, dsim: Callable[..., Any]) -> None:
    (world / "run").mkdir()
    (world / "run" / "result.json").write_text(json.dumps(synthetic_result.example()))
    listed = json.loads(dsim("figure", "run", "--format", "json").out)
    assert "pareto" in [row["name"] for row in listed["figures"]]
    assert "pareto" in dsim("figure", "run").out
    assert dsim("figure", "run", "pareto", "--size", "3.3x2.4", "--out", "f.pdf", "--label", "DSpark-5=ours").code == 0
    assert (world / "f.pdf").read_bytes().startswith(b"%PDF")
    assert dsim("figure", "run", "pareto").code == 0
    assert (world / "pareto.pdf").is_file()
    assert dsim("figure", "tiny", "overview", "--out", "p.png").code == 0
    (world / "plan").mkdir()
    (world / "plan" / "result.json").write_text(json.dumps(synthetic_plan.plan(LONG[:2], [40.0, 60.0]).to_json()))
    assert dsim("figure", "plan", "gpus_by_promise", "--out", "g.svg").code == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nothing"], "nothing"),
        (["run", "frontir"], "pareto"),
        (["run", "--out", "frontier.pdf"], "NAME: --out needs the name of a figure; add one of pareto, "),
        (["run", "--title"], "NAME: --title needs the name"),
        (["run", "pareto", "--out", "f.docx"], ".pdf"),
        (["run", "pareto", "--size", "3.3"], "3.3x2.4"),
        (["run", "pareto", "--size", "axb"], "3.3x2.4"),
        (["run", "pareto", "--label", "ours"], "NAME=LABEL"),
        (["run", "pareto", "--label", "who=ours"], "the names are"),
        (["small.yaml", "pareto"], "small.yaml"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(arguments: list[str], part: str, world: Path, dsim: Callable[..., Any]) -> None:
    (world / "run").mkdir()
    (world / "run" / "result.json").write_text(json.dumps(synthetic_result.example()))
    before = sorted(world.rglob("*"))
    refused = dsim("figure", *arguments)
    assert refused.code == 2
    assert part in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert sorted(world.rglob("*")) == before


def test_the_arrow_marks_whom_the_answer_names() -> None:
    """A policy that is not lossless gains more, and the baseline delivers most: neither is what the answer names as the gain."""
    raw = synthetic_result.example(loads=(10, 50, 100, 200, 300))
    peeking = [policy | {"peeks": policy["name"] == "DSpark-5"} for policy in raw["policies"]]
    figure = Evaluation(RunResult.from_json(raw | {"policies": peeking}), []).figure()
    assert "+51 %" not in words(figure)
    assert "+51 %" in words(Evaluation(RunResult.from_json(raw), []).figure())
