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
        if rank:
            low = functional.linear(x.index_select(0, group.tokens), a[group.slot, :rank])
            out.index_add_(0, group.tokens, functional.linear(low, b[group.slot, :, :rank]))


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """See headway.kernels.lora.prepare_lora."""
    slots = [slot for slot in torch.unique(token_slots).tolist() if slot >= 0]
    return LoraPlan(tuple(LoraGroup(slot, (token_slots == slot).nonzero().squeeze(1).to(device)) for slot in slots))
