"""The adapters of one linear layer: low-rank updates in slots of a fixed size, cut over the ranks as the layer's weight is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.lora import add_lora, lora_slots
from headway.kernels.plans import LoraPlan
from headway.server.layers.weight import Part, Weight


@dataclass(slots=True)
class _Stack:
    """The slots of one part of the layer, whose outputs are ``[part.offset, part.offset + b.shape[1])``."""

    part: Part
    a: Tensor  # [S, R, K]
    b: Tensor  # [S, N, R]
    ranks: list[int]  # [S], 0: nothing there


class LinearAdapters:
    """Room for ``num_slots`` adapters of up to ``max_rank`` on each part of ``weight``. Memory is taken at once and kept."""

    def __init__(self, weight: Weight, num_slots: int, max_rank: int, *, dtype: torch.dtype, device: torch.device) -> None:
        def stack(part: Part) -> _Stack:
            # What no rank reaches is never read, so nothing needs to be cleared.
            shape = (part.length if part.dim == 0 else weight.shape[0], weight.shape[1])
            return _Stack(part, *lora_slots(num_slots, max_rank, shape, dtype=dtype, device=device), [0] * num_slots)

        self._dtype, self._device = dtype, device
        self._stacks = {name: stack(part) for name, part in weight.parts.items()}

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        for stack in self._stacks.values():
            yield from (stack.a, stack.b)

    def shape(self, part: str) -> tuple[int, ...]:
        """[N, K] of the whole checkpoint tensor that an update of this part adds to."""
        return self._stacks[part].part.shape

    def share(self, part: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of this rank's share of the update ``b @ a``, a [r, K] and b [N, r] of the whole checkpoint tensor; on the host, and as
        ``put`` takes it."""
        stack = self._stacks[part]
        place = stack.part
        if place.dim == 0:
            b = b.narrow(0, place.start, place.length)
        else:
            a = a.narrow(1, place.start, place.length)
        return self._copy(a), self._copy(b)

    def put(self, slot: int, part: str, a: Tensor, b: Tensor) -> None:
        """Copies a ``share`` to the device, behind what runs there."""
        stack, rank = self._stacks[part], len(a)
        stack.a[slot, :rank].copy_(a, non_blocking=True)
        stack.b[slot, :, :rank].copy_(b, non_blocking=True)
        stack.ranks[slot] = rank

    def _copy(self, tensor: Tensor) -> Tensor:
        copy = torch.empty(tensor.shape, dtype=self._dtype, pin_memory=self._device.type == "cuda")
        return copy.copy_(tensor)

    def clear(self, slot: int) -> None:
        for stack in self._stacks.values():
            stack.ranks[slot] = 0

    def add(self, out: Tensor, x: Tensor, plan: LoraPlan) -> None:
        """Adds each token's update to the layer's output ``out`` [T, N], in place. Of a layer cut by columns: this rank's summand."""
        for stack in self._stacks.values():
            columns = out.narrow(1, stack.part.offset if stack.part.dim == 0 else 0, stack.b.shape[1])
            add_lora(columns, x, stack.a, stack.b, stack.ranks, plan)
