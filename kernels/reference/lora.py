"""Low-rank adapters: the tokens of each adapter are gathered, multiplied and added back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.plans import LoraGroup, LoraPlan


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.lora.add_lora."""
    for group in plan.groups:
        rank = ranks[group.slot]
        if not rank:
            continue
        rows = x if group.tokens is None else x.index_select(0, group.tokens)
        own_a, own_b = a[group.slot, :rank], b[group.slot, :, :rank]
        update = functional.linear(functional.linear(rows, own_a), own_b)
        if group.tokens is None:
            out += update
        else:
            out.index_add_(0, group.tokens, update)


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """See headway.kernels.lora.prepare_lora."""
    slots = torch.unique(token_slots).tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return LoraPlan((LoraGroup(slots[0], None),))
    groups = [LoraGroup(slot, (token_slots == slot).nonzero().squeeze(1).to(device)) for slot in slots if slot >= 0]
    return LoraPlan(tuple(groups))


def lora_slots(num_slots: int, max_rank: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """See headway.kernels.lora.lora_slots."""
    num_rows, num_columns = shape
    a = torch.empty(num_slots, max_rank, num_columns, dtype=dtype, device=device)
    return a, torch.empty(num_slots, num_rows, max_rank, dtype=dtype, device=device)
