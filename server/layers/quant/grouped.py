"""Weights in the groups of 32 that the blocks of a quantised GGUF have: how they are filled, and a CPU's product of them, with activations
rounded to 8 bits in the same groups. A GPU's is kept_blocks.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor

from headway.kernels.grouped_layout import GROUP, GroupedValues, round_to_groups
from headway.kernels.grouped_matmul import GroupedPacker, PackedGrouped, grouped_linear
from headway.kernels.int4_layout import gguf_groups
from headway.server.layers.quant.quantized_values import QuantizedValues, same_order
from headway.server.layers.weight import Part, Weight, share

_ROWS_A_PIECE = 1024  # of a table that is rounded, so that temporaries stay small beside it


@dataclass(frozen=True, slots=True)
class GgufBlocks:
    """A weight as a GGUF file has it, in one of the formats that have a scale and an offset for 32 weights: see kernels/int4_layout.py."""

    blocks: Tensor  # [N, bytes of a row] uint8
    kind: str

    def rows(self, first: int, count: int) -> GgufBlocks:
        return GgufBlocks(self.blocks.narrow(0, first, count), self.kind)

    def to(self, device: torch.device) -> GgufBlocks:
        return GgufBlocks(self.blocks.to(device), self.kind)

    def groups(self) -> GroupedValues:
        return gguf_groups(self.blocks, self.kind)


class Packer(Protocol):
    """What arranges a weight for a device's product, rows after rows: kernels/grouped_matmul.py GroupedPacker tells more."""

    @property
    def packed(self) -> Any: ...

    @property
    def is_full(self) -> bool: ...

    def put(self, rows: GroupedValues, /) -> None: ...


MakePacker = Callable[[int, int, int, torch.device, Tensor | None], Packer]  # rows, columns, bits, device, order of columns


@dataclass(frozen=True, slots=True)
class GroupedParts:
    """Rows of an output one behind the other, whose columns are in different orders."""

    parts: tuple[PackedGrouped, ...]


def grouped(weight: QuantizedValues) -> GroupedValues:
    """4 bits whose larger groups are cut in some of 32 with the same scale, and whose zero points become offsets. Columns are in the order
    of ``column_order``."""
    assert weight.zero is not None, "4 bits are unsigned"
    num_groups = -(-weight.shape[1] // GROUP)

    def spread(part: Tensor) -> Tensor:
        times = weight.group_size // GROUP or num_groups
        return part.half().repeat_interleave(times, dim=1)[:, :num_groups]

    order = column_order(weight)
    values = weight.values if order is None else weight.values.index_select(1, order)
    return GroupedValues(values, spread(weight.scale), spread(-weight.scale * weight.zero), 4)


def column_order(weight: QuantizedValues) -> Tensor | None:
    """[K] int64, the columns sorted by their groups; None where they are so."""
    return None if weight.groups is None else weight.groups.argsort(stable=True)


@dataclass(frozen=True, slots=True)
class _Waiting:
    values: GroupedValues
    order: Tensor | None


class GroupedWeight(Weight):
    """One whose parts stay in 4 bits where the file has them so; all others are rounded to 8. What is the only part is packed as it
    comes; several wait for one another, as the widest of them decides. ``finish`` gets what a packer packed, or GroupedParts."""

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: dict[str, Part],
        finish: Callable[[Any], int],
        device: torch.device,
        make_packer: MakePacker = GroupedPacker,
    ) -> None:
        super().__init__(shape, parts, finish, dtype=torch.float32, device=device)
        self._make_packer = make_packer
        self._packer: Packer | None = None
        self._waiting: dict[int, _Waiting] = {}  # by their first row

    def load(self, part: str, tensor: Tensor, copy: Callable[[Tensor, Tensor], object] = Tensor.copy_, first: int = 0) -> None:
        """The values are rounded on the device, to memory of their own."""
        row, own = share(self.parts[part], tensor, first, tensor.shape[0])
        if own.device.type != self._device.type:
            there = torch.empty(own.shape, dtype=own.dtype, device=self._device)
            copy(there, own)
            own = there
        self._take(part, row, round_to_groups(own), tensor.shape[0])

    def load_blocks(self, part: str, blocks: GgufBlocks | QuantizedValues, first: int = 0) -> None:
        """As ``load``, of a tensor that keeps its bits."""
        blocks = blocks if self._device.type == "cpu" else blocks.to(self._device)
        groups, order = (grouped(blocks), column_order(blocks)) if isinstance(blocks, QuantizedValues) else (blocks.groups(), None)
        self._take(part, *share(self.parts[part], groups, first, groups.shape[0]), groups.shape[0], order)

    def _take(self, part: str, row: int, values: GroupedValues, num_rows: int, order: Tensor | None = None) -> None:
        is_whole = self._has_all(part, num_rows)
        if len(self.parts) > 1:
            if values.shape[0]:
                self._waiting[row] = _Waiting(values, order)
        else:
            self._packer = self._packer or self._make_packer(self.shape[0], self.shape[1], values.bits, self._device, order)
            self._packer.put(values)
        if is_whole:
            packed = self._all_packed()
            num_rows = sum(it.out_features for it in packed)
            assert num_rows == self.shape[0], "a vocabulary that is padded for its ranks is not kept in groups"
            self.num_bytes = self._finish(packed[0] if len(packed) == 1 else GroupedParts(packed))

    def _all_packed(self) -> tuple[Any, ...]:
        if self._packer is not None:
            packer, self._packer = self._packer, None
            assert packer.is_full, "a vocabulary that is padded for its ranks is not kept in groups"
            return (packer.packed,)
        found: list[Any] = []
        bits = max(it.values.bits for it in self._waiting.values())
        waiting = deque(self._waiting.pop(row) for row in sorted(self._waiting))
        while waiting:
            order = waiting[0].order
            num_alike = sum(1 for _ in takewhile(partial(_has_order, order), waiting))
            num_rows = sum(waiting[i].values.shape[0] for i in range(num_alike))
            packer = self._make_packer(num_rows, self.shape[1], bits, self._device, order)
            while not packer.is_full:
                packer.put(waiting.popleft().values)
            found.append(packer.packed)
        return tuple(found)


def _has_order(order: Tensor | None, waiting: _Waiting) -> bool:
    return same_order(waiting.order, order)


@dataclass(frozen=True)
class GroupedLinear:
    """fp32 between the products. Perplexity of the demo model: see tests/models/test_grouped_model.py."""

    device: torch.device
    name: str

    def for_gated_input(self) -> GroupedLinear:
        return self

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Any], int]) -> Weight:
        if len(shape) == 2:
            return GroupedWeight(shape, parts, finish, self.device)
        return Weight(shape, parts, finish, dtype=torch.float32, device=self.device)

    def pack(self, weight: Tensor | PackedGrouped | GroupedParts) -> tuple[PackedGrouped | GroupedParts, int]:
        if isinstance(weight, PackedGrouped):
            return weight, weight.num_bytes
        if isinstance(weight, GroupedParts):
            return weight, sum(part.num_bytes for part in weight.parts)
        packer = GroupedPacker(weight.shape[0], weight.shape[1], 8, weight.device)
        for rows in torch.split(weight, _ROWS_A_PIECE):
            packer.put(round_to_groups(rows))
        return packer.packed, packer.packed.num_bytes

    def apply(self, x: Tensor, packed: PackedGrouped | GroupedParts, bias: Tensor | None) -> Tensor:
        if isinstance(packed, PackedGrouped):
            return grouped_linear(x, packed, bias)
        out = torch.cat([grouped_linear(x, part) for part in packed.parts], dim=1)
        return out if bias is None else out.add_(bias)
