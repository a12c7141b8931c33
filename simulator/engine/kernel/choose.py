"""How many drafted tokens to verify (policies/verification.py)."""

from __future__ import annotations

import math

import numpy as np

from simulator.engine.kernel.compiling import hot, inner
from simulator.engine.kernel.layout import BY_BATCH, BY_CONTEXT, BY_ROW, FEW, SCHEDULED, SMOOTHED


@hot
def known_row(slot, lag):
    return slot.row if lag == 0 else (slot.lag1 if lag == 1 else slot.lag2)


@hot
def count_keys(w, n, top):
    """The first n of `keys` counted in about as many buckets, descending; by how many bits a bucket is coarser than a key, and the buckets."""
    keys, counts, shift = w.keys, w.counts, 0
    while (top >> shift) >= 2 * n:
        shift += 1
    buckets = (top >> shift) + 1
    for b in range(buckets):
        counts[b] = 0
    for i in range(n):
        counts[(top - keys[i]) >> shift] += 1
    return shift, buckets


@hot
def rank_down(w, n, top):
    """The first n of `keys` into `ranked`, descending: dealt into as many buckets as keys, then mended by insertion."""
    keys, ranked, counts = w.keys, w.ranked, w.counts
    shift, buckets = count_keys(w, n, top)
    at = 0
    for b in range(buckets):
        held = counts[b]
        counts[b] = at
        at += held
    for i in range(n):
        key = keys[i]
        b = (top - key) >> shift
        ranked[counts[b]] = key
        counts[b] += 1
    for i in range(1, n):
        key = ranked[i]
        j = i
        while j > 0 and ranked[j - 1] < key:
            ranked[j] = ranked[j - 1]
            j -= 1
        ranked[j] = key


@hot
def kth(w, n, top, k):
    """The k-th largest of the first n `keys`, k counted from 1."""
    keys, ranked, counts = w.keys, w.ranked, w.counts
    shift, _ = count_keys(w, n, top)
    before, b = 0, 0
    while before + counts[b] < k:
        before += counts[b]
        b += 1
    kept = 0
    for i in range(n):
        key = keys[i]
        if (top - key) >> shift == b:
            j = kept
            while j > 0 and ranked[j - 1] < key:
                ranked[j] = ranked[j - 1]
                j -= 1
            ranked[j] = key
            kept += 1
    return ranked[k - before - 1]


@hot
def gather(w, p, size, lag, least):
    """Ranks of the free tokens, request after request, into `keys`; how many there are."""
    gamma, keys, slots, rank = w.g[0].gamma, w.keys, w.slots, w.rank
    n = 0
    for s in range(size):
        row = known_row(slots[p, s], lag)
        for k in range(least, gamma):
            keys[n] = rank[row, k]
            n += 1
    return n


@hot
def sorted_few(w, p, size, lag, least):
    """The survivals of the free tokens of few requests into `few`, descending; how many there are."""
    gamma, few, slots, survival = w.g[0].gamma, w.few, w.slots, w.survival
    n = 0
    for s in range(size):
        row = known_row(slots[p, s], lag)
        for k in range(least, gamma):
            a = survival[row, k]
            j = n
            while j > 0 and few[j - 1] < a:
                few[j] = few[j - 1]
                j -= 1
            few[j] = a
            n += 1
    return n


@hot
def proposals(w, p, size, lag, least):
    """How many requests proposed at least so many tokens, `lag` steps ago."""
    if not w.g[0].proposes:
        return size
    count = 0
    for s in range(size):
        count += w.proposed[known_row(w.slots[p, s], lag)] >= least
    return count


@hot
def budget(w, p, size, at, saved_s):
    """How many tokens beyond the least to admit: Θ's first fall, or its global maximum, along the ranked survivals."""
    g, price, value, ranked, few = w.g[0], w.believed, w.value, w.ranked, w.few
    least, lag, top = g.least, g.lag, len(w.value) - 1
    committed = float(size)
    if least:
        sure = 0.0
        for s in range(size):
            sure += w.survival[known_row(w.slots[p, s], lag), 0]
        committed = size + sure
    n = size * (g.gamma - least)
    if n <= FEW:
        sorted_few(w, p, size, lag, least)
    else:
        gather(w, p, size, lag, least)
        rank_down(w, n, top)
    at += 1 + (proposals(w, p, size, lag, 1) if least else 0)
    best, admitted, total = committed / (price[at] - saved_s), 0, 0.0
    for k in range(n):
        survival = few[k] if n <= FEW else value[ranked[k]]
        if survival <= 0:
            break
        total += survival
        gain = (total + committed) / (price[at + 1 + k] - saved_s)
        if gain > best:
            best, admitted = gain, k + 1
        elif g.stop_early:
            break
    return admitted


@hot
def admit_few(w, p, size, admitted, least):
    """_admit_tokens for few tokens, by the survivals themselves."""
    gamma, slots, survival = w.g[0].gamma, w.slots, w.survival
    sorted_few(w, p, size, 0, least)
    worst = w.few[admitted - 1]
    taken = 0
    for s in range(size):
        length = least
        row = slots[p, s].row
        for k in range(least, gamma):
            length += survival[row, k] >= worst if worst > 0 else survival[row, k] > 0
        slots[p, s].length = length
        taken += length - least
    surplus = taken - admitted
    if surplus > 0:
        taken = admitted
        for k in range(gamma - 1, least - 1, -1):
            for s in range(size - 1, -1, -1):
                if surplus > 0 and survival[slots[p, s].row, k] == worst:
                    slots[p, s].length -= 1
                    surplus -= 1
    return taken + size * least


@hot
def admit_tokens(w, p, size, admitted, least):
    """Lengths when the `admitted` likeliest present tokens beyond the first `least` are taken; the tokens verified."""
    g, slots, rank, value = w.g[0], w.slots, w.rank, w.value
    gamma = g.gamma
    n = size * (gamma - least)
    if admitted <= 0 or n == 0:
        for s in range(size):
            slots[p, s].length = least
        return size * least
    admitted = min(admitted, n)
    if n <= FEW:
        return admit_few(w, p, size, admitted, least)
    gather(w, p, size, 0, least)
    worst = kth(w, n, len(value) - 1, admitted)
    limit = worst if value[worst] > 0 else worst + 1  # what cannot be accepted is not verified
    taken, at, keys = 0, 0, w.keys
    for s in range(size):
        length = 0
        for _ in range(least, gamma):
            length += keys[at] >= limit
            at += 1
        slots[p, s].length = length + least
        taken += length
    surplus = taken - admitted
    if surplus > 0:
        left = surplus
        for k in range(gamma - 1, least - 1, -1):
            for s in range(size - 1, -1, -1):
                if rank[slots[p, s].row, k] == worst:
                    slots[p, s].length -= 1
                    left -= 1
                    if not left:
                        break
            if not left:
                break
        taken = admitted
    return taken + size * least


@inner
def uniform_length(w, p, size, at, saved_s):
    """The one length that maximises the objective on mean survivals."""
    g = w.g[0]
    best, length, committed, verified = -np.inf, 0, 0.0, 0
    for k in range(g.gamma + 1):
        if k:
            total = 0.0
            for s in range(size):
                total += w.survival[known_row(w.slots[p, s], g.lag), k - 1]
            mean = total / size
            committed = mean if k == 1 else committed + mean
            verified += proposals(w, p, size, g.lag, k)
        gain = (1.0 + committed if k else 1.0) / (w.believed[at + 1 + verified] - saved_s)
        if k >= g.least and (gain > best or k == g.least):
            best, length = gain, k
    return length


@inner
def sink(heap, at, n):
    """The first n of `heap` with no number above its parent, if only the one at `at` is out of place."""
    value = heap[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@inner
def smoothed_budget(w, p, size, at, saved_s):
    """How many tokens to admit: Θ's global maximum along the survivals of the running means."""
    gamma, heap, price = w.g[0].gamma, w.heap, w.believed
    n = 0
    for s in range(size):
        survival = 1.0
        for k in range(gamma):
            mean = w.means[p, s, k]
            survival *= 1.0 if mean < 0 else mean
            heap[n] = survival
            n += 1
    for i in range(n // 2 - 1, -1, -1):
        sink(heap, i, n)
    committed, total, admitted = float(size), 0.0, 0
    best = committed / (price[at + 1] - saved_s)
    for k in range(n):
        if heap[0] <= 0:
            break
        total += heap[0]
        gain = (total + committed) / (price[at + 2 + k] - saved_s)
        if gain > best:
            best, admitted = gain, k + 1
        heap[0] = heap[n - 1 - k]
        sink(heap, 0, n - 1 - k)
    return admitted


@inner
def by_context(w, size, context):
    """The length of a batch by its size and where its rounded context (by its key) falls among the ends of ranges, which come first in the table."""
    ranges, tokens, c = w.g[0].contexts, 0.0, 0
    if context:
        tokens = math.ldexp(float((context - 1) % 129 + 128), (context - 1) // 129 - 8)
    while c < ranges - 1 and w.by_row[c] < tokens:
        c += 1
    return w.by_row[ranges + size * ranges + c]


@hot
def keep_proposed(w, p, size, verified):
    """Lengths cut to what is proposed; the tokens verified of `verified` ones."""
    for s in range(size):
        slot = w.slots[p, s]
        beyond = slot.length - w.proposed[slot.row]
        if beyond > 0:
            slot.length -= beyond
            verified -= beyond
    return verified


@hot
def choose_lengths(w, p, size, at, saved_s, context):
    """Lengths into the slots; the tokens verified. `at`: where the prices begin that the policy believes in, each `saved_s` too high; `context`:
    the key of the batch's."""
    g, slots = w.g[0], w.slots
    rule = g.rule
    if rule == SCHEDULED:
        return admit_tokens(w, p, size, budget(w, p, size, at, saved_s), g.least)
    if rule == SMOOTHED:
        return admit_tokens(w, p, size, smoothed_budget(w, p, size, at, saved_s), 0)
    if rule == BY_ROW:
        verified = 0
        for s in range(size):
            length = w.by_row[slots[p, s].row]
            slots[p, s].length = length
            verified += length
        return verified
    if rule == BY_CONTEXT:
        length = by_context(w, size, context)
    else:
        length = w.by_row[size] if rule == BY_BATCH else uniform_length(w, p, size, at, saved_s)
    for s in range(size):
        slots[p, s].length = length
    return length * size
