"""Low-rank adapters in one call of the compiled kernel; in torch's products without it.

Torch's products of one adapter at a time cost 10 us each however small they are, and a step has 7 linears x 30 layers x 16 adapters of
them. docs/adapters.md has what was measured.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import LoraShape, function
from headway.kernels.plans import LoraGroup, LoraPlan, LoraTiles
from headway.kernels.reference import lora as reference

_TILE = 32  # tokens that a thread takes at once: they and an adapter's part of a layer stay in a core's cache


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.lora.add_lora."""
    tiles, kernel = plan.tiles, function("add_lora", x.dtype)
    assert tiles is not None, "a plan is for the device that it was prepared for"
    if kernel is None:  # fp16, or nothing is compiled
        reference.add_lora(out, x, a, b, ranks, LoraPlan(tuple(groups_of(tiles))))
        return
    if a.stride(2) != 1 or b.stride(1) != 1:
        raise ValueError(f"a has strides {a.stride()}, b {b.stride()}; they must lie as lora_slots has them")
    if not out.shape[1] or not tiles.slots:
        return
    x = x if x.stride(1) == 1 else x.contiguous()
    shape = LoraShape(len(tiles.tiles), x.shape[1], out.shape[1], a.shape[1], x.stride(0), out.stride(0))
    where = (ranks_tensor(tuple(ranks)).data_ptr(), tiles.tokens.data_ptr(), tiles.tiles.data_ptr())
    kernel(out.data_ptr(), x.data_ptr(), a.data_ptr(), b.data_ptr(), *where, ctypes.byref(shape))


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """See headway.kernels.lora.prepare_lora."""
    order = torch.argsort(token_slots, stable=True)
    slots, counts = torch.unique_consecutive(token_slots[order], return_counts=True)
    tiles, begin = [], 0
    for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
        end = begin + count
        if slot >= 0:
            tiles += [(slot, first, min(first + _TILE, end)) for first in range(begin, end, _TILE)]
        begin = end
    table = torch.tensor(tiles, dtype=torch.int32).view(-1, 3)
    return LoraPlan((), LoraTiles(order.to(torch.int32), table, tuple(slot for slot in slots.tolist() if slot >= 0), _TILE))


def lora_slots(num_slots: int, max_rank: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """See headway.kernels.lora.lora_slots. B lies by ranks, so that whole vectors of the output are added to."""
    num_rows, num_columns = shape
    a = torch.empty(num_slots, max_rank, num_columns, dtype=dtype, device=device)
    return a, torch.empty(num_slots, max_rank, num_rows, dtype=dtype, device=device).transpose(1, 2)


def groups_of(tiles: LoraTiles) -> list[LoraGroup]:
    """As the reference takes them."""
    return [LoraGroup(slot, tiles.tokens[first:end].long()) for slot, first, end in tiles.tiles.tolist()]


@functools.lru_cache(maxsize=1024)
def ranks_tensor(ranks: tuple[int, ...]) -> Tensor:
    """[S] int32. Most layers have the same, and these change only when an adapter is loaded."""
    return torch.tensor(ranks, dtype=torch.int32)
