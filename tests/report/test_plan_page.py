"""The page of a plan: all in one file, what it says is what result.json says, and it works in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.errors import DsimError
from simulator.report.plan.page import plan_page, write_plan_report
from simulator.report.render.terminal import terminal
from simulator.study.planning.make import answer
from simulator.study.planning.question import make_plan
from simulator.study.planning.result import PlanResult
from tests.planning.conftest import PLAN
from tests.report.conftest import sized


@pytest.fixture(scope="module")
def result(made_profile: Path) -> PlanResult:
    """A plan with a day, what-ifs, two policies and a gain."""
    curve = {"kind": "rate_curve", "period_s": 7200, "points": [[0, 1], [1800, 3], [3600, 1]]}
    content = PLAN | {
        "policies": PLAN["policies"][1:], "workload": PLAN["workload"] | {"arrivals": curve}, "load_rps": 60.0, "what_if": "short",
        "sla": {"speed": {"tps": 125}}, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 4}, "profiles": [str(made_profile)],
        "question": "How many <GPUs> & why?",
    }  # fmt: skip
    return answer(make_plan(content, made_profile.parent / "plan.yaml"), workers=1)


@pytest.fixture(scope="module")
def folder(result: PlanResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan")
    write_plan_report(result, out)
    return out


def test_the_page_needs_nothing_else(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert len(page.encode()) < 6e6
    around = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', around)
    assert "@import" not in around
    assert "How many &lt;GPUs&gt; &amp; why?" in around


def test_the_page_holds_the_result(folder: Path, result: PlanResult) -> None:
    page = (folder / "report.html").read_text()
    inside = json.loads(re.search(r'<script type="application/json" id="result">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert inside["by_promise"] == result.to_json()["by_promise"]
    assert inside["cells"] == result.to_json()["cells"]


def test_a_plan_survives_a_file(result: PlanResult) -> None:
    written = json.loads(json.dumps(result.to_json()))
    assert PlanResult.from_json(written) == result
    assert json.dumps(PlanResult.from_json(written).to_json()) == json.dumps(result.to_json())
    del written["cells"][0]["headroom"]
    with pytest.raises(DsimError, match=r"cells\.0\.headroom: not a result of this dsim"):
        PlanResult.from_json(written)


def test_markdown_and_text_say_the_answer(folder: Path, result: PlanResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = (folder / "report.md").read_text()
    for stem in re.findall(r"\]\((\w+\.png)\)", text):
        assert (folder / stem).stat().st_size > 5000
    assert "plan_day.png" in text
    for line in result.answer:
        assert line.split(":")[0][:25] in text.replace("\\", "")
        assert line in terminal(plan_page(result))
    assert all(w.text in terminal(plan_page(result)) for w in result.warnings)


def test_promises_agree_with_the_points(result: PlanResult) -> None:
    """Each promise's fleets, read again from the points: the least from which on all simulated ones keep it."""
    asked = result.sla.speed.tps
    for promise in result.by_promise:
        for cell, found in zip(result.cells, promise.cells, strict=True):
            if promise.tps == asked:
                assert found.replicas == cell.replicas
                continue
            keeps = {p.replicas: p.verdict == "stable" and p.sure_speed is not None and p.sure_speed >= promise.tps for p in cell.points}
            sizes = sorted(keeps)
            expected = next((n for i, n in enumerate(sizes) if all(keeps[m] for m in sizes[i:])), None)
            assert found.replicas == expected


def test_a_harder_promise_never_costs_less(result: PlanResult) -> None:
    for place in range(len(result.cells)):
        fleets = [p.cells[place].replicas for p in result.by_promise]
        known = [n for n in fleets if n is not None]
        assert known == sorted(known)
        assert None not in fleets[: len(known)]


def test_the_day_adds_up(result: PlanResult) -> None:
    day = result.day
    assert day is not None
    assert sum(day.paid) * day.slot_s / 3600 == pytest.approx(day.replica_hours.forecast)
    assert day.replica_hours.forecast < day.replica_hours.fixed
    assert max(day.needed) <= day.fixed


NAMES = """
return [...document.querySelectorAll('input, button, select, a[href], [role=region], [role=img], summary')].filter(e => {
  const label = e.labels && e.labels.length ? e.labels[0].textContent : '';
  return !(label + (e.getAttribute('aria-label') || '') + e.textContent).trim();
}).map(e => e.outerHTML.slice(0, 80));
"""
WIDER = """
return [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, svg, .skip, .chart'))
  .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 30));
"""


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, False), (390, True)])
def test_no_errors_no_overflow_every_control_has_a_name(browser: Any, folder: Path, width: int, dark: bool) -> None:
    sized(browser, folder / "report.html", width, dark)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER) == []
    assert browser.execute_script(NAMES) == []
    charts = browser.execute_script("return [...document.querySelectorAll('.chart')].map(c => [c.id, c.querySelectorAll('svg.main-svg').length])")
    assert [name for name, _ in charts] == ["chart-frontier", "chart-what-if", "chart-day", "chart-pays"]
    assert all(drawn for _, drawn in charts)


@pytest.mark.browser
def test_the_slider_says_what_the_result_says(browser: Any, folder: Path, result: PlanResult) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    sized(browser, folder / "report.html", 1440)
    slider = browser.find_element(By.ID, "tps")
    slider.send_keys(Keys.HOME)
    for promise in result.by_promise:
        shown = browser.execute_script(
            "return [document.getElementById('tps-now').textContent, document.getElementById('tps-says').textContent,"
            "[...document.querySelectorAll('[data-stop]:not([hidden]) tbody tr')].map(r => r.querySelector('td').textContent)]"
        )
        assert shown[0] == f"{promise.tps:g} tok/s"
        fleets = ["–" if c.replicas is None else ("" if c.exact else "≤ ") + str(c.replicas) for c in promise.cells]
        assert shown[2] == fleets
        if promise.best is None:
            assert shown[1].startswith("No simulated fleet meets")
        else:
            best = next(c for c in promise.cells if c.cell == promise.best)
            label = next(c.label for c in result.cells if c.cell == promise.best)
            assert shown[1].startswith(f"{label} meets")
            assert f"{best.replicas} replicas" in shown[1]
            assert f"{best.cost_per_mtok:.2f} USD" in shown[1]
        slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.get_log("browser") == []


@pytest.mark.browser
def test_policies_are_toggled_by_keyboard(browser: Any, folder: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    sized(browser, folder / "report.html", 1440)
    count = "return document.querySelectorAll('#chart-frontier .scatterlayer .trace').length"
    before = browser.execute_script(count)
    browser.find_elements(By.CSS_SELECTOR, ".toggles input")[0].send_keys(Keys.SPACE)
    assert browser.execute_script(count) == before - 1
    browser.find_elements(By.CSS_SELECTOR, ".toggles input")[0].send_keys(Keys.SPACE)
    assert browser.execute_script(count) == before
    assert browser.execute_script("return document.querySelector('#chart-frontier').data.map(t => t.text.length)") != []


def test_plans_in_the_repository_are_understood(repository: Path) -> None:
    from simulator.study.planning.question import PlanFile

    plans = sorted((repository / "scenarios" / "plans").glob("*.yaml"))
    assert plans
    for path in plans:
        assert all((path.parent / profile / "profile.yaml").is_file() for profile in yaml.safe_load(path.read_text())["profiles"])
        PlanFile.model_validate(yaml.safe_load(path.read_text()), context={"folder": path.parent})
