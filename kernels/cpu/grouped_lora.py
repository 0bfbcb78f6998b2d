"""Low-rank adapters in 8 bits by the compiled kernels; in plain torch without them.

A step of many adapters takes as long as its memory takes to read them: docs/adapters.md has what was measured.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from headway.kernels.cpu.grouped_matmul import tiled
from headway.kernels.cpu.native.library import GroupedLora, GroupedLoraPart, LoraRows, function
from headway.kernels.grouped_layout import GROUP
from headway.kernels.grouped_lora import RANKS, RoundedUpdate
from headway.kernels.plans import LoraPlan
from headway.kernels.reference import grouped_lora as reference

_TILE = 16  # outputs side by side, ranks being those of A
_QUAD = 4  # ranks side by side in B
_LINE = 64  # bytes


class Slots:
    """See headway.kernels.grouped_lora.GroupedSlots; bytes as native/grouped_lora.h has them."""

    def __init__(self, num_slots: int, max_rank: int, in_features: int, spans: tuple[tuple[int, int], ...]) -> None:
        sizes = [_a_bytes(max_rank, in_features) + _b_bytes(max_rank, length) for _, length in spans]
        self._rooms = [torch.empty(num_slots, size, dtype=torch.uint8) for size in sizes]
        self._ranks = torch.zeros(len(spans), num_slots, dtype=torch.int32)
        parts = [
            GroupedLoraPart(room.data_ptr(), ranks.data_ptr(), room.shape[1], *span)
            for room, ranks, span in zip(self._rooms, self._ranks, spans, strict=True)
        ]
        self._parts = (GroupedLoraPart * len(parts))(*parts)
        self.described = GroupedLora(self._parts, len(parts), in_features, max_rank)  # points to what this holds

    def tensors(self) -> Iterator[Tensor]:
        yield from self._rooms

    def pack(self, update: RoundedUpdate) -> Tensor:
        return torch.cat([tiled(update.a), _tiled_b(update)])

    def put(self, slot: int, part: int, rank: int, packed: Tensor) -> None:
        self._rooms[part][slot, : len(packed)].copy_(packed)
        self._ranks[part, slot] = rank

    def clear(self, slot: int) -> None:
        self._ranks[:, slot] = 0


def make_slots(num_slots: int, max_rank: int, in_features: int, spans: tuple[tuple[int, int], ...]) -> Slots | reference.Slots:
    """See headway.kernels.grouped_lora.grouped_slots."""
    made = reference.Slots if function("add_grouped_lora", torch.float32) is None else Slots
    return made(num_slots, max_rank, in_features, spans)


def add_grouped_lora(out: Tensor, x: Tensor, slots: Slots | reference.Slots, plan: LoraPlan) -> None:
    """See headway.kernels.grouped_lora.add_grouped_lora."""
    if not isinstance(slots, Slots):
        reference.add_grouped_lora(out, x, slots, plan)
        return
    kernel = function("add_grouped_lora", torch.float32)
    assert kernel is not None, "the slots are made for it"
    x = x if x.stride(1) == 1 else x.contiguous()
    where = ctypes.byref(slots.described), ctypes.byref(lora_rows(plan))
    kernel(out.data_ptr(), x.data_ptr(), *where, x.stride(0), out.stride(0))


def lora_rows(plan: LoraPlan) -> LoraRows:
    """Points into the plan."""
    tiles = plan.tiles
    assert tiles is not None, "a plan is for the device that it was prepared for"
    return LoraRows(tiles.tokens.data_ptr(), tiles.tiles.data_ptr(), len(tiles.tiles))


def _tiled_b(update: RoundedUpdate) -> Tensor:
    num_rows, rank = update.b_values.shape
    num_tiles = -(-num_rows // _TILE)
    pad = torch.nn.functional.pad
    scale = pad(update.b_scale, (0, 0, 0, num_tiles * _TILE - num_rows)).view(num_tiles, _TILE, -1)
    scales = scale.transpose(1, 2).contiguous().view(torch.uint8).flatten()
    values = (pad(update.b_values, (0, -rank % _QUAD, 0, num_tiles * _TILE - num_rows)).int() + 128).to(torch.uint8)
    quads = values.view(num_tiles, _TILE, -1, _QUAD).transpose(1, 2)  # [tiles, quads, 16, 4]
    return torch.cat([pad(scales, (0, -len(scales) % _LINE)), quads.flatten()])


def _a_bytes(rank: int, in_features: int) -> int:
    return -(-rank // _TILE) * -(-in_features // GROUP) * (4 * _TILE + _TILE * GROUP)


def _b_bytes(rank: int, out_features: int) -> int:
    num_tiles = -(-out_features // _TILE)
    scales = num_tiles * -(-rank // RANKS) * _TILE * 2
    return -(-scales // _LINE) * _LINE + num_tiles * -(-rank // _QUAD) * _TILE * _QUAD
