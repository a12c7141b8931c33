"""A seal holds what a client will print, and nothing of it can be changed unseen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from simulator.study.sealed import make
from simulator.study.sealed.decisions import Cells, crossings, decisions, delivered, knee
from simulator.study.sealed.seal import Seal, digest_of, read_seal
from tests.conftest import Dsim
from tests.sealed.conftest import CLIENT


def test_cells_are_what_the_client_prints(world: Path, sealed: Seal) -> None:
    rows = sweep(load_scenario(world / "small.yaml"), workers=1)
    for cell in sealed.conditions[0].cells:
        mine = [row.client for row in rows if (row.policy, row.load) == (cell.policy, cell.load)]
        tpot_ms = sum(float(row["mean_tpot_ms"] or 0) for row in mine) / len(mine)
        assert cell.numbers["tps_per_user"].value == pytest.approx(1000 / tpot_ms)
        throughput = sum(float(row["output_throughput"] or 0) for row in mine) / len(mine)
        assert cell.numbers["throughput_tok_s"].value == pytest.approx(throughput)
        assert (cell.requests, cell.prompt_tokens, cell.output_tokens) == (4 * cell.load, 50, 20)
        assert all(n.low is not None and n.high is not None and n.low < n.value < n.high for n in cell.numbers.values())
        assert "ttft_mean_s" not in cell.numbers  # prefill: instant


def test_the_same_scenario_gives_the_same_cells(world: Path, sealed: Seal, dsim: Dsim) -> None:
    assert dsim("predict", "small.yaml", "--seal", "again.json", "--workers", 2).code == 0
    assert read_seal(world / "again.json").conditions == sealed.conditions
    assert dsim("predict", "small.yaml", "--seal", "other.json", "--set", "run.seed=7").code == 0
    assert read_seal(world / "other.json").conditions[0].cells != sealed.conditions[0].cells


@pytest.mark.parametrize("place", [0, 1], ids=["its own", "while another condition is simulated"])
def test_nothing_is_sealed_of_files_that_changed_meanwhile(
    world: Path, scenario: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    paths = [scenario(f"{name}.yaml", **CLIENT) for name in ("first", "second")]
    whole, later = make.swept, paths[place].read_text() + "# later\n"

    def changed(*words: Any, **more: Any) -> Any:
        rows = whole(*words, **more)
        paths[place].write_text(later)
        return rows

    monkeypatch.setattr(make, "swept", changed)
    with pytest.raises(DsimError, match=rf"{paths[place].name}: .* changed while it was simulated"):
        make.sealed({path.stem: load_scenario(path) for path in paths}, world / "kept", lambda _: lambda *_: None, 1, None)


def test_the_digest_is_that_of_the_canonical_json(world: Path, sealed: Seal) -> None:
    content = json.loads((world / "seal.json").read_text())
    digest = content.pop("digest")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode()).hexdigest() == sealed.digest
    name = hashlib.sha256((world / "small.yaml").read_bytes()).hexdigest()
    assert content["conditions"][0]["sha256"] == name


def test_a_profile_of_other_bytes_has_another_digest(world: Path, sealed: Seal, dsim: Dsim) -> None:
    lines = "".join(
        f"{hashlib.sha256((world / 'tiny' / name).read_bytes()).hexdigest()}  {name}\n" for name in ("head.parquet", "mtp.parquet", "profile.yaml")
    )
    assert sealed.conditions[0].profile.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def _edit(change: Callable[[Any], None], path: Path) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "number": lambda c: c["conditions"][0]["cells"][0]["numbers"]["tps_per_user"].update(value=1.0),
    "time": lambda c: c.update(sealed_at="2020-01-01T00:00:00Z"),
    "text": lambda c: c["conditions"][0].update(text=""),
    "more": lambda c: c.update(note="x"),
    "cell": lambda c: c["conditions"][0]["cells"].pop(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_seal_is_refused(world: Path, sealed: Seal, change: Callable[[Any], None], dsim: Dsim) -> None:
    _edit(change, world / "seal.json")
    with pytest.raises(DsimError, match="was changed after it was sealed"):
        read_seal(world / "seal.json")
    said = dsim("score", "seal.json", "plain=x.json")
    assert (said.code, len(said.err.splitlines())) == (2, 1)


def test_spaces_and_the_order_of_keys_are_no_change(world: Path, sealed: Seal) -> None:
    content = json.loads((world / "seal.json").read_text())
    (world / "seal.json").write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert read_seal(world / "seal.json") == sealed


def test_a_changed_seal_with_a_digest_of_its_own_has_another_digest(world: Path, sealed: Seal) -> None:
    _edit(lambda c: (c.update(sealed_at="2020-01-01T00:00:00Z"), c.update(digest=digest_of(c))), world / "seal.json")
    assert read_seal(world / "seal.json").digest != sealed.digest


def test_mistakes_are_one_line_before_any_work(world: Path, scenario: Callable[..., Path], dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.study.sealed.make.swept", lambda *_: pytest.fail("worked"))
    scenario(**CLIENT)
    scenario("users.yaml")
    shutil.copytree(world / "tiny", world / "huge")
    (world / "huge" / "profile.yaml").write_text((world / "tiny" / "profile.yaml").read_text().replace("target: small", "target: org/Huge-70B"))
    scenario("huge.yaml", **CLIENT, profile="huge")
    (world / "there.json").write_text("{}")
    for arguments, says in (
        (("small.yaml", "--seal", "there.json"), "a seal is never overwritten"),
        (("users.yaml", "--seal", "new.json"), "workload.arrivals: expected a benchmark client"),
        (("small.yaml", "small.yaml", "--seal", "new.json"), "two conditions are called 'small'"),
        (("small.yaml", "huge.yaml", "--seal", "new.json"), "huge.yaml: profile: its target is 'org/Huge-70B', and that of small.yaml 'small'"),
        (("a/b=small.yaml", "--seal", "new.json"), "expected letters"),
        (("small.yaml", "--seal", "new.json", "--set", "workload.arrivals.request_rate=3"), "do not say which of them limits"),
    ):
        said = dsim("predict", *arguments)
        assert (said.code, len(said.err.splitlines())) == (2, 1), said
        assert says in said.err
    assert not (world / "new.json").exists()
    assert not (world / "new.points").exists()


def test_a_scenario_is_called_as_it_is_named(world: Path, scenario: Callable[..., Path], dsim: Dsim) -> None:
    scenario(**CLIENT)
    said = dsim("predict", "short=small.yaml", "long=small.yaml", "--seal", "two.json", "--set", "run.replications=1", "--format", "json")
    assert said.code == 0, said
    seal = read_seal(world / "two.json")
    assert [condition.name for condition in seal.conditions] == ["short", "long"]
    assert json.loads(said.out)["digest"] == seal.digest
    assert seal.conditions[0].overrides == ("run.replications=1",)


def cells(**policies: list[tuple[float, float]]) -> Cells:
    """Speeds and throughputs at loads 1, 2, 4, …"""
    return {(name, 2.0**i): {"tps_per_user": v, "throughput_tok_s": x} for name, points in policies.items() for i, (v, x) in enumerate(points)}


def test_decisions_by_hand() -> None:
    world = cells(a=[(100, 100), (80, 160), (30, 120)], b=[(50, 50), (40, 80), (60, 240)])
    made = decisions(world, {"a", "b"}, [90.0, 55.0, 200.0], closed=True)
    assert [at.policies for at in made.ranking] == [("a", "b"), ("a", "b"), ("b", "a")]
    assert [choice.policy for choice in made.recommended] == ["a", "a", "b"]
    assert made.recommended_overall == "a"  # 100 · 80 · 30 > 50 · 40 · 60
    assert [(k.policy, k.load) for k in made.knees] == [("a", 2.0), ("b", 4.0)]
    (crossing,) = made.crossings
    assert (crossing.first, crossing.second) == ("a", "b")
    assert crossing.load == pytest.approx(2 * 2**0.5)  # from twice as fast to half as fast
    assert [(c.tps_per_user, c.policy) for c in made.promises] == [(90.0, "a"), (55.0, "b")]  # none keeps 200
    assert made.promises[0].throughput_tok_s == pytest.approx((100 * 160) ** 0.5)


def test_what_is_not_choosable_is_not_recommended() -> None:
    made = decisions(cells(oracle=[(9, 9)], a=[(2, 2)], b=[(3, 3)]), {"a", "b"}, [1.0], closed=True)
    assert made.recommended[0].policy == made.recommended_overall == made.promises[0].policy == "b"
    assert made.ranking[0].policies[0] == "oracle"


speeds = st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)), min_size=3, max_size=3, unique_by=lambda point: point[0])


@given(speeds, speeds)
def test_crossings_lie_between_loads_where_the_order_changes(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    world = cells(a=a, b=b)
    found = [crossing.load for crossing in crossings(world)]
    changes = [2.0**i for i in range(2) if (a[i][0] - b[i][0]) * (a[i + 1][0] - b[i + 1][0]) < 0]
    assert len(found) == len(changes)
    assert all(low * (1 - 1e-9) <= load <= 2 * low * (1 + 1e-9) for load, low in zip(found, changes, strict=True))


@given(speeds)
def test_a_policy_delivers_what_it_does_at_its_own_speeds(a: list[tuple[float, float]]) -> None:
    world = cells(a=a)
    for speed, throughput in a:
        assert delivered(world, speed)["a"] >= throughput * (1 - 1e-9)
    assert delivered(world, max(v for v, _ in a) * 1.01)["a"] == 0
    at = knee(world, "a")
    assert at.throughput_tok_s * at.tps_per_user == max(v * x for v, x in a)
