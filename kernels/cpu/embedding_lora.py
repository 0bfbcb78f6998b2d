"""Low-rank adapters on an embedding in one call of the compiled kernel; in torch's products without it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from headway.kernels.cpu.lora import groups_of, ranks_tensor
from headway.kernels.cpu.native.library import LoraShape, function
from headway.kernels.plans import LoraPlan
from headway.kernels.reference import embedding_lora as reference


def add_embedding_lora(out: Tensor, token_ids: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.embedding_lora.add_embedding_lora."""
    tiles, kernel = plan.tiles, function("add_embedding_lora", out.dtype)
    assert tiles is not None, "a plan is for the device that it was prepared for"
    if kernel is None:  # fp16, or nothing is compiled
        reference.add_embedding_lora(out, token_ids, a, b, ranks, LoraPlan(tuple(groups_of(tiles))))
        return
    if not a.is_contiguous() or b.stride(1) != 1:
        raise ValueError(f"a has strides {a.stride()}, b {b.stride()}; they must lie as embedding_lora_slots has them")
    if not out.shape[1] or not any(ranks[slot] for slot in tiles.slots):
        return
    shape = LoraShape(len(tiles.tiles), a.shape[1], out.shape[1], a.shape[2], 0, out.stride(0))
    where = (ranks_tensor(tuple(ranks)).data_ptr(), tiles.tokens.data_ptr(), tiles.tiles.data_ptr())
    kernel(out.data_ptr(), token_ids.data_ptr(), a.data_ptr(), b.data_ptr(), *where, ctypes.byref(shape))
