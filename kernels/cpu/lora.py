"""Low-rank adapters in one call of the compiled kernel, for adapters that a few tokens have; in torch's products for the others.

Torch's products of one adapter at a time cost 10 us each however small they are, and a step has 7 linears x 30 layers x 16 adapters of
them. docs/adapters.md has what was measured.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.cpu.native.library import LoraShape, function
from headway.kernels.plans import LoraGroup, LoraPlan, LoraTiles
from headway.kernels.reference import lora as reference

_FEW = 32  # tokens of an adapter: torch's product reads A and B once for all of them, the kernel once for four


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.lora.add_lora."""
    kernel = function("add_lora", x.dtype, a.dtype)
    if kernel is None:  # fp16, or nothing is compiled: prepare_lora knows of neither
        reference.add_lora(out, x, a, b, ranks, LoraPlan(plan.groups + _groups(plan.tiles)))
        return
    for group in plan.groups:
        _add_product(out, x, a[group.slot], b[group.slot], ranks[group.slot], group.tokens)
    if a.stride(2) != 1 or b.stride(1) != 1:
        raise ValueError(f"a has strides {a.stride()}, b {b.stride()}; they must lie as lora_slots has them")
    if plan.tiles is not None and out.shape[1]:
        x = x if x.stride(1) == 1 else x.contiguous()
        shape = LoraShape(len(plan.tiles.tiles), x.shape[1], out.shape[1], a.shape[1], x.stride(0), out.stride(0))
        where = (_ranks(tuple(ranks)).data_ptr(), plan.tiles.tokens.data_ptr(), plan.tiles.tiles.data_ptr())
        kernel(out.data_ptr(), x.data_ptr(), a.data_ptr(), b.data_ptr(), *where, ctypes.byref(shape))


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """See headway.kernels.lora.prepare_lora."""
    order = torch.argsort(token_slots, stable=True)
    slots, counts = torch.unique_consecutive(token_slots[order], return_counts=True)
    many, few, begin = [], [], 0
    for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
        if slot >= 0 and count > _FEW:
            many.append(LoraGroup(slot, None if count == len(token_slots) else order[begin : begin + count]))
        elif slot >= 0:
            few.append((slot, begin, begin + count))
        begin += count
    tiles = LoraTiles(order.to(torch.int32), torch.tensor(few, dtype=torch.int32), tuple(slot for slot, *_ in few), _FEW) if few else None
    return LoraPlan(tuple(many), tiles)


def lora_slots(num_slots: int, max_rank: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """See headway.kernels.lora.lora_slots. B lies by ranks, so that whole vectors of the output are added to."""
    num_rows, num_columns = shape
    a = torch.empty(num_slots, max_rank, num_columns, dtype=dtype, device=device)
    return a, torch.empty(num_slots, max_rank, num_rows, dtype=dtype, device=device).transpose(1, 2)


def _add_product(out: Tensor, x: Tensor, a: Tensor, b: Tensor, rank: int, tokens: Tensor | None) -> None:
    """Of one adapter; in bf16 where the adapter is, as on a GPU."""
    if not rank:
        return
    rows = (x if tokens is None else x.index_select(0, tokens)).to(a.dtype)
    update = functional.linear(functional.linear(rows, a[:rank]), b[:, :rank]).to(out.dtype)
    if tokens is None:
        out += update
    else:
        out.index_add_(0, tokens, update)


def _groups(tiles: LoraTiles | None) -> tuple[LoraGroup, ...]:
    if tiles is None:
        return ()
    return tuple(LoraGroup(slot, tiles.tokens[first:end].long()) for slot, first, end in tiles.tiles.tolist())


@functools.lru_cache(maxsize=1024)
def _ranks(ranks: tuple[int, ...]) -> Tensor:
    """Most layers have the same, and these change only when an adapter is loaded."""
    return torch.tensor(ranks, dtype=torch.int32)
