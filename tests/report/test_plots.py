"""Pictures: every shape of result draws, and what must be seen is drawn."""

from __future__ import annotations

import pytest

from simulator.report import style
from simulator.report.run.plots import frontier, load, tokens
from simulator.study.run.result import RunResult
from tests.report import synthetic_result as synthetic

DRAW = (frontier.pareto, load.against_load, load.accepted_length, tokens.time_per_token, load.latency)


def texts(figure: object) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("policies", [1, 2, 9])
@pytest.mark.parametrize("loads", [(80,), tuple(range(10, 210, 10))])
@pytest.mark.parametrize("look", [style.WIDE, style.PHONE], ids=["wide", "phone"])
def test_any_size(policies: int, loads: tuple[int, ...], look: style.Look) -> None:
    result = synthetic.result([f"policy-{i}" for i in range(policies)], loads)
    for draw in DRAW:
        figure = draw(result, look)
        shown = texts(figure)
        assert all(f"policy-{i}" in shown for i in range(policies))
        assert all(axes.get_position().height * figure.get_size_inches()[1] > 0.2 for axes in figure.axes)


def test_units_on_every_axis() -> None:
    result = synthetic.result(loads=(5, 50))
    shown = [texts(draw(result)) for draw in DRAW]
    assert "tok/s/user" in shown[0]
    assert "tok/s/GPU" in shown[0]
    assert "concurrent requests per replica" in shown[1]
    assert "anchor included" in shown[1]
    assert "bonus included" in shown[2]
    assert "ms" in shown[3]
    assert "TTFT" in shown[4]


def test_bounds_are_dashed_and_unsettled_points_hollow() -> None:
    figure = frontier.pareto(synthetic.result(open_loop=True))
    lines = figure.axes[0].lines
    assert sum(line.get_linestyle() == "--" and line.get_linewidth() == 1.8 for line in lines) == 1
    assert any(line.get_markerfacecolor() == style.PAPER for line in lines)
    assert "hollow: backlogged or overloaded" in texts(figure)
    assert "SLA 80" in texts(figure)
    assert "+51 %" in texts(figure)
    assert "published" in texts(figure)


def test_no_published_legend_without_published_curves() -> None:
    result = synthetic.result(loads=(5, 50)).model_copy(update={"published": ()})
    assert "published" not in texts(frontier.pareto(result))


def test_a_policy_keeps_its_colour() -> None:
    result = synthetic.result()
    tints = [style.colour(policy, result) for policy in result.policies]
    assert len(set(tints)) == len(tints)
    for draw in (frontier.pareto, load.against_load, load.accepted_length):
        drawn = {line.get_color() for axes in draw(synthetic.result()).axes for line in axes.lines}
        assert set(tints) <= drawn


def test_latency_is_drawn_where_it_tells() -> None:
    closed = synthetic.example(loads=(5,))
    assert not load.latency_tells(RunResult.from_json(closed))
    assert load.latency_tells(synthetic.result(loads=(5,), open_loop=True))
    closed["frontier"][0]["metrics"]["ttft_p99_s"] = synthetic.around(1.0)
    assert load.latency_tells(RunResult.from_json(closed))
    assert not load.latency_tells(RunResult.from_json(closed | {"frontier": []}))


def test_files_carry_no_date_and_no_software() -> None:
    figure = load.accepted_length(synthetic.result(loads=(5, 50)))
    assert b"Software" not in style.png(figure)
    assert "<metadata>" not in style.svg(figure, "x")
    assert "<dc:date>" not in style.svg(figure, "x")
