"""Low-rank adapters on an embedding: the tokens of each adapter are gathered, looked up, multiplied and added back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from headway.kernels.plans import LoraPlan


def add_embedding_lora(out: Tensor, token_ids: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.embedding_lora.add_embedding_lora."""
    for group in plan.groups:
        rank = ranks[group.slot]
        if not rank:
            continue
        ids = token_ids if group.tokens is None else token_ids.index_select(0, group.tokens)
        is_elsewhere = (ids < 0) | (ids >= a.shape[1])
        small = a[group.slot, :, :rank].index_select(0, ids.masked_fill(is_elsewhere, 0)) if a.shape[1] else out.new_zeros(len(ids), rank)
        update = functional.linear(small.masked_fill(is_elsewhere.unsqueeze(1), 0), b[group.slot, :, :rank])
        if group.tokens is None:
            out += update
        else:
            out.index_add_(0, group.tokens, update)
