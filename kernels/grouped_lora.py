"""Low-rank adapters beside grouped weights: A and B in 8 bits, activations rounded to 8 bits as for the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_inner_stride, check_shape
from headway.kernels.grouped_layout import GroupedValues, round_to_groups
from headway.kernels.plans import LoraPlan

RANKS = 16  # of an output of B with one scale; of a row between A and B likewise


@dataclass(frozen=True, slots=True)
class RoundedUpdate:
    """``b @ a`` with a [R, K] and b [N, R]: ``b[n, r] = b_scale[n, r // 16] * b_values[n, r]``."""

    a: GroupedValues  # [R, K], 8 bits
    b_values: Tensor  # [N, R] int8
    b_scale: Tensor  # [N, ceil(R / 16)] bf16

    @property
    def rank(self) -> int:
        return self.b_values.shape[1]

    def b(self) -> Tensor:
        """[N, R] fp32."""
        return self.b_scale.float().repeat_interleave(RANKS, dim=1)[:, : self.rank] * self.b_values


@dataclass(frozen=True, slots=True)
class GroupedSlots:
    """Room for some updates of each part of a linear layer; which outputs are a part's: ``spans``, (first, length)."""

    in_features: int
    spans: tuple[tuple[int, int], ...]
    data: Any  # owned by the implementation
    implementation: ModuleType

    def tensors(self) -> Iterator[Tensor]:
        yield from self.data.tensors()

    def pack(self, update: RoundedUpdate) -> Tensor:
        """As ``put`` takes it: on the host, for any slot of a part with as many outputs."""
        check_shape("a", update.a.values, update.rank, self.in_features)
        packed: Tensor = self.data.pack(update)
        return packed

    def put(self, slot: int, part: int, rank: int, packed: Tensor) -> None:
        """Copies a packed update of that rank to a slot of a part, in the place of what was there."""
        self.data.put(slot, part, rank, packed)

    def clear(self, slot: int) -> None:
        """The slot changes nothing from now on."""
        self.data.clear(slot)


def round_update(a: Tensor, b: Tensor) -> RoundedUpdate:
    """Rounds ``b @ a``, a [R, K] and b [N, R] of any float dtype: by at most 1/254 of the largest entry that shares the scale.

    Rows of A are first brought to a largest entry of 1, and their size to B's columns: groups have scales in fp16, which has no small ones.
    """
    size = a.float().abs().amax(dim=1) if a.shape[1] else torch.zeros(len(a))
    size = torch.where(size > 0, size, 1.0)
    rounded = round_to_groups(a.float() / size[:, None])
    num_rows, rank = b.shape
    parts = torch.nn.functional.pad(b.float() * size, (0, -rank % RANKS)).view(num_rows, -1, RANKS)
    scale = (parts.abs().amax(dim=2) / 127).bfloat16()
    step = scale.float().unsqueeze(2)
    values = (parts / torch.where(step > 0, step, 1)).round_().clamp_(-127, 127).to(torch.int8)
    return RoundedUpdate(rounded, values.view(num_rows, -1)[:, :rank].contiguous(), scale)


def grouped_slots(num_slots: int, max_rank: int, in_features: int, spans: Sequence[tuple[int, int]], device: torch.device) -> GroupedSlots:
    """Room that is taken at once and not initialised; all slots are clear."""
    module = implementation("grouped_lora", device.type)
    return GroupedSlots(in_features, tuple(spans), module.make_slots(num_slots, max_rank, in_features, tuple(spans)), module)


def add_grouped_lora(out: Tensor, x: Tensor, slots: GroupedSlots, plan: LoraPlan) -> None:
    """Adds ``B[s] (A[s] x[t])`` to each part's outputs of token t in place, where s is its slot; others stay as they are.

    x [T, K] and out [T, N], fp32. x is rounded in groups of 32 as ``grouped_linear`` does, what comes out of A in groups of 16 ranks
    likewise; products are exact. A token's result does not depend on the others of the call. ``plan``: of ``prepare_lora``.
    """
    check_shape("x", x, -1, slots.in_features)
    check_shape("out", out, x.shape[0], -1)
    check_inner_stride("out", out)
    if out.dtype != torch.float32 or x.dtype != torch.float32:
        raise ValueError(f"out is {out.dtype} and x {x.dtype}, expected torch.float32")
    if out.shape[1] < (end := max(first + length for first, length in slots.spans)):
        raise ValueError(f"out has {out.shape[1]} columns; the adapters' parts end at {end}")
    slots.implementation.add_grouped_lora(out, x, slots.data, plan)
