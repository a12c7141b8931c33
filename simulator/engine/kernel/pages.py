"""The prefix cache of a replica (engine/pages.py): a hash table of named blocks, and those that nobody uses as a list by their last use."""

from __future__ import annotations

import numpy as np

from simulator.engine.kernel.batch import mix
from simulator.engine.kernel.compiling import inner
from simulator.traffic.content import BLOCK_BITS


@inner
def name_of(w, request, block):
    """The name of a block of a request's content."""
    g, row = w.g[0], request.content
    if g.hashed:
        size, told = g.hashed_tokens, w.hashes[row, 1] // g.page
        if block < told:
            last = (block + 1) * g.page - 1
            return w.ids[w.hashes[row, 0] + last // size] * size + last % size
        return -(w.hashes[row, 2] << BLOCK_BITS) - block - 1
    for place in range(2):
        if w.lineages[row, 3 + place] // g.page > block:
            return (w.lineages[row, place] << BLOCK_BITS) + block
    return (w.lineages[row, 2] << BLOCK_BITS) + block


@inner
def bucket_of(w, name):
    return np.int64(mix(np.uint64(name)) & np.uint64(w.table.shape[1] - 1))


@inner
def find(w, p, name):
    """The entry of a name, else -1."""
    last = w.table.shape[1] - 1
    at = bucket_of(w, name)
    while True:
        entry = w.table[p, at] - 1
        if entry < 0 or w.cached[p, entry].name == name:
            return entry
        at = (at + 1) & last


@inner
def insert(w, p, name, parent):
    """A new entry for a name that has none, in use by one."""
    replica, last = w.replicas[p], w.table.shape[1] - 1
    entry = replica.spare
    block = w.cached[p, entry]
    replica.spare = block.newer
    block.name, block.users, block.parent, block.newer, block.older = name, 1, parent, -1, -1
    at = bucket_of(w, name)
    while w.table[p, at]:
        at = (at + 1) & last
    w.table[p, at] = entry + 1
    return entry


@inner
def forget(w, p, entry):
    """Takes an entry out of the table; those behind it in its cluster move up."""
    replica, last = w.replicas[p], w.table.shape[1] - 1
    at = bucket_of(w, w.cached[p, entry].name)
    while w.table[p, at] != entry + 1:
        at = (at + 1) & last
    w.table[p, at] = 0
    after = (at + 1) & last
    while w.table[p, after]:
        home = bucket_of(w, w.cached[p, w.table[p, after] - 1].name)
        if ((after - home) & last) >= ((after - at) & last):
            w.table[p, at] = w.table[p, after]
            w.table[p, after] = 0
            at = after
        after = (after + 1) & last
    w.cached[p, entry].newer = replica.spare
    replica.spare = entry


@inner
def keep(w, p, entry):
    """Nobody uses a block any more: it is the most recently used of those that are kept."""
    replica, block = w.replicas[p], w.cached[p, entry]
    block.older, block.newer = replica.newest, -1
    if replica.newest >= 0:
        w.cached[p, replica.newest].newer = entry
    else:
        replica.oldest = entry
    replica.newest = entry
    replica.kept += 1


@inner
def use_again(w, p, entry):
    """A kept block is in use again."""
    replica, block = w.replicas[p], w.cached[p, entry]
    if block.older >= 0:
        w.cached[p, block.older].newer = block.newer
    else:
        replica.oldest = block.newer
    if block.newer >= 0:
        w.cached[p, block.newer].older = block.older
    else:
        replica.newest = block.older
    replica.kept -= 1


@inner
def take(w, p, pages):
    """Occupies pages that fit; blocks that are kept make room."""
    g, replica = w.g[0], w.replicas[p]
    replica.used += pages
    while replica.used + replica.kept > g.capacity:
        entry = replica.oldest
        use_again(w, p, entry)
        forget(w, p, entry)


@inner
def used_blocks(g, found):
    used = max(found - g.recomputed, 0)
    return used * g.page // g.hit_unit * g.hit_unit // g.page


@inner
def named_blocks(g, tokens):
    return max(tokens - g.unnamed, 0) // g.page


@inner
def there(w, p, request):
    """Blocks at the beginning of a request's context that are there, and the entry of the last, -1 for none."""
    full, blocks, last = (request.prompt_tokens + request.emitted_tokens - 1) // w.g[0].page, 0, -1
    while blocks < full:
        entry = find(w, p, name_of(w, request, blocks))
        if entry < 0:
            break
        last = entry
        blocks += 1
    return blocks, last


@inner
def admit_pages(w, p, r, pages):
    """Occupies the pages of a request if they fit, and finds what of its context is there."""
    g, replica, request = w.g[0], w.replicas[p], w.requests[r]
    blocks, last = there(w, p, request)
    found, again = used_blocks(g, blocks), 0
    for _ in range(blocks - found):
        last = w.cached[p, last].parent
    entry = last
    for _ in range(found):
        again += w.cached[p, entry].users == 0
        entry = w.cached[p, entry].parent
    if replica.used + pages - found + again > g.capacity:
        return False
    entry = last
    for _ in range(found):
        if w.cached[p, entry].users == 0:
            use_again(w, p, entry)
        w.cached[p, entry].users += 1
        entry = w.cached[p, entry].parent
    replica.used += again
    take(w, p, pages - found)
    request.named, request.prefilled_tokens = found, found * g.page
    if request.admitted == 0:
        request.admitted, request.cached_prompt_tokens = 1, found * g.page
        if g.sessions:
            said = request.said_tokens
            request.withheld_tokens = said - used_blocks(g, named_blocks(g, max(said - 1, 0))) * g.page
    return True


@inner
def computed(w, p, r, tokens):
    """Names the whole blocks among the first tokens of a request."""
    g, replica, request = w.g[0], w.replicas[p], w.requests[r]
    full = named_blocks(g, tokens)
    if full <= request.named:
        return
    parent = find(w, p, name_of(w, request, request.named - 1)) if request.named else -1
    for block in range(request.named, full):
        name = name_of(w, request, block)
        entry = find(w, p, name)
        if entry < 0:
            entry = insert(w, p, name, parent)
        elif w.cached[p, entry].users == 0:
            use_again(w, p, entry)
            w.cached[p, entry].users = 1
        else:
            replica.used -= 1
            w.cached[p, entry].users += 1
        parent = entry
    request.named = full


@inner
def leave_pages(w, p, r):
    """A request ends or is thrown out."""
    g, replica, request = w.g[0], w.replicas[p], w.requests[r]
    if not g.caching:
        replica.used -= request.pages
        return
    replica.used -= request.pages - request.named
    entry = find(w, p, name_of(w, request, request.named - 1)) if request.named else -1
    for _ in range(request.named):
        w.cached[p, entry].users -= 1
        if w.cached[p, entry].users == 0:
            replica.used -= 1
            keep(w, p, entry)
        entry = w.cached[p, entry].parent
    request.named = 0
