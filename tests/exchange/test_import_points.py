"""Many result files to one profile: what was measured comes out of its simulation, and what contradicts itself is one line and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements.acceptance import from_counts
from simulator.measurements.cost import Bend, Costs, FittedCurve, LinearDraft, LinearPrefill, Overhead
from simulator.measurements.formats.bench import read_bench
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.profile import load_profile
from simulator.study.profiles.counted import acceptance
from simulator.study.profiles.given_points import Cell, Options, completed, named_files, read_cells
from simulator.study.profiles.joint_fit import FRONT_END, by_tokens_alone, fit_cells, noise_of
from simulator.study.profiles.scraped import filled
from simulator.study.profiles.simulated import AS_MOST, Drafting, Manner, Working, simulate_point
from simulator.study.profiles.workload import check_workload
from tests.exchange.engine_files import CURVES, METRICS, aiperf, bench

Put = Callable[..., Path]
Dsim = Callable[..., Any]
REAL = Path(__file__).parent / "real" / "vllm_cpu"
TOLD = {"provenance": "synthetic"}


def world(base_s: float = 0.010, token_s: float = 1e-4, prompt_token_s: float = 1e-4) -> Costs:
    verify = FittedCurve.model_validate(TOLD | {"base_s": base_s, "per_token_s": token_s, "measured_tokens": (1, 1000)})
    prefill = LinearPrefill.model_validate(TOLD | {"base_s": base_s, "per_token_s": prompt_token_s})
    return Costs(verify=verify, prefill=prefill, overhead=Overhead.model_validate(TOLD))


def point(users: int, **more: Any) -> LoadPoint:
    plain = {"accepted_length": 1.0, "budget": 1.0, "slots": 0, "proposing": 0.0}
    return LoadPoint(f"c{users}", 1.0, float(users), 0.1, offered=users, **plain | more)


def measured(users: int, costs: Costs, manner: Manner, working: Working = AS_MOST, **more: Any) -> Cell:
    """What a benchmark of that world would say."""
    blank = point(users, **more)
    seen = simulate_point(blank, costs, None, manner, working)
    told = replace(blank, tps_per_user=seen.tps_per_user, throughput_tok_s=seen.throughput_tok_s, ttft_s=seen.ttft_s)
    return Cell(told, "", Path(f"c{users}.json"))


@pytest.mark.parametrize(("manner", "prompt_token_s"), [("together", 1e-4), ("spread", 1e-4), ("spread", 6e-5)])
def test_prompts_are_not_booked_on_verified_tokens(manner: Manner, prompt_token_s: float) -> None:
    """The world of long prompts in which the slope came out five times too steep: 0.1 ms a decoded token. TTFT at one user is a prefill time."""
    costs = world(prompt_token_s=prompt_token_s)
    cells = [measured(users, costs, manner, prompt_tokens=1024, output_tokens=256, requests=256) for users in (1, 8, 32, 64)]
    fit = fit_cells(cells, {}, ())
    assert fit.left < 0.01
    assert fit.costs.verify.seconds([1, 64]) == pytest.approx([0.0101, 0.0164], rel=0.05)
    assert fit.costs.prefill is not None
    assert fit.costs.prefill.seconds(1024) == pytest.approx(0.010 + 1024 * prompt_token_s, rel=0.02)


def test_prompts_of_many_users_go_in_as_few_steps_as_the_engine_takes() -> None:
    """A step of 8,192 tokens holds what takes eight of 1,024: whoever waits for its first token sees the steps."""
    costs, lengths = world().model_copy(update={"front_end": FRONT_END}), {"prompt_tokens": 1024, "output_tokens": 32}
    cells = [measured(users, costs, "together", Working(token_budget=8192), requests=8 * users, **lengths) for users in (1, 4, 16)]
    assert fit_cells(cells, {}, (), working=Working(token_budget=8192)).misfit < 0.1
    with pytest.raises(DsimError, match=r"no step cost fits .* say its --token-budget"):
        fit_cells(cells, {}, (), working=Working(token_budget=1024))


def test_more_users_than_the_server_decodes_at_once_wait() -> None:
    costs, few = world().model_copy(update={"front_end": FRONT_END}), Working(max_batch=8)
    cells = [measured(users, costs, "together", few, requests=8 * users, prompt_tokens=64, output_tokens=32) for users in (1, 4, 8, 32)]
    fit = fit_cells(cells, {}, (), working=few)
    assert fit.misfit < 0.1
    assert fit.costs.verify.seconds([1, 8]) == pytest.approx([0.0101, 0.0108], rel=0.02)


def test_what_a_drafter_does_with_prompts_comes_out_of_ttft() -> None:
    """A small model that takes half of what the target takes, for a pass and for a token of a prompt, before the first token is out."""
    blocks = from_counts((0.7, 0.4), "draft", "made up", gamma=2, domain="any")
    cost = LinearDraft.model_validate(TOLD | {"per_slot_s": 0.005, "per_prompt_token_s": 5e-5, "ahead": True})
    drafting, costs = Drafting.of(cost, blocks), world()
    cells = [measured(users, costs, "together", prompt_tokens=512, output_tokens=64, requests=8 * users) for users in (1, 8, 32)]
    for users in (1, 16):
        blank = point(users, slots=2, survival=[0.7, 0.4], proposing=1.0, rounds=5000, accepted_length=2.1, budget=3.0,
                      prompt_tokens=512, output_tokens=64, requests=8 * users)  # fmt: skip
        seen = simulate_point(blank, costs, drafting, "together")
        told = replace(blank, tps_per_user=seen.tps_per_user, throughput_tok_s=seen.throughput_tok_s, ttft_s=seen.ttft_s)
        cells.append(Cell(told, "draft", Path(f"k2-c{users}.json")))
    fit = fit_cells(cells, {"draft": blocks}, {"draft"}, working=Working(ahead=True))
    assert fit.left < 0.03
    found = fit.drafting["draft"].cost
    assert isinstance(found, LinearDraft)
    assert found.ahead
    assert found.prompt_s(512, 0.0) == pytest.approx(512 * 5e-5, rel=0.2)
    assert found.seconds(1, 0.0, 2) == pytest.approx(0.01, rel=0.2)
    assert {("prefill", None), ("prefill", "draft")} <= {(it.parameter, it.drafter) for it in fit.surface.uncertainty.parameters}


def test_points_of_two_engines_are_no_fit() -> None:
    slow, fast = world(0.03), world(0.01)
    cells = [measured(users, costs, "spread", output_tokens=64, requests=64) for users, costs in ((1, fast), (4, slow), (8, fast), (16, slow))]
    with pytest.raises(DsimError, match=r"rms, most of it in c\d+ .*leave out those"):
        fit_cells(cells, {}, ())


def test_a_slope_of_requests_becomes_one_of_their_tokens() -> None:
    bends = [Bend(of="requests", above=4.0, add_s=2e-4), Bend(of="tokens", above=3.0, add_s=1e-5)]
    told = TOLD | {"base_s": 0.01, "per_token_s": 1e-5, "per_request_s": 1e-4, "bends": bends, "measured_tokens": (2, 64)}
    curve = FittedCurve.model_validate(told)
    requests = np.array([1.0, 4.0, 9.0, 30.0])
    alone = by_tokens_alone(curve, 2.0)
    assert alone.varies_with == "tokens"
    both = [float(each.seconds(2 * r, r)) for each in (curve, alone) for r in requests]
    assert both[:4] == pytest.approx(both[4:])


def test_repeated_points_tell_the_noise() -> None:
    cells = [Cell(replace(point(4), tps_per_user=speed), "", Path()) for speed in (10.0, 12.0)]
    assert noise_of(cells) == pytest.approx(np.log(1.2) / np.sqrt(2))
    assert noise_of(cells[:1]) is None


def test_acceptance_is_pooled_by_position() -> None:
    """Files of k = 1 and k = 3: the first position has the rounds of both, the others those of k = 3."""
    one = point(1, slots=1, survival=[0.9], rounds=3000, proposing=1.0, accepted_length=1.9, budget=2.0)
    three = point(2, slots=3, survival=[0.8, 0.4, 0.2], rounds=1000, proposing=1.0, accepted_length=2.4, budget=4.0)
    told = acceptance("d", [Cell(each, "d", Path()) for each in (one, three)], ())
    assert told is not None
    assert told.survival == pytest.approx((0.875, 0.4375, 0.21875))
    assert told.rounds == 4000


def test_a_row_of_sglang_that_counts_nothing_beside_others_that_do_is_of_a_server_without_speculation() -> None:
    """Its client asks the server. vLLM's finds no counters where it cannot reach /metrics: there pieces tell, or the options."""
    silent = replace(point(1), accepted_length=None, budget=None, slots=None, proposing=None, engine="SGLang")
    counted = point(2, slots=3, survival=[0.8, 0.4, 0.2], proposing=1.0, accepted_length=2.4, budget=4.0, engine="SGLang")
    cells = completed([Cell(silent, "", Path()), Cell(counted, "", Path())], Options())
    assert [(cell.drafter, cell.slots) for cell in cells] == [("", 0), ("drafter", 3)]
    others = [Cell(replace(each, engine=""), "", Path()) for each in (silent, counted)]
    assert completed([others[1], replace(others[0], drafter="none")], Options())[1].drafter == ""
    for alone in ([Cell(silent, "", Path())], others):
        with pytest.raises(DsimError, match=r"c1: --accepted-length: does not say the accepted length of a round; give the option; .*none=FILE"):
            completed(alone, Options())


def test_scrapes_of_two_lengths_do_not_say_which_file_is_whose() -> None:
    silent = Cell(replace(point(1), accepted_length=None, budget=None, slots=None, proposing=None), "eagle3", Path())
    three, five = (SpecCounters(100, 100 * k, 160, [80, 50, 30, 0, 0][:k]) for k in (3, 5))
    assert [cell.slots for cell in filled([silent], {"eagle3": [three, three]}, "drafter")] == [3]
    with pytest.raises(DsimError, match=r"c1: --metrics: counts nothing .* draft 3 and 5 tokens; name the files and scrapes of each length \("):
        filled([silent], {"eagle3": [three, five]}, "drafter")


def test_an_accepted_length_without_positions_is_pooled_by_rounds() -> None:
    """Rows of SGLang, of the most tokens drafted; scrapes of the run say it better than its mean since the start."""
    rows = [(1, 3, 3.0, 1000.0), (4, 3, 2.0, 3000.0), (8, 1, 1.9, 9000.0)]
    cells = [
        Cell(point(users, engine="SGLang", slots=k, accepted_length=length, budget=k + 1.0, proposing=1.0, rounds=rounds), "eagle", Path())
        for users, k, length, rounds in rows
    ]
    told = acceptance("eagle", cells, ())
    assert told is not None
    assert (1 + sum(told.survival), told.slots, told.rounds) == (pytest.approx(2.25), 3, 4000)
    scrapes = {"eagle": [SpecCounters(600, None, 900, [], generated=1600, answers=100, decode_rounds=600, engine="sglang")]}
    better = filled(cells[:2], scrapes, "drafter")
    assert [(cell.point.accepted_length, cell.point.budget, cell.slots) for cell in better] == [(2.5, 4.0, 3)] * 2
    told = acceptance("eagle", better, scrapes["eagle"])
    assert told is not None
    assert (1 + sum(told.survival), told.rounds) == (pytest.approx(2.5), 600)


def test_files_are_named_by_patterns_and_drafters(tmp_path: Path) -> None:
    for name in ("c1.json", "c16.json", "c2.json"):
        (tmp_path / name).write_text("")
    files = named_files([f"ngram={tmp_path}/c*.json", tmp_path / "c1.json"], "--bench")
    assert [(file.drafter, file.path.name) for file in files] == [("ngram", "c1.json"), ("ngram", "c2.json"), ("ngram", "c16.json"), ("", "c1.json")]
    with pytest.raises(DsimError, match="no file matches"):
        named_files([f"{tmp_path}/k*.json"], "--bench")
    words = [f"ngram:code={tmp_path}/c1.json", f"none:code={tmp_path}/c2.json", f"ngram={tmp_path}/c16.json"]
    assert [(file.drafter, file.domain) for file in named_files(words, "--bench")] == [("ngram", "code"), ("none", "code"), ("ngram", "any")]
    with pytest.raises(DsimError, match="--bench"):
        named_files([f"ngram:={tmp_path}/c1.json"], "--bench")


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([point(1, prompt_tokens=100, output_tokens=64), point(2, prompt_tokens=4000, output_tokens=64)], "prompts of 100 tokens in the mean"),
        ([replace(point(2, output_tokens=64), tps_per_user=1.0, throughput_tok_s=30.0)], "more than the 2 that the client allowed"),
    ],
)
def test_benchmarks_that_are_not_of_one_workload_are_refused(cells: list[LoadPoint], told: str) -> None:
    with pytest.raises(DsimError, match=told):
        check_workload([Cell(replace(each, ttft_s=None), "", Path()) for each in cells])


CUT = METRICS.replace(" 1800.0", " 1000.0").replace(" 1200.0", " 900.0")
CONTRADICTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "another model": (
        ("vllm", "--bench", "b1.json", "b9.json", "--metrics", "other.txt"),
        "b1.json: --metrics: is of model 'm', and the scrape of 'x'",
    ),
    "cut blocks": (("vllm", "--curves", "c.json", "--metrics", "cut.txt"), "what lies beyond the cut was never tried"),
    "fewer scrapes before": (
        ("vllm", "--bench", "b1.json", "b9.json", "--metrics", "m.txt", "m.txt", "--metrics-before", "m.txt"),
        "expected 2 earlier",
    ),
    "a check that is fitted": (("vllm", "--bench", "b1.json", "b9.json", "--check", "b9.json"), "b9.json: --check: is in the fit as well"),
    "two sources of costs": (("vllm", "--curves", "c.json", "--bench", "b1.json"), "both have step costs"),
    "named none": (("vllm", "--bench", "none=b1.json", "b9.json"), "its server speculated"),
    "a failed run": (("vllm", "--bench", "b1.json", "failed.json"), "failed.json: failed: 120 of 200 requests failed"),
    "a scrape of a domain": (("vllm", "--bench", "b1.json", "b9.json", "--metrics", "x:code=m.txt"), "m.txt: --metrics: names the domain 'code'"),
    "scrapes of no domain": (
        ("vllm", "--bench", "x=b1.json", "x:code=b9.json", "--metrics", "x=m.txt"),
        "x: --metrics: has files of the domains any, code, and scrapes that name none",
    ),
    "a scrape of no result": (
        ("vllm", "--bench", "none=c1.json", "x=b9.json", "--metrics", "m.txt"),
        "m.txt: --metrics: is of 'drafter', and the results are of 'x'; name it as its results are, NAME=FILE, or leave it out",
    ),
    "a scrape beside results without speculation": (
        ("aiperf", "none=a1.json", "--metrics", "m.txt"),
        "m.txt: --metrics: is of 'drafter', and the results are of no drafter;",
    ),
    "too few slots": (("vllm", "--bench", "b1.json", "b9.json", "--metrics", "m.txt", "--slots", "2"), "--slots: expected at least the 3 tokens"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_one_line_and_nothing_is_written(put: Put, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    arguments, told = CONTRADICTIONS[case]
    files = {"b1.json": bench(1, 0.01), "b9.json": bench(9, 0.02), "failed.json": bench(4, 0.01) | {"completed": 80, "failed": 120}, "m.txt": METRICS}
    files |= {"c1.json": {key: value for key, value in bench(1, 0.01).items() if not key.startswith("spec_")}}
    files |= {"a1.json": aiperf(1, 0.01), "c.json": CURVES, "other.txt": METRICS.replace('"m"', '"x"'), "cut.txt": CUT}
    for name, content in files.items():
        put(name, content)
    monkeypatch.chdir(tmp_path)
    said = dsim("import", *arguments, "--out", "p")
    assert (said.code, len(said.err.strip().splitlines())) == (2, 1), said.err
    assert told in said.err
    assert not (tmp_path / "p").exists()


def test_programs_are_told_what_people_are(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    """Remarks of the fit and of its files, and the engine as the profile has it."""
    files = put("a1.json", aiperf(1, 0.01)), put("a8.json", aiperf(8, 0.012))
    options = ("--accepted-length", 1, "--budget", 1, "--engine", "SGLang")
    said = {form: dsim("import", "aiperf", *files, *options, "--out", tmp_path / form, "--format", form) for form in ("text", "json")}
    told = json.loads(said["json"].out)
    assert told["engine"] == load_profile(tmp_path / "json").engine == "SGLang"
    assert any(remark.startswith("no point speculates, so") for remark in told["remarks"])
    assert any(remark.startswith("no point was kept out of the fit (--check FILE)") for remark in told["remarks"])
    assert said["text"].out.splitlines()[: len(told["remarks"])] == told["remarks"]


def test_a_real_server_is_predicted_at_loads_kept_out(dsim: Dsim, tmp_path: Path) -> None:
    """vLLM 0.32 on a CPU core that was not quiet, without and with n-gram drafting."""
    fit = [REAL / f"{name}-c{n}.json" for name in ("none", "ngram3") for n in (1, 4, 16)]
    check = [f"ngram={REAL}/ngram3-c{n}.json" for n in (8, 32)]
    files = [str(file) if "none" in file.name else f"ngram={file}" for file in fit]
    said = dsim("import", "vllm", "--bench", *files, "--check", *check, "--out", tmp_path / "p", "--format", "json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["rms"] < 0.15
    plain = [cell for cell in told["cells"] if cell["drafter"] is None]
    assert max(abs(cell["ttft_s"]["difference"]) for cell in plain) < 0.15  # queues as simulated tell a prompt's fixed cost from its tokens'
    apart = [cell for cell in told["cells"] if not cell["fitted"]]
    assert [cell["users"] for cell in apart] == [8, 32]
    assert max(abs(cell["tps_per_user"]["difference"]) for cell in apart) < 0.12
    assert max(abs(cell["accepted_length"]["difference"]) for cell in apart) < 0.05
    assert max(abs(cell["ttft_s"]["difference"]) for cell in apart) < 0.30
    profile = load_profile(tmp_path / "p")
    assert list(profile.drafters) == ["ngram"]
    assert (profile.drafter("ngram").gamma, profile.drafter("ngram").family) == (6, "ngram")
    assert profile.uncertainty is not None
    assert {"draft", "level", "tilt", "verified"} <= {unsure.parameter for unsure in profile.uncertainty.parameters}


def test_domains_have_acceptance_of_their_own(dsim: Dsim, tmp_path: Path) -> None:
    """The real server again, with the prompts of two users, whose answers could be looked up more often, as a domain."""
    files = [str(REAL / f"none-c{n}.json") for n in (1, 16)] + [f"ngram={REAL}/ngram3-c8.json"]
    said = dsim("import", "vllm", "--bench", *files, f"ngram:alike={REAL}/ngram3-c2.json", "--out", tmp_path / "p", "--format", "json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert "ngram: its confidences" in told["not_identifiable"]
    lengths = {cell["users"]: cell["accepted_length"] for cell in told["cells"] if cell["drafter"]}
    assert lengths[2]["measured"] > 1.08 * lengths[8]["measured"]
    assert max(abs(lengths[users]["difference"]) for users in (2, 8)) < 0.05  # in one domain they were 9 % apart
    profile = load_profile(tmp_path / "p")
    blocks = profile.blocks("ngram")
    assert blocks.domains == ("any", "alike")
    assert profile.uncertainty is not None
    level = next(unsure for unsure in profile.uncertainty.parameters if (unsure.parameter, unsure.drafter) == ("level", "ngram"))
    rounds = {cell.point.offered: (cell.point.rounds or 0) * (cell.point.proposing or 0) for cell in _real("ngram3-c2.json", "ngram3-c8.json")}
    assert level.note.startswith(f"{rounds[2]:,.0f} rounds")  # the fewer ones
    assert rounds[2] < rounds[8]


def _real(*names: str) -> list[Cell]:
    cells, _ = read_cells(named_files([f"ngram={REAL}/{name}" for name in names], "--bench"), (), read_bench)
    return completed(cells, Options())
