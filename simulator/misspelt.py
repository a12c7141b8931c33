"""The word that is meant by one that is not valid: keys of a file at every depth, words of a union, and what others call them."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

_LONGEST = 100  # characters of a word that are looked at

Foreign = Mapping[str, frozenset[str]]  # other kinds of file, and their dotted keys

# keys by what others call them: engines, load generators and everyday speech
_ALSO_CALLED = {
    "length": "num_speculative_tokens speculative_tokens num_draft_tokens draft_tokens spec_tokens gamma k",
    "max_batch": "max_num_seqs max_running_requests batch_size max_batch_size batch max_num_requests",
    "token_budget": "max_num_batched_tokens chunked_prefill_size chunk_size prefill_chunk_size",
    "page_tokens": "block_size page_size",
    "kv_tokens": "kv_cache_tokens kv_cache_size max_total_tokens kv_cache",
    "graph_sizes": "cuda_graph_sizes cuda_graph_bs cudagraph_capture_sizes",
    "load": "rate rps qps request_rate rate_rps concurrency users concurrencies max_concurrency num_users",
    "load_rps": "rate rps qps request_rate rate_rps",
    "window_s": "duration_s duration",
    "requests": "num_prompts num_requests n_requests count",
    "num_warmups": "warmup_requests warmups num_warmup",
    "client": "backend",
    "random_input_len": "random_input",
    "random_output_len": "random_output",
    "replications": "reps rep repeats repetitions runs seeds n",
    "seed": "random_seed rng_seed",
    "prompt_tokens": "input_tokens input_length input_len isl prompt_length prompt_len prompts",
    "output_tokens": "completion_tokens output_length output_len osl answer_tokens outputs max_new_tokens",
    "think_s": "think_time pause pause_s",
    "profile": "model",
    "profiles": "model models",
    "replicas": "gpus instances servers num_replicas",
    "max_replicas": "gpus instances servers num_replicas max_gpus",
    "sla": "slo slos targets",
    "price": "cost costs",
    "verification": "rule strategy",
    "drafter": "draft draft_model speculator",
    "workload": "traffic dataset",
    "question": "title description",
    "routing": "router load_balancer",
    "admission": "scheduler scheduling",
    "mean_tokens": "mean",
    "p50_tokens": "median median_tokens p50",
    "cv": "std stddev sigma",
    "speed": "tpot tpot_ms itl itl_ms time_per_output_token",
    "tps": "tps_per_user speed tokens_per_second tpot tpot_ms itl itl_ms",
    "seconds": "ttft_s ttft max_s",
}


def nearest(word: str, valid: Sequence[str], what: str) -> str:
    """The remedy for an unknown word: the nearest valid one, else all of them."""
    near = max(valid, key=lambda other: likeness(word, other), default="")
    return f"did you mean '{near}'?" if likeness(word, near) >= 0.6 else f"{what}: {', '.join(valid) or 'see docs/'}"


def likeness(word: str, other: str, short: bool = True) -> float:
    """1 for the same word but for case, hyphens and spaces; less for a misspelling, and if `short` for a beginning or an abbreviation."""
    a, b = _plain(word[:_LONGEST]), _plain(other)
    if a == b or len(a) < 2:
        return float(a == b)
    letters = iter(b)
    abbreviated = a[0] == b[:1] and a[-1] == b[-1] and all(letter in letters for letter in a)
    begins = short and len(a) > 2 and (b.startswith(a) or b.endswith(f"_{a}") or abbreviated)
    return max(difflib.SequenceMatcher(None, a, b).ratio(), 0.8 if begins else 0.0)


def _plain(word: str) -> str:
    return re.sub(r"[-\s.]+", "_", word.strip().lower()).strip("_")


class Place(NamedTuple):
    """Where a key may stand: its path (N: any entry of a list, NAME: any name), and the kind that has it where kinds differ."""

    path: tuple[str, ...]
    kind: str | None

    @property
    def keys(self) -> tuple[str, ...]:
        """The path without entries and names."""
        return tuple(part for part in self.path if part not in ("N", "NAME"))


def places(model: type[BaseModel], path: tuple[str, ...] = (), above: tuple[type[BaseModel], ...] = ()) -> Iterator[Place]:
    """Every key of a file, at every depth."""
    kind = str(model.model_fields["kind"].default) if "kind" in model.model_fields else None
    for name, field in model.model_fields.items():
        if name != "kind":
            yield Place((*path, name), kind)
            for between, inner in _inner(field.annotation):
                if inner not in above:
                    yield from places(inner, (*path, name, *between), (*above, model))


def _inner(annotation: Any) -> list[tuple[tuple[str, ...], type[BaseModel]]]:
    """The models in an annotation, and what stands between its key and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [((), annotation)]
    between = {list: ("N",), tuple: ("N",), dict: ("NAME",)}.get(typing.get_origin(annotation), ())
    return [((*between, *more), model) for part in typing.get_args(annotation) for more, model in _inner(part)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """All the models that an annotation may hold."""
    return [model for _, model in _inner(annotation)]


def key_remedy(location: Sequence[str], kind: str | None, root: type[BaseModel], here: Sequence[str], foreign: Foreign) -> str:
    """What to do about the unknown key at `location` of a file read as `root`, where the keys `here` are valid, in a mapping of `kind`: its
    right name, place or kind, or the kind of file that has it."""
    *parents, word = location
    known = [(place, _written(place.path, location)) for place in places(root)]
    beside = [place for place, written in known if written.split(".")[:-1] == parents]
    others = [place.kind for place in beside if place.path[-1] == word and place.kind]
    if others and kind:
        return f"it goes with kind {' or '.join(others)}, not {kind}"
    meant = [word, *(name for name, others in _ALSO_CALLED.items() if _plain(word) in others.split())]

    def fits(name: str, short: bool = True) -> float:
        return max(likeness(word, name, short), *(0.9 * (name == other) for other in meant))

    best = max(here, key=fits, default="")
    far, written = max(known, key=lambda one: (fits(one[0].path[-1], short=False), one[0].path[0] == location[0], -len(one[0].path)))
    like, far_like = fits(best), fits(far.path[-1], short=False)
    suggestion = f"did you mean '{best}'?" if like >= 0.65 else ""
    elsewhere = next((name for name, keys in foreign.items() if ".".join(part for part in location if not part.isdigit()) in keys), None)
    if elsewhere and like < 0.95:
        return f"it is a key of {elsewhere}" + (f"; {suggestion}" if suggestion else "")
    if far_like >= 0.78 and (not suggestion or like < far_like - 0.1 or like < far_like == 1):
        suggestion = f"did you mean '{written}'?"
    return suggestion or f"{f'keys of kind {kind}' if kind else 'valid keys'}: {', '.join(sorted(here))}"


def _written(path: Sequence[str], location: Sequence[str]) -> str:
    """A place as a user writes it, in the entries that `location` lies in as far as both go the same way."""
    out: list[str] = []
    for at, part in enumerate(path):
        same = list(location[:at]) == out and at < len(location)
        out.append((location[at] if same else "0" if part == "N" else part) if part in ("N", "NAME") else part)
    return ".".join(out)
