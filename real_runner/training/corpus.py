"""What drafters are trained on: token ids of the target's own texts with its hidden states, kept on disk and read through a memory map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real_runner.failures import memory_of
from real_runner.layout import lay_out, ship
from real_runner.target import Target
from real_runner.texts import Text
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.made import check_made
from simulator.measurements.drafters.spec import POST_NORM
from simulator.progress import Progress
from simulator.reading.json_files import read_json

TOKENS_AT_ONCE = 4096
MEMORY = {torch.bfloat16: np.dtype(np.int16), torch.float32: np.dtype(np.float32)}  # numpy has no bfloat16: its bits are kept


@dataclass(frozen=True, slots=True)
class Piece:
    """One text: ids [L], of which the first `prompt` were given; features [L, m·d] of the taps and `last` [L, d] after the final norm."""

    ids: Tensor
    prompt: int
    features: Tensor
    last: Tensor
    normaliser: Tensor  # [L] logsumexp of the target's logits


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts one after the other in `folder`: ids.npy, prompts.npy, starts.npy, features.bin (taps, then the final norm), normalisers.bin."""

    folder: Path
    taps: tuple[int, ...]
    hidden: int
    dtype: torch.dtype
    ids: NDArray[np.int64]  # [tokens]
    starts: NDArray[np.int64]  # [texts + 1]
    prompts: NDArray[np.int64]  # [texts] given tokens
    _states: NDArray[np.generic]  # [tokens, (taps + 1) × hidden]
    _normalisers: NDArray[np.float32]  # [tokens]

    def __len__(self) -> int:
        return len(self.prompts)

    def piece(self, text: int) -> Piece:
        """The text numbered `text`."""
        at, end = int(self.starts[text]), int(self.starts[text + 1])
        states = torch.from_numpy(np.array(self._states[at:end])).view(self.dtype)
        width = len(self.taps) * self.hidden
        ids = torch.from_numpy(np.array(self.ids[at:end]))
        return Piece(ids, int(self.prompts[text]), states[:, :width], states[:, width:], torch.from_numpy(np.array(self._normalisers[at:end])))

    def frequent(self, count: int) -> Tensor:
        """The `count` most frequent ids among the generated tokens, ascending: a draft vocabulary  # [count]."""
        made = np.concatenate([self.ids[a + p : b] for a, b, p in zip(self.starts, self.starts[1:], self.prompts, strict=False)])
        ids, counts = np.unique(np.concatenate([made, self.ids]), return_counts=True)
        own = np.bincount(made, minlength=int(ids.max()) + 1)[ids]
        order = np.lexsort((-counts, -own))
        chosen = ids[order[:count]]
        rest = np.setdiff1d(np.arange(count + len(chosen)), chosen)[: max(0, count - len(chosen))]  # texts with fewer ids than that
        return torch.from_numpy(np.sort(np.concatenate([chosen, rest])))


def build_corpus(target: Target, taps: Sequence[int], texts: Sequence[Text], folder: Path, progress: Progress) -> Corpus:
    """Runs every text through the target once; goes on after an interruption where whole texts are on disk.

    Needs (taps + 1) × hidden × bytes of the target's dtype per token of disk. Raises DsimError where the folder holds another corpus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(t.prompt) + len(t.output) for t in texts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([np.array([*t.prompt, *t.output], dtype=np.int64) for t in texts])
    about = {"target": target.name, "taps": list(taps), "hidden": target.hidden, "dtype": str(target.dtype), "texts": len(texts),
             "tokens": int(starts[-1]), "ids": int(np.bitwise_xor.reduce(ids * (np.arange(len(ids)) + 1)))}  # fmt: skip
    described = folder / "corpus.json"
    if described.exists() and read_json(described) != about:
        raise DsimError("holds features of other texts or another target", where=folder, remedy="give another folder, or remove it")
    if not described.exists():
        check_made(folder, ("ids.npy", "starts.npy", "prompts.npy", "features.bin", "normalisers.bin"), remedy="give another folder, or move it away")
    write_whole(described, json.dumps(about))
    for name, array in (("ids", ids), ("starts", starts), ("prompts", np.array([len(t.prompt) for t in texts]))):
        np.save(folder / f"{name}.npy", array)
    _extract(target, tuple(taps), ids, starts, folder, progress)
    return open_corpus(folder, target)


def open_corpus(folder: Path, target: Target) -> Corpus:
    """A finished corpus."""
    about = read_json(folder / "corpus.json")
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "starts", "prompts")]
    width = (len(about["taps"]) + 1) * target.hidden
    states = np.memmap(folder / "features.bin", MEMORY[target.dtype], "r", shape=(about["tokens"], width))
    normalisers = np.memmap(folder / "normalisers.bin", np.float32, "r", shape=(about["tokens"],))
    return Corpus(folder, tuple(about["taps"]), target.hidden, target.dtype, *arrays, states, normalisers)


def _extract(target: Target, taps: tuple[int, ...], ids: NDArray[np.int64], starts: NDArray[np.int64], folder: Path, progress: Progress) -> None:
    """Appends states and normalisers, a group of texts at a time; the shorter of the two files says how far a run before came."""
    width = (len(taps) + 1) * target.hidden
    kind = MEMORY[target.dtype]
    files = [(folder / "features.bin", width * kind.itemsize), (folder / "normalisers.bin", 4)]
    there = min(path.stat().st_size // size if path.exists() else 0 for path, size in files)
    first = int(np.searchsorted(starts, there, side="right")) - 1
    target.tap((*taps, POST_NORM))
    with ExitStack() as closing, progress.stage("features", float(starts[-1]), float(starts[first])) as stage:
        try:
            opened = [closing.enter_context(path.open("r+b" if path.exists() else "w+b")) for path, _ in files]
            for file, (_, size) in zip(opened, files, strict=True):
                file.truncate(int(starts[first]) * size)
                file.seek(0, 2)
            while first < len(starts) - 1:
                last = max(first + 1, int(np.searchsorted(starts, starts[first] + TOKENS_AT_ONCE, side="right")) - 1)
                counts = np.diff(starts[first : last + 1])
                slots, length = len(counts), int(counts.max())
                target.allocate(slots, length)
                layout = lay_out(np.arange(slots), counts, length, (slots, length), None)
                start = torch.zeros(slots + 1, dtype=torch.long, device=target.device)
                view = torch.int16 if target.dtype == torch.bfloat16 else torch.float32
                with memory_of(f"features of {counts.sum()} tokens", target.name, "use shorter texts or a smaller dtype"):
                    step = target.step(ship(ids[starts[first] : starts[last]], target.device), layout.flat(ship(layout.ints, target.device), start))
                    states, normalisers = step.features.contiguous().view(view).cpu(), step.logits.float().logsumexp(dim=-1).cpu()
                opened[0].write(states.numpy().tobytes())
                opened[1].write(normalisers.numpy().tobytes())
                for file in opened:
                    file.flush()
                stage.advance(float(starts[last] - starts[first]))
                first = last
        except OSError as problem:
            raise DsimError(f"cannot write ({problem.strerror})", where=folder, remedy="free space; finished work is kept") from problem
