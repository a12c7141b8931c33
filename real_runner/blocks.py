"""Acceptance measured as recorded blocks: a drafter run at every position of texts the target generated, coupled to them (spec/recorded_blocks.md).

Each anchor of a chunk is a slot of the draft cache that holds a copy of its text's context, and the drafter's own code of a decoding round runs over
those slots: what the rows say is what an engine would see, and no block's keys reach another's context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real_runner import sampling
from real_runner.coupling import LEAST, Coupling, Scored
from real_runner.drafters.drafter import DraftBatch, Drafter, draft
from real_runner.failures import memory_of
from real_runner.layout import lay_out, ship
from real_runner.target import Target
from real_runner.texts import Text, must_be_said_by
from simulator.arrays import Integers
from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.progress import Progress
from simulator.rng import stream

TOKENS_AT_ONCE = 2048  # texts × longest, through the target in one step
MOST = float(np.nextafter(np.float32(1), np.float32(0)))  # a confidence is never quite 0 or 1


@dataclass(slots=True)
class Drafted:
    """Blocks at A anchors, one after the other along the texts."""

    tokens: Tensor  # [A, γ]
    confidence: Tensor | None  # [A, γ] logits
    accepted: Tensor  # [A]
    acceptance: Tensor  # [A, γ], q_k as far as the draw went, NaN after


@dataclass(frozen=True, slots=True)
class Said:
    """A text as serving would have taken it, and what the target said after it: tokens that are never an anchor, but that blocks reach."""

    text: Text
    beyond: list[int] = field(default_factory=list)


def record_blocks(
    target: Target, drafter: Drafter, name: str, texts: Sequence[Text], *, temperature: float, seed: int, progress: Progress,
    rows_at_once: int = 128, given: bool = False,
) -> RecordedBlocks:  # fmt: skip
    """One row for every output token of `texts` but the last. They must be samples of the target at `temperature`. Texts of one token have no row.

    Blocks at the end of a text reach beyond it. Where the text stopped at its length limit, the target says γ - 1 tokens more that are never an
    anchor: an engine that stops there would have verified just those. Where it ended by itself, nothing after the end is accepted: q = 0. Of `given`
    texts, which somebody else's engine cut, the last γ - 1 tokens are those.
    """
    said, parts = served(texts, target.eos, target.vocabulary, drafter.gamma - 1 if given else 0), []
    with progress.stage(f"blocks of {name}", float(sum(len(one.text.output) - 1 for one in said))) as stage:
        for part in drafted_along(target, drafter, said, temperature=temperature, seed=seed, rows_at_once=rows_at_once):
            parts.append(part)
            stage.advance(len(part.accepted))
    return recorded(parts, said, name, drafter.gamma, temperature, f"{Path(target.name).name} ({str(target.dtype).removeprefix('torch.')})")


def recorded(parts: Sequence[Drafted], said: Sequence[Said], name: str, gamma: int, temperature: float, target: str) -> RecordedBlocks:
    """Blocks at all anchors of the texts, one after the other, of a `target` called so."""
    texts = [one.text for one in said]
    length = np.array([len(text.output) - 1 for text in texts])
    domains = tuple(dict.fromkeys(text.domain for text in texts))
    confidence = None
    if parts[0].confidence is not None:
        logits = torch.cat([part.confidence for part in parts if part.confidence is not None])
        confidence = torch.sigmoid(logits.double()).float().clamp(LEAST, MOST).double().numpy()
    return RecordedBlocks(
        drafter=name, gamma=gamma, temperature=temperature, provenance="measured",
        source=f"blocks along {len(texts)} texts of {target}",
        domains=domains, sequence_domain=np.array([domains.index(text.domain) for text in texts]),
        first_row=np.cumsum(length) - length, length=length, accepted=torch.cat([part.accepted for part in parts]).numpy(),
        confidence=confidence, acceptance=torch.cat([part.acceptance for part in parts]).double().numpy(),
    )  # fmt: skip


def served(texts: Sequence[Text], eos: frozenset[int], vocabulary: int, held_back: int = 0) -> list[Said]:
    """Texts as far as serving would have taken them, to their first end, where they have an anchor; of those without an end, the last `held_back`
    tokens are beyond. Raises DsimError where none is left."""
    said = []
    for text in texts:
        end = next((at + 1 for at, token in enumerate(text.output) if token in eos), None)
        kept = len(text.output) - held_back if end is None else end
        if text.prompt and kept > 1:
            said.append(Said(replace(text, output=text.output[:kept]), text.output[kept:] if end is None else []))
    if not said:
        least = f"at least {held_back + 2} tokens, or one that ends," if held_back else "at least two tokens"
        raise DsimError(f"expected a text of {least} after a prompt", key="texts", remedy="let the target generate more tokens")
    must_be_said_by(vocabulary, (replace(one.text, output=[*one.text.output, *one.beyond]) for one in said))
    return said


class Group:
    """A few texts that go through target and drafter together; `number` is the first one's place among all."""

    def __init__(self, said: Sequence[Said], number: int, gamma: int, block: int, rows_at_once: int, seed: int) -> None:
        self.said, self.number, self.gamma, self.count, self.seed = said, number, gamma, len(said), seed
        self.prompts, self.outputs = np.array([len(one.text.prompt) for one in said]), np.array([len(one.text.output) for one in said])
        self.known = self.outputs + [len(one.beyond) for one in said]
        self.room = int((self.prompts + self.known).max()) + gamma + block + 1
        self.rows = min(rows_at_once, int((self.outputs - 1).sum()))
        self.text_of = np.repeat(np.arange(self.count), self.outputs - 1)
        self.anchor = np.concatenate([np.arange(n - 1) for n in self.outputs])
        self.layout = lay_out(np.arange(self.count), self.prompts + self.known, int((self.prompts + self.known).max()), (self.count, self.room), None)

    @property
    def ids(self) -> Integers:
        """All tokens, text by text."""
        return np.concatenate([[*one.text.prompt, *one.text.output, *one.beyond] for one in self.said])

    @property
    def outputs_at(self) -> Integers:
        """Where the tokens that the target said are among all."""
        return np.concatenate([np.arange(first + p, first + p + n) for first, p, n in zip(self.layout.firsts, self.prompts, self.known, strict=True)])

    def parts(self) -> list[slice]:
        """Anchors that are drafted from at once."""
        return [slice(at, at + self.rows) for at in range(0, len(self.anchor), self.rows)]

    @cached_property
    def draws(self) -> NDArray[np.float32]:
        """Random numbers of every anchor, which depend on seed, text and anchor alone  # [A, γ, 2]."""
        streams = (stream(self.seed, "blocks", self.number + t) for t in range(self.count))
        return np.concatenate([one.random((n - 1, self.gamma, 2), np.float32) for one, n in zip(streams, self.outputs, strict=True)])

    def coupling(self, scored: Scored, part: slice, temperature: float, d2t: Tensor | None) -> Coupling:
        """The draw for the anchors of `part`."""
        text, anchor, luck = (ship(array[part], scored.tokens.device) for array in (self.text_of, self.anchor, self.draws))
        return Coupling(scored, text, anchor, temperature, luck, d2t)

    def batch(self, drafter: Drafter, part: slice, tokens: Tensor) -> DraftBatch:
        """The anchors of `part` of the outputs `tokens` [T, W], in the slots after the texts' of a cache to which their contexts are copied."""
        text, start = self.text_of[part], self.prompts[self.text_of[part]] + self.anchor[part]
        device, slots, kv, reach = tokens.device, self.count + np.arange(len(start)), drafter.kv, int(start.max())
        assert kv is not None
        layout = drafter.lay_out(slots, reach, cache=(kv.slots, kv.length), tiers=None)
        texts = ship(text, device)
        for cached in (tensor for pair in kv._layers.values() for tensor in pair):  # the context of each anchor's text
            cached[slots[0] : slots[-1] + 1, :, :reach] = cached[texts, :, :reach]
        begin = np.zeros(kv.slots + 1, dtype=np.int64)
        begin[slots] = start
        where, starts = ship(slots, device), ship(begin, device)
        anchors = torch.zeros_like(starts).index_copy_(0, where, tokens[texts, ship(self.anchor[part], device)])
        return DraftBatch(ship(layout.ints, device), layout, where, starts, anchors)


def groups(said: Sequence[Said], gamma: int, block: int, rows_at_once: int, tokens_at_once: int, seed: int) -> list[Group]:
    """All texts, as many together as have `tokens_at_once` tokens, every text as long as the longest."""
    made, at = [], 0
    while at < len(said):
        longest = np.maximum.accumulate([len(s.text.prompt) + len(s.text.output) + len(s.beyond) for s in said[at : at + tokens_at_once]])
        end = at + max(1, int((longest * np.arange(1, len(longest) + 1) <= tokens_at_once).sum()))
        made.append(Group(said[at:end], at, gamma, block, rows_at_once, seed))
        at = end
    return made


@torch.no_grad()
def drafted_along(
    target: Target, drafter: Drafter, said: Sequence[Said], *, temperature: float, seed: int, rows_at_once: int = 128
) -> Iterator[Drafted]:
    """Blocks at every anchor, `rows_at_once` at a time at most."""
    target.tap(drafter.taps)
    for group in groups(said, drafter.gamma, drafter.spec.block, rows_at_once, TOKENS_AT_ONCE, seed):
        with memory_of(f"{group.count} texts and {group.rows} blocks of up to {group.room} tokens"):
            target.allocate(group.count, group.room)
            drafter.allocate(group.count + group.rows, group.room)
            scored, seeds, firsts = _hear(target, drafter, group, temperature)
            for part in group.parts():
                batch = group.batch(drafter, part, scored.tokens)
                if seeds is not None:
                    drafter.seeds[batch.slots] = seeds[firsts[ship(group.text_of[part], target.device)] + batch.start[batch.slots] - 1]
                yield coupled(drafter, drafter.begin(batch), batch, group.coupling(scored, part, temperature, drafter.d2t))


def coupled(drafter: Drafter, hidden: Tensor, batch: DraftBatch, coupling: Coupling) -> Drafted:
    """The blocks of a batch from the hidden states that drafting begins with."""
    tokens, confidence = draft(drafter.steps(hidden, batch, drafter.gamma), coupling.draw)
    return Drafted(tokens.cpu(), None if confidence is None else confidence.cpu(), coupling.accepted.cpu(), coupling.acceptance.cpu())


def _hear(target: Target, drafter: Drafter, group: Group, temperature: float) -> tuple[Scored, Tensor | None, Tensor]:
    """The target over whole texts, the context from it in the drafter's cache, a chain's seeds after each token, and where each text's begin."""
    device, layout = target.device, group.layout
    ints, start = ship(layout.ints, device), torch.zeros(group.count + 1, dtype=torch.long, device=device)
    flat_ids = ship(group.ids, device)
    step = target.step(flat_ids, layout.flat(ints, start), ship(group.outputs_at, device))
    scored = _extended(target, group, step.logits, temperature)
    following = torch.cat([flat_ids[1:], flat_ids[:1]])  # what follows a text's last token is never read
    assert drafter.kv is not None
    seeds = drafter.extend(step.features, following, ints, layout, start.new_zeros(drafter.kv.slots + 1))
    return scored, seeds, ship(layout.firsts, device)


def heard(group: Group, more: int = 0) -> tuple[Integers, Integers]:
    """Outputs [T, W], with room for `more` tokens, and which row of the logits is what follows each  # both."""
    tokens, row = (np.zeros((group.count, int(group.known.max()) + 1 + more), dtype=np.int64) for _ in range(2))
    for t, (one, n) in enumerate(zip(group.said, group.known, strict=True)):
        tokens[t, :n], row[t, :n] = [*one.text.output, *one.beyond], group.known[:t].sum() + np.arange(n)
    return tokens, row


def scored_by(tokens: Integers, known: Integers, table: Tensor, row: Integers, temperature: float) -> Scored:
    """What the target's logits `table` [rows, V] say of `tokens`."""
    greedy, device = temperature < sampling.GREEDY_BELOW, table.device
    norm = torch.zeros(0, device=device) if greedy else torch.cat([(part.float() / temperature).logsumexp(dim=-1) for part in table.split(256)])
    return Scored(ship(tokens, device), ship(known, device), table, norm, ship(row, device))


def _extended(target: Target, group: Group, logits: Tensor, temperature: float) -> Scored:
    """γ - 1 tokens more of each text that neither ended by itself nor has tokens beyond, `logits` [rows, V] being those after each output token."""
    device, count, gamma, lengths, starts = target.device, group.count, group.gamma, group.known, group.prompts + group.known
    assert target.kv is not None
    tokens, row = heard(group, gamma - 1)
    alive = np.array([not one.beyond and one.text.output[-1] not in target.eos for one in group.said])
    greedy, known, all_logits, every = temperature < sampling.GREEDY_BELOW, lengths.copy(), [logits], np.arange(count)
    draws = np.stack([stream(group.seed, "beyond", group.number + t).random(gamma, np.float32) for t in range(count)])
    latest = logits[ship(row[every, lengths - 1], device)]
    for more in range(gamma - 1):
        if not alive.any():
            break
        drawn = latest.argmax(dim=-1) if greedy else sampling.draw(sampling.probabilities(latest, temperature), ship(draws[:, more], device))
        tokens[every, lengths + more] = drawn.cpu().numpy()
        known += alive
        alive &= ~np.isin(tokens[every, lengths + more], list(target.eos))
        if more == gamma - 2:
            break
        layout = lay_out(every, every * 0 + 1, int(starts.max()) + more + 1, (count, target.kv.length), None)
        latest = target.step(drawn, layout.flat(ship(layout.ints, device), ship(np.append(starts + more, 0), device))).logits
        row[every, lengths + more] = sum(map(len, all_logits)) + every
        all_logits.append(latest)
    return scored_by(tokens, known, torch.cat(all_logits), row, temperature)
