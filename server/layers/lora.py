"""The adapters of one linear layer: low-rank updates in slots of a fixed size, cut over the ranks as the layer's weight is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headway.kernels.grouped_lora import GroupedSlots, add_grouped_lora, grouped_slots, round_update
from headway.kernels.lora import add_lora, lora_slots
from headway.kernels.plans import LoraPlan
from headway.server.layers.weight import Part


@dataclass(frozen=True, slots=True)
class UpdateShare:
    """This rank's share of an update of a part of a layer, on the host, as the layer's slots keep it."""

    rank: int
    tensors: tuple[Tensor, ...]


class _Room(Protocol):
    """Slots of all parts of a layer, which are counted in the weight's order."""

    def tensors(self) -> Iterator[Tensor]: ...

    def pack(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]: ...

    def put(self, slot: int, part: int, share: UpdateShare) -> None: ...

    def clear(self, slot: int) -> None: ...

    def add(self, out: Tensor, x: Tensor, plan: LoraPlan) -> None: ...


class LinearAdapters:
    """Room for ``num_slots`` adapters of up to ``max_rank`` on each of the ``parts`` of this rank's weight of ``shape`` [N, K]. Memory is
    taken at once and kept.

    ``dtype``: int8 for grouped weights on a CPU, whose activations are rounded to 8 bits anyhow; else that of the activations.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: Mapping[str, Part],
        num_slots: int,
        max_rank: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        num_rows, num_columns = shape
        self._parts = parts
        self._index = {name: i for i, name in enumerate(parts)}
        spans = [_span(part, num_rows) for part in parts.values()]
        self._room: _Room
        if dtype == torch.int8:
            self._room = _GroupedRoom(num_slots, max_rank, num_columns, spans, device)
        else:
            self._room = _DenseRoom(num_slots, max_rank, num_columns, spans, dtype, device)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    @property
    def grouped_slots(self) -> GroupedSlots | None:
        """Those in 8 bits, for a layer that is computed in one call."""
        return self._room.slots if isinstance(self._room, _GroupedRoom) else None

    def tensors(self) -> Iterator[Tensor]:
        return self._room.tensors()

    def shape(self, part: str) -> tuple[int, ...]:
        """[N, K] of the whole checkpoint tensor that an update of this part adds to."""
        return self._parts[part].shape

    def share(self, part: str, a: Tensor, b: Tensor) -> UpdateShare:
        """A copy of this rank's share of the update ``b @ a``, a [r, K] and b [N, r] of the whole checkpoint tensor."""
        place = self._parts[part]
        if place.dim == 0:
            b = b.narrow(0, place.start, place.length)
        else:
            a = a.narrow(1, place.start, place.length)
        return UpdateShare(len(a), self._room.pack(a, b))

    def put(self, slot: int, part: str, share: UpdateShare) -> None:
        """Copies a ``share`` to the device, behind what runs there."""
        self._room.put(slot, self._index[part], share)

    def clear(self, slot: int) -> None:
        self._room.clear(slot)

    def add(self, out: Tensor, x: Tensor, plan: LoraPlan) -> None:
        """Adds each token's update to the layer's output ``out`` [T, N], in place. Of a layer cut by columns: this rank's summand."""
        self._room.add(out, x, plan)


class _DenseRoom:
    """In a dtype of floating point."""

    def __init__(
        self, num_slots: int, max_rank: int, in_features: int, spans: list[tuple[int, int]], dtype: torch.dtype, device: torch.device
    ) -> None:
        # What no rank reaches is never read, so nothing needs to be cleared.
        made = [lora_slots(num_slots, max_rank, (length, in_features), dtype=dtype, device=device) for _, length in spans]
        self._a = [a for a, _ in made]  # [S, R, K] each
        self._b = [b for _, b in made]  # [S, N, R]
        self._ranks = [[0] * num_slots for _ in spans]  # 0: nothing there
        self._spans = spans
        self._dtype, self._device = dtype, device

    def tensors(self) -> Iterator[Tensor]:
        for pair in zip(self._a, self._b, strict=True):
            yield from pair

    def pack(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return self._copy(a), self._copy(b)

    def put(self, slot: int, part: int, share: UpdateShare) -> None:
        a, b = share.tensors
        self._a[part][slot, : share.rank].copy_(a, non_blocking=True)
        self._b[part][slot, :, : share.rank].copy_(b, non_blocking=True)
        self._ranks[part][slot] = share.rank

    def clear(self, slot: int) -> None:
        for ranks in self._ranks:
            ranks[slot] = 0

    def add(self, out: Tensor, x: Tensor, plan: LoraPlan) -> None:
        for span, a, b, ranks in zip(self._spans, self._a, self._b, self._ranks, strict=True):
            add_lora(out.narrow(1, *span), x, a, b, ranks, plan)

    def _copy(self, tensor: Tensor) -> Tensor:
        return host_copy(tensor, self._dtype, self._device)


class _GroupedRoom:
    """In 8 bits. A copy on the host is rounded already."""

    def __init__(self, num_slots: int, max_rank: int, in_features: int, spans: list[tuple[int, int]], device: torch.device) -> None:
        self.slots = grouped_slots(num_slots, max_rank, in_features, spans, device)

    def tensors(self) -> Iterator[Tensor]:
        return self.slots.tensors()

    def pack(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return (self.slots.pack(round_update(a, b)),)

    def put(self, slot: int, part: int, share: UpdateShare) -> None:
        (packed,) = share.tensors
        self.slots.put(slot, part, share.rank, packed)

    def clear(self, slot: int) -> None:
        self.slots.clear(slot)

    def add(self, out: Tensor, x: Tensor, plan: LoraPlan) -> None:
        add_grouped_lora(out, x, self.slots, plan)


def host_copy(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the host, as it is soonest copied to ``device``."""
    return torch.empty(tensor.shape, dtype=dtype, pin_memory=device.type == "cuda").copy_(tensor)


def _span(part: Part, num_rows: int) -> tuple[int, int]:
    """First and number of the layer's outputs that the part adds to."""
    return (part.offset, part.length) if part.dim == 0 else (0, num_rows)
