"""Low-rank adapters in 8 bits, in plain torch: kept as fp32, activations are rounded and brought back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from headway.kernels.grouped_lora import RANKS, RoundedUpdate
from headway.kernels.plans import LoraPlan
from headway.kernels.reference.grouped_matmul import rounded


class Slots:
    """See headway.kernels.grouped_lora.GroupedSlots. A slot has A and then B, by rank, in one row: [S, R, K + N]."""

    def __init__(self, num_slots: int, max_rank: int, in_features: int, spans: tuple[tuple[int, int], ...]) -> None:
        self.spans = spans
        self.in_features = in_features
        self.rooms = [torch.empty(num_slots, max_rank, in_features + length) for _, length in spans]
        self.ranks = [[0] * num_slots for _ in spans]

    def tensors(self) -> Iterator[Tensor]:
        yield from self.rooms

    def pack(self, update: RoundedUpdate) -> Tensor:
        return torch.cat([update.a.dequantize(), update.b().t()], dim=1)

    def put(self, slot: int, part: int, rank: int, packed: Tensor) -> None:
        self.rooms[part][slot, :rank].copy_(packed)
        self.ranks[part][slot] = rank

    def clear(self, slot: int) -> None:
        for ranks in self.ranks:
            ranks[slot] = 0


def make_slots(num_slots: int, max_rank: int, in_features: int, spans: tuple[tuple[int, int], ...]) -> Slots:
    """See headway.kernels.grouped_lora.grouped_slots."""
    return Slots(num_slots, max_rank, in_features, spans)


def add_grouped_lora(out: Tensor, x: Tensor, slots: Slots, plan: LoraPlan) -> None:
    """See headway.kernels.grouped_lora.add_grouped_lora."""
    x = rounded(x)
    for slot, tokens in _groups(plan, len(x)):
        for (first, length), room, ranks in zip(slots.spans, slots.rooms, slots.ranks, strict=True):
            a, b = torch.split(room[slot, : ranks[slot]], [slots.in_features, length], dim=1)
            if len(a):
                small = rounded(x[tokens] @ a.t(), RANKS)
                out[:, first : first + length].index_add_(0, tokens, small @ b)


def _groups(plan: LoraPlan, num_tokens: int) -> Iterator[tuple[int, Tensor]]:
    """Slots and their tokens, of either kind of plan."""
    for group in plan.groups:
        yield group.slot, torch.arange(num_tokens) if group.tokens is None else group.tokens
    if plan.tiles is not None:
        for slot, first, end in plan.tiles.tiles.tolist():
            yield slot, plan.tiles.tokens[first:end].long()
