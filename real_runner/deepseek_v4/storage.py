"""Weights as DeepSeek-V4 stores them: fp8 with a scale for each block, fp4 with a scale for each 32 columns (format of V4, §5). They stay so in
memory and are made dense one at a time, where they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from real_runner.target import first_line
from simulator.errors import CheckpointError
from simulator.measurements.drafters.inventory import FP4_COLUMNS, V4Checkpoint

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the low three bits; the fourth is the sign
BYTES = (torch.int8, torch.uint8)


def scales(stored: Tensor) -> Tensor:
    """Powers of two, stored as the type of that name or as its raw bytes  # float32, same shape."""
    raw = stored.view(torch.uint8) if stored.dtype == torch.float8_e8m0fnu else stored
    return torch.exp2(raw.float() - 127) if raw.dtype == torch.uint8 else raw.float()


def dense(weight: Tensor, scale: Tensor | None, dtype: torch.dtype, block: tuple[int, int] = (128, 128)) -> Tensor:
    """A stored weight [out, in], or [out, in / 2] bytes of two fp4 numbers, as plain numbers  # [out, in] of `dtype`."""
    if scale is None:
        return weight.to(dtype)
    if weight.dtype in BYTES:
        pairs = weight.view(torch.uint8)
        nibbles = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(1).long()
        values, (rows, columns) = _fp4_numbers(weight.device)[nibbles], (1, FP4_COLUMNS)
    else:
        values, (rows, columns) = weight.float(), block
    spread = scales(scale).repeat_interleave(rows, 0)[: len(values)].repeat_interleave(columns, 1)[:, : values.shape[1]]
    return (values * spread).to(dtype)


@cache
def _fp4_numbers(device: torch.device) -> Tensor:
    """Of the sixteen nibbles."""
    return torch.tensor([*FP4, *(-value for value in FP4)], device=device)


class Linear(nn.Module):
    """x [..., in] -> W x [..., out], W as stored."""

    def __init__(self, out: int, into: int, block: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, into), requires_grad=False)
        self.register_buffer("scale", None)
        self.block = block

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W  # [out, in]."""
        return dense(self.weight, self.scale, dtype, self.block)

    def make_dense(self, dtype: torch.dtype) -> None:
        """Once and for all."""
        self.weight, self.scale = nn.Parameter(self.dense(dtype), requires_grad=False), None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dense(x.dtype))


def tensors_of(checkpoint: V4Checkpoint, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Those of these names, file by file. Raises CheckpointError."""
    files: dict[Path, list[str]] = {}
    for name in names:
        files.setdefault(checkpoint.tensors[name].file, []).append(name)
    for path, wanted in files.items():
        try:
            with safe_open(path, "pt") as file:
                for name in wanted:
                    yield name, file.get_tensor(checkpoint.tensors[name].stored_name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot be read: {first_line(error)}", where=path) from error


def fill(module: nn.Module, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, device: torch.device) -> None:
    """Puts `tensors` in place by name. Those of Linear stay as they are stored, others become `dtype`, or stay float32."""
    parts = dict(module.named_modules())
    for name, tensor in tensors:
        owner, _, leaf = name.rpartition(".")
        part = parts[owner]
        tensor = tensor.to(device)
        if isinstance(part, Linear):
            tensor = tensor if tensor.element_size() == 1 or leaf == "scale" else tensor.to(dtype)
        elif tensor.is_floating_point() and tensor.dtype != torch.float32:
            tensor = tensor.to(dtype)
        if leaf in part._parameters:
            setattr(part, leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            part._buffers[leaf] = tensor
