"""`dsim probe` of a server in virtual time whose step costs, drafter and prompts are known: one probe without speculation and one with make one
profile. And answers whose tokens are not all there to be counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements import events
from simulator.measurements.endpoint import Server
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.profile import load_profile
from simulator.measurements.server import Answer, Measured, _answer, _measured
from simulator.study.profiles import probe
from simulator.study.profiles.probe_plan import ProbePlan
from simulator.study.profiles.probe_record import Level

BASE, TOKEN, REQUEST, DRAFT, PROMPT, TOKENS, PROMPT_TOKENS = 0.02, 1e-4, 2e-4, 0.0015, 4e-5, 96, 100
FRONT_END = 1e-3
CONDITIONAL = (0.75, 0.65, 0.6)


class Virtual:
    """Takes the place of `measure` and `scrape`: users of a closed loop, a round after the other, with vLLM's counters."""

    def __init__(self, slots: int) -> None:
        self.slots, self.luck, self.prompts = slots, np.random.default_rng(slots + 1), list[str]()
        self.totals = dict.fromkeys(("drafts", "draft_tokens", "accepted_tokens"), 0)
        self.positions, self.generated, self.answers = [0] * slots, 0, 0

    def measure(self, _: Server, prompts: Sequence[str], users: int, turns: int, fresh: Callable[[int, int], str]) -> Measured:
        now, found = 0.0, list[Answer]()
        state = [{"turn": 0, "sent": 0.0, "out": 0, "first": 0.0, "chunks": 0} for _ in range(users)]
        while min(s["turn"] for s in state) <= turns:
            reading = [s for s in state if not s["out"] and s["sent"] + FRONT_END <= now]  # who sends as a step begins misses it
            writing = [s for s in state if s["out"]]
            if not reading and not writing:
                now += FRONT_END
                continue
            step = PROMPT * PROMPT_TOKENS * len(reading) + BASE
            if writing:
                step += TOKEN * len(writing) * (1 + self.slots) + REQUEST * len(writing) + (DRAFT if self.slots else 0)
            now += step
            for s in reading:
                self.prompts.append(fresh(state.index(s), int(s["turn"])) + prompts[0])
                s |= {"out": 1, "first": now, "chunks": 1}
                self.generated, self.answers = self.generated + 1, self.answers + 1
            for s in writing:
                s["out"], s["chunks"] = min(s["out"] + self._round(), TOKENS), s["chunks"] + 1
                if s["out"] == TOKENS:
                    found.append(Answer(state.index(s), int(s["turn"]), s["sent"], s["first"], now, TOKENS, PROMPT_TOKENS, True, int(s["chunks"])))
                    s |= {"turn": s["turn"] + 1, "sent": now, "out": 0}
        return _measured(users, found)

    def _round(self) -> int:
        accepted = 0
        while accepted < self.slots and self.luck.random() < CONDITIONAL[accepted]:
            self.positions[accepted] += 1
            accepted += 1
        if self.slots:
            for name, count in zip(self.totals, (1, self.slots, accepted), strict=True):
                self.totals[name] += count
        self.generated += accepted + 1
        return accepted + 1

    def scrape(self, _: Server) -> str:
        lines = [f"vllm:spec_decode_num_{name}_total {count}" for name, count in self.totals.items()]
        lines += [f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{at}"}} {count}' for at, count in enumerate(self.positions)]
        lines += [f"vllm:generation_tokens_total {self.generated}", f"vllm:time_to_first_token_seconds_count {self.answers}"]
        return "# HELP x\n" + "\n".join(lines if self.slots else lines[-2:]) + "\n"


@pytest.fixture
def probed(dsim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Probes a virtual server of so many slots."""

    def call(slots: int, out: str, *options: Any, ok: bool = True) -> Any:
        virtual = Virtual(slots)
        monkeypatch.setattr(probe, "measure", virtual.measure)
        monkeypatch.setattr(probe, "scrape", virtual.scrape)
        fixed = ("--base-url", "http://x/v1", "--model", "m", "--output-tokens", TOKENS, "--format", "json", "--requests", 4)
        said = dsim("probe", *fixed, "--out", tmp_path / out, *options)
        assert (said.code == 0) == ok, said.err
        return (json.loads(said.out), virtual) if ok else said

    return call


def test_two_probes_make_one_profile(probed: Callable[..., Any], tmp_path: Path) -> None:
    """Levels that neither probe was fitted at come out within a few per cent, and so does what the server is made of."""
    probed(0, "off", "--label", "off", "--concurrency", "1,2,4,16,32", "--check", "8")
    found, _ = probed(3, "both", "--label", "k3", "--add", tmp_path / "off", "--concurrency", "1,4,16", "--check", "8,32", "--drafter", "eagle")
    told = {(row["label"], row["users"]): row for row in found["comparison"]}
    assert [at for at, row in told.items() if row["held_out"]] == [("off", 8), ("k3", 8), ("k3", 32)]
    off = {at: (row["difference"], row["held_out"]) for at, row in told.items()}
    assert all(abs(difference) < (0.05 if held_out else 0.12) for difference, held_out in off.values()), off  # one user has the luck of few rounds
    profile = load_profile(tmp_path / "both")
    assert list(profile.drafters) == ["eagle"]
    assert profile.uncertainty is not None
    assert profile.blocks("eagle").gamma >= 3
    # one length of drafts tells the whole round; what of it is drafting rests on priors
    round_s = float(profile.costs.verify.seconds([64], 16, 0)[0]) + profile.drafters["eagle"].draft.seconds(16, 0, 3)
    assert round_s == pytest.approx(BASE + 64 * TOKEN + 16 * REQUEST + DRAFT, rel=0.05)


def test_every_prompt_begins_anew_and_a_seed_repeats_it(probed: Callable[..., Any]) -> None:
    _, first = probed(0, "a", "--concurrency", "1,3", "--seed", 7)
    _, again = probed(0, "b", "--concurrency", "1,3", "--seed", 7)
    _, other = probed(0, "c", "--concurrency", "1,3")
    assert first.prompts == again.prompts
    starts = [prompt[:12] for virtual in (first, other) for prompt in virtual.prompts]
    assert len(set(starts)) == len(starts)
    assert len({start[:4] for start in starts}) > 0.9 * len(starts)  # from the first token on


def test_one_level_of_enough_is_kept_out_of_the_fit(probed: Callable[..., Any]) -> None:
    found, _ = probed(0, "p", "--concurrency", "1,2,4,8,16")
    assert [row["users"] for row in found["comparison"] if row["held_out"]] == [4]
    assert {row["what"]: row["fitted"] for row in found["rows"]}["per-user speed of 4 users, left out of the fit"] is False


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"server": {"model": "n", "output_tokens": TOKENS}}, "server.model: is 'n', and 'm' in this probe"),
        ({"server": {"model": "m", "output_tokens": 8}}, "server.output_tokens: is 8, and 96 in this probe"),
        ({"raw_points": []}, "raw_points: "),
        ({"raw_points": None}, "raw_points: "),
        ({}, "--label: is taken by points of the added profile"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_is_measured(
    probed: Callable[..., Any], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    probed(0, "off", "--label", "off", "--concurrency", "1,4")
    file = tmp_path / "off" / "probe.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    said = probed(3, "both", "--label", "off" if not change else "k3", "--add", tmp_path / "off", "--concurrency", "1,4", ok=False)
    assert said.code == 2
    assert told in said.err
    assert not (tmp_path / "both").exists()


def test_an_unsteady_level_is_measured_again_and_marked(probed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Virtual.measure
    attempts = list[int]()

    def shaky(self: Virtual, server: Server, prompts: Sequence[str], users: int, turns: int, fresh: Callable[[int, int], str]) -> Measured:
        at = plain(self, server, prompts, users, turns, fresh)
        attempts.append(users)
        slow = [replace(a, last_s=a.last_s + (a.last_s - a.first_s) * (0.25 if a.user % 2 and users == 4 else 0)) for a in at.answers]
        return Measured(users, slow, at.throughput_tok_s, at.decoding)

    monkeypatch.setattr(Virtual, "measure", shaky)
    found, _ = probed(0, "p", "--concurrency", "1,4,16")
    assert attempts.count(4) == 2
    assert [level["users"] for level in found["measured"] if level["unsteady"]] == [4]
    assert any("unsteady at 4 users" in warning for warning in found["warnings"])
    assert any("unsteady at 4 users" in text for text in found["not_identifiable"])


def level(counted: SpecCounters | None, tokens: int = 64, chunks: int = 32) -> Level:
    """Ten answers of a user, and what the engine counted meanwhile."""
    answers = [Answer(0, turn, 0.0, 1.0, 7.3, tokens, 100, True, chunks) for turn in range(10)]
    return Level(Measured(1, answers, 10.0, 1.0), counted, False)


def test_answers_that_an_engine_does_not_count_are_those_that_were_seen() -> None:
    """llama-server: a draft of one in every round but an answer's last, all accepted."""
    counted = SpecCounters(310, 310, 310, [310], generated=640, engine="llamacpp")
    cell = probe._cell(level(counted), ProbePlan.of(SERVER, None, "1,2", "", 2), None, None)
    assert (cell.point.proposing, cell.point.rounds) == (1.0, 320)


def test_blocks_that_the_engine_cut_are_refused() -> None:
    cut = SpecCounters(1000, 1700, 1100, [800, 200, 100], generated=2200, answers=100, decode_rounds=1000)
    plan = ProbePlan.of(SERVER, None, "1,2", "", 2)
    with pytest.raises(DsimError, match=r"http://x/v1.*: vllm:spec_decode_num_draft_tokens: blocks of 3 were cut to 1\.7 in the mean"):
        probe._cell(level(cut), plan, None, None)
    assert probe._cell(level(replace(cut, draft_tokens=3000)), plan, None, None).point.slots == 3


def usage(**counts: Any) -> events.Usage:
    return events.Usage.model_validate(counts)


AT = (0, 1, 0.0, 1.0, 2.0)
SERVER = Server("http://x/v1", "m", True, 401)


def test_thinking_that_is_counted_and_not_streamed_is_no_speed() -> None:
    """4 tokens a round; 300 of 401 tokens are hidden, 101 come in 26 pieces from second 1 to 2."""
    hidden = usage(completion_tokens=401, completion_tokens_details={"reasoning_tokens": 300})
    answer = _answer(SERVER, AT, hidden, chunks=26, thinking=False, asked=0)
    assert answer.tps == pytest.approx(4 * 25, rel=0.05)
    assert (answer.tokens, answer.hidden) == (101, 300)
    assert answer.begin_s == 0.0  # 300 tokens at that speed, and no earlier than it was sent
    assert _answer(SERVER, AT, hidden, chunks=26, thinking=True, asked=0).tps == pytest.approx(400)  # streamed as reasoning
    assert _answer(SERVER, AT, hidden, chunks=200, thinking=False, asked=0).tps == pytest.approx(400)  # more pieces than the rest has tokens
    with pytest.raises(DsimError, match="counts 48 of 65 tokens as thinking that it does not stream, and sends the rest in 4 pieces"):
        _answer(SERVER, AT, usage(completion_tokens=65, completion_tokens_details={"reasoning_tokens": 48}), chunks=4, thinking=False, asked=0)


def test_tokens_that_nobody_counts_are_those_asked_for_or_pieces() -> None:
    assert _answer(SERVER, AT, usage(), chunks=17, thinking=False, asked=65).tokens == 65
    uncounted = _answer(SERVER, AT, usage(), chunks=17, thinking=False, asked=0)
    assert (uncounted.tokens, uncounted.counted) == (17, False)


def test_uncounted_tokens_of_a_server_that_speculates_are_refused_and_of_others_said(
    probed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Virtual.measure

    def uncounted(*given: Any) -> Measured:
        at = plain(*given)
        return replace(at, answers=[replace(a, counted=False) for a in at.answers])

    monkeypatch.setattr(Virtual, "measure", uncounted)
    said = probed(3, "a", "--concurrency", "1,4", ok=False)
    assert "does not count the tokens of" in said.err
    assert "ignore_eos" in said.err
    said = probed(0, "b", "--concurrency", "1,4", "--accepted-length", 4, "--budget", 4, ok=False)
    assert "usage.completion_tokens" in said.err
    found, _ = probed(0, "c", "--concurrency", "1,4")
    assert "a piece is taken for a token" in found["warnings"][0]
    assert found["warnings"][0] in found["not_identifiable"]


def test_a_server_without_counters_is_known_by_its_pieces(probed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Virtual, "scrape", lambda *_: None)
    said = probed(3, "a", "--concurrency", "1,4", ok=False)
    assert "--accepted-length: sends 2." in said.err
    assert "tokens in a piece, as one that speculates does, and has no counters in /metrics; give it and --budget; without speculation bo" in said.err
    found, _ = probed(0, "b", "--concurrency", "1,4")
    assert found["warnings"][0].startswith("the server has no counters in /metrics: taken for one without speculation")
    found, _ = probed(0, "c", "--concurrency", "1,4", "--accepted-length", 1, "--budget", 1)
    assert found["warnings"] == []


def test_a_plan_names_what_is_wrong_with_its_words() -> None:
    with pytest.raises(DsimError, match="--drafter"):
        ProbePlan.of(SERVER, None, "1,2", "", 2, drafter="../x")
    assert ProbePlan.of(SERVER, None, "1,2", "", 2, seed=3).fresh(4, 1)(0, 0) != ProbePlan.of(SERVER, None, "1,2", "", 2, seed=4).fresh(4, 1)(0, 0)
