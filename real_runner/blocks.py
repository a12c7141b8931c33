"""Acceptance measured as recorded blocks: a drafter run at every position of texts the target generated, coupled to them (spec/recorded_blocks.md).

Each anchor of a chunk is a slot of the draft cache that holds a copy of its text's context, and the drafter's own code of a decoding round runs over
those slots: what the rows say is what an engine would see, and no block's keys reach another's context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from real_runner import sampling
from real_runner.drafters.drafter import DraftBatch, Drafter, draft
from real_runner.failures import memory_of
from real_runner.layout import lay_out, ship
from real_runner.target import Target
from real_runner.texts import Text
from simulator.arrays import Integers
from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.progress import Progress
from simulator.rng import stream

TOKENS_AT_ONCE = 2048  # texts × longest, through the target in one step
LEAST, MOST = float(np.finfo(np.float32).tiny), float(np.nextafter(np.float32(1), np.float32(0)))  # a confidence is never quite 0 or 1


@dataclass(slots=True)
class Drafted:
    """Blocks at A anchors, one after the other along the texts."""

    tokens: Tensor  # [A, γ]
    confidence: Tensor | None  # [A, γ] logits
    accepted: Tensor  # [A]
    acceptance: Tensor  # [A, γ], q_k as far as the draw went, NaN after


@dataclass(slots=True)
class _Scored:
    """T texts as the target sees them, with γ - 1 tokens more. `tokens` [T, W] outputs; of text t the first `known[t]` can be committed;
    `logits` [rows, V] with row `row[t, j]` for what follows token j, and `norm` [rows] their logsumexp at a temperature above 0."""

    tokens: Tensor
    known: Tensor
    logits: Tensor
    norm: Tensor
    row: Tensor


def record_blocks(
    target: Target, drafter: Drafter, name: str, texts: Sequence[Text], *, temperature: float, seed: int, progress: Progress,
    rows_at_once: int = 128,
) -> RecordedBlocks:  # fmt: skip
    """One row for every output token of `texts` but the last. They must be samples of the target at `temperature`. Texts of one token have no row.

    Blocks at the end of a text reach beyond it. Where the text stopped at its length limit, the target says γ - 1 tokens more that are never an
    anchor: an engine that stops there would have verified just those. Where it ended by itself, nothing after the end is accepted: q = 0.
    """
    texts = _served(target, texts)
    length = np.array([len(text.output) - 1 for text in texts])
    parts = []
    with progress.stage(f"blocks of {name}", float(length.sum())) as stage:
        for part in drafted_along(target, drafter, texts, temperature=temperature, seed=seed, rows_at_once=rows_at_once):
            parts.append(part)
            stage.advance(len(part.accepted))
    domains = tuple(dict.fromkeys(text.domain for text in texts))
    confidence = None
    if parts[0].confidence is not None:
        logits = torch.cat([part.confidence for part in parts if part.confidence is not None])
        confidence = torch.sigmoid(logits.double()).float().clamp(LEAST, MOST).double().numpy()
    return RecordedBlocks(
        drafter=name, gamma=drafter.gamma, temperature=temperature, provenance="measured",
        source=f"blocks along {len(texts)} texts of {Path(target.name).name} ({str(target.dtype).removeprefix('torch.')})",
        domains=domains, sequence_domain=np.array([domains.index(text.domain) for text in texts]),
        first_row=np.cumsum(length) - length, length=length, accepted=torch.cat([part.accepted for part in parts]).numpy(),
        confidence=confidence, acceptance=torch.cat([part.acceptance for part in parts]).double().numpy(),
    )  # fmt: skip


def _served(target: Target, texts: Sequence[Text]) -> list[Text]:
    """Texts as far as serving would have taken them, to their first end, where they have an anchor."""
    ends = ((at + 1 for at, token in enumerate(text.output) if token in target.eos) for text in texts)
    texts = [replace(text, output=text.output[: next(end, None)]) for text, end in zip(texts, ends, strict=True)]
    texts = [text for text in texts if text.prompt and len(text.output) > 1]
    if not texts:
        raise DsimError("expected a text of at least two tokens after a prompt", key="texts", remedy="let the target generate more tokens")
    if (highest := max(max(*text.prompt, *text.output) for text in texts)) >= target.vocabulary:
        raise DsimError(f"token {highest}, but the target has {target.vocabulary}", key="texts", remedy="give texts of this target")
    return texts


@torch.no_grad()
def drafted_along(
    target: Target, drafter: Drafter, texts: Sequence[Text], *, temperature: float, seed: int, rows_at_once: int = 128
) -> Iterator[Drafted]:
    """Blocks at every anchor, `rows_at_once` at a time at most. The random draws of an anchor depend on seed, text and anchor alone."""
    target.tap(drafter.taps)
    at = 0
    while at < len(texts):
        longest = np.maximum.accumulate([len(text.prompt) + len(text.output) for text in texts[at : at + TOKENS_AT_ONCE]])
        end = at + max(1, int((longest * np.arange(1, len(longest) + 1) <= TOKENS_AT_ONCE).sum()))
        yield from _group(target, drafter, texts[at:end], at, temperature, seed, rows_at_once)
        at = end


def _group(
    target: Target, drafter: Drafter, texts: Sequence[Text], number: int, temperature: float, seed: int, rows_at_once: int
) -> Iterator[Drafted]:
    """The blocks of a few texts; `number` is the first one's place among all."""
    prompts, outputs = (np.array([len(ids) for ids in column]) for column in ([t.prompt for t in texts], [t.output for t in texts]))
    room = int((prompts + outputs).max()) + drafter.gamma + drafter.spec.block + 1
    count, rows = len(texts), min(rows_at_once, int((outputs - 1).sum()))
    with memory_of(f"{count} texts and {rows} blocks of up to {room} tokens"):
        target.allocate(count, room)
        drafter.allocate(count + rows, room)
        scored, seeds, firsts = _hear(target, drafter, texts, number, temperature, seed, count + rows)
        text_of = np.repeat(np.arange(count), outputs - 1)
        anchor = np.concatenate([np.arange(n - 1) for n in outputs])
        draws = np.concatenate([stream(seed, "blocks", number + t).random((n - 1, drafter.gamma, 2), np.float32) for t, n in enumerate(outputs)])
        for at in range(0, len(anchor), rows):
            part = slice(at, at + rows)
            coupling = _Coupling(scored, ship(text_of[part], target.device), ship(anchor[part], target.device), temperature,
                                 ship(draws[part], target.device), drafter.d2t)  # fmt: skip
            start = prompts[text_of[part]] + anchor[part]
            tokens, confidence = _draft(drafter, coupling, start, count, seeds, firsts)
            yield Drafted(tokens.cpu(), None if confidence is None else confidence.cpu(), coupling.accepted.cpu(), coupling.acceptance.cpu())


def _hear(
    target: Target, drafter: Drafter, texts: Sequence[Text], number: int, temperature: float, seed: int, slots: int
) -> tuple[_Scored, Tensor | None, Tensor]:
    """The target over whole texts, the context from it in the drafter's cache of `slots`, a chain's seeds after each token, and where each
    text's begin."""
    device, count = target.device, len(texts)
    assert target.kv is not None
    ids = [[*text.prompt, *text.output] for text in texts]
    counts, prompts = np.array([len(one) for one in ids]), np.array([len(text.prompt) for text in texts])
    layout = lay_out(np.arange(count), counts, int(counts.max()), (count, target.kv.length), None)
    ints, start = ship(layout.ints, device), torch.zeros(count + 1, dtype=torch.long, device=device)
    flat_ids = ship(np.concatenate(ids), device)
    outputs = np.concatenate([np.arange(first + p, first + n) for first, p, n in zip(layout.firsts, prompts, counts, strict=True)])
    step = target.step(flat_ids, layout.flat(ints, start), ship(outputs, device))
    scored = _extended(target, texts, step.logits, number, drafter.gamma, temperature, seed)
    following = torch.cat([flat_ids[1:], flat_ids[:1]])  # what follows a text's last token is never read
    return scored, drafter.extend(step.features, following, ints, layout, start.new_zeros(slots + 1)), ship(layout.firsts, device)


def _extended(target: Target, texts: Sequence[Text], logits: Tensor, number: int, gamma: int, temperature: float, seed: int) -> _Scored:
    """γ - 1 tokens more of each text that did not end by itself, `logits` [rows, V] being those after each output token."""
    device, count = target.device, len(texts)
    assert target.kv is not None
    lengths, starts = np.array([len(text.output) for text in texts]), np.array([len(text.prompt) + len(text.output) for text in texts])
    tokens, row = (np.zeros((count, int(lengths.max()) + gamma), dtype=np.int64) for _ in range(2))
    for t, text in enumerate(texts):
        tokens[t, : lengths[t]], row[t, : lengths[t]] = text.output, lengths[:t].sum() + np.arange(lengths[t])
    alive = np.array([text.output[-1] not in target.eos for text in texts])
    greedy, known, all_logits, every = temperature < sampling.GREEDY_BELOW, lengths.copy(), [logits], np.arange(count)
    draws = np.stack([stream(seed, "beyond", number + t).random(gamma, np.float32) for t in range(count)])
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
    table = torch.cat(all_logits)
    norm = torch.zeros(0, device=device) if greedy else torch.cat([(part.float() / temperature).logsumexp(dim=-1) for part in table.split(256)])
    return _Scored(ship(tokens, device), ship(known, device), table, norm, ship(row, device))


def _draft(drafter: Drafter, coupling: _Coupling, start: Integers, first: int, seeds: Tensor | None, firsts: Tensor) -> tuple[Tensor, Tensor | None]:
    """Blocks from the anchors of `coupling`, at positions `start` [C], in the cache's slots from `first` on  # [C, γ] each."""
    device, slots, kv, reach = coupling.text.device, first + np.arange(len(start)), drafter.kv, int(start.max())
    assert kv is not None
    layout = drafter.lay_out(slots, reach, cache=(kv.slots, kv.length), tiers=None)
    for cached in (tensor for pair in kv._layers.values() for tensor in pair):  # the context of each anchor's text
        cached[slots[0] : slots[-1] + 1, :, :reach] = cached[coupling.text, :, :reach]
    begin = np.zeros(kv.slots + 1, dtype=np.int64)
    begin[slots] = start
    where, starts = ship(slots, device), ship(begin, device)
    anchors = torch.zeros_like(starts).index_copy_(0, where, coupling.scored.tokens[coupling.text, coupling.anchor])
    if seeds is not None:
        drafter.seeds[where] = seeds[firsts[coupling.text] + starts[where] - 1]
    batch = DraftBatch(ship(layout.ints, device), layout, where, starts, anchors)
    return draft(drafter.steps(drafter.begin(batch), batch, drafter.gamma), coupling.draw)


def acceptance(target: Tensor, draft: Tensor) -> Tensor:
    """P(the drafted token is accepted | the committed one), given the committed one's probability under target and draft: min(1, d / p)  # [...]."""
    return (draft / target.clamp(min=LEAST)).clamp(max=1.0)


class _Coupling:
    """The draw of spec §2 for C anchors, slot by slot: the drafted token given the text, and whether it is accepted."""

    def __init__(self, scored: _Scored, text: Tensor, anchor: Tensor, temperature: float, draws: Tensor, d2t: Tensor | None) -> None:
        """Anchors [C] of the texts numbered `text` [C]; `draws` [C, γ, 2] uniform: acceptance, and the token where it is drawn."""
        self.scored, self.text, self.anchor, self.temperature, self.draws, self.d2t = scored, text, anchor, temperature, draws, d2t
        self.live = torch.ones_like(text, dtype=torch.bool)  # [C] all accepted so far
        self.accepted = torch.zeros_like(text)
        self.acceptance = torch.full(draws.shape[:2], float("nan"), device=text.device)
        if d2t is not None:
            self._place = torch.full((scored.logits.shape[1],), -1, device=d2t.device).index_copy_(0, d2t, torch.arange(len(d2t), device=d2t.device))

    def draw(self, logits: Tensor, slot: int) -> Tensor:
        """Tokens [C] of the next slot, numbered `slot`, from draft logits [C, draft V]."""
        at = self.anchor + slot + 1
        committed, row = self.scored.tokens[self.text, at], self.scored.row[self.text, at - 1]
        open_ = self.live & (at < self.scored.known[self.text])
        if self.temperature < sampling.GREEDY_BELOW:
            best = logits.argmax(dim=-1)
            tokens = best if self.d2t is None else self.d2t[best]
            chance = (tokens == committed).float()
            taken = open_ & (tokens == committed)
        else:
            law = sampling.probabilities(logits, self.temperature)
            place = committed if self.d2t is None else self._place[committed]
            drafted = torch.where(place < 0, 0.0, law.gather(1, place.clamp(min=0).unsqueeze(1)).squeeze(1))
            wanted = (self.scored.logits[row, committed].float() / self.temperature - self.scored.norm[row]).exp()
            chance = acceptance(wanted, drafted)
            taken = open_ & (self.draws[:, slot, 0] < chance)
            tokens = torch.where(taken, committed, self._drawn(law, row, open_ & ~taken, self.draws[:, slot, 1]))
        self.acceptance[:, slot] = torch.where(self.live, torch.where(open_, chance, 0.0), float("nan"))
        self.accepted += taken
        self.live = taken
        return tokens

    def _drawn(self, law: Tensor, row: Tensor, rejected: Tensor, draws: Tensor) -> Tensor:
        """From the draft `law` [C, draft V], or what is left of it beyond the target's law where the draft is `rejected` [C]  # [C]."""
        weights = law.clone()
        at = rejected.nonzero().squeeze(1)
        if len(at):
            logits = self.scored.logits[row[at]]
            logits = logits if self.d2t is None else logits[:, self.d2t]
            p = (logits.float() / self.temperature - self.scored.norm[row[at]].unsqueeze(1)).exp()
            weights[at] = sampling.residual(law[at], p)
        drawn = sampling.draw(weights, draws)
        return drawn if self.d2t is None else self.d2t[drawn]
