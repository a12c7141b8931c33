"""Operators by their sizes alone, for what the package does not know: the parts of a drafter. Sizes are those of one GPU of the replica."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gemm:
    """`inputs` numbers of each token to `outputs` of them, bfloat16 weights, `count` times."""

    name: str
    inputs: int
    outputs: int
    count: int = 1


@dataclass(frozen=True)
class Attention:
    """Attention of one query per request to its context, in `count` layers."""

    name: str
    heads: int
    kv_heads: int
    head_size: int
    count: int = 1


@dataclass(frozen=True)
class Streamed:
    """An elementwise kernel: numbers of two bytes read and written for each token, `count` times."""

    name: str
    read: int
    written: int
    count: int = 1


@dataclass(frozen=True)
class AllReduce:
    """A sum over the GPUs of `width` numbers for each token, `count` times."""

    name: str
    width: int
    count: int = 1


@dataclass(frozen=True)
class AllGather:
    """Every GPU has the `width` numbers of each token in parts, and gets all of them."""

    name: str
    width: int


Shape = Gemm | Attention | Streamed | AllReduce | AllGather


@dataclass(frozen=True)
class Sizes:
    """Sizes of a target, whole: what its drafter's follow from. `alike`: all its layers have plain attention of these sizes."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    alike: bool
