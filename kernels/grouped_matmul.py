"""Matrix products of 4-bit or 8-bit weights with activations that are rounded to 8 bits, both in groups of 32 inputs."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_shape
from headway.kernels.grouped_layout import TILE, GroupedValues, RowsInOrder, stack_rows


@dataclass(frozen=True, slots=True)
class PackedGrouped:
    """An [N, K] weight in the layout of the implementation that packed it."""

    out_features: int  # N
    in_features: int  # K
    num_bytes: int
    data: Any  # owned by the implementation
    implementation: ModuleType
    order: Tensor | None = None  # [K] int64: column i is that of input order[i]; None: they are in order


class GroupedPacker(RowsInOrder):
    """Arranges an [N, K] weight for ``grouped_linear`` as it comes, some rows after the other: what is packed is all that is held of it.

    ``bits``, 4 or 8: as many as any of the rows has. ``order``: that of the columns, see PackedGrouped.
    """

    def __init__(self, num_rows: int, num_columns: int, bits: int, device: torch.device, order: Tensor | None = None) -> None:
        super().__init__(num_rows, num_columns, bits)
        module = implementation("grouped_matmul", device.type)
        data, num_bytes = module.empty_grouped(num_rows, num_columns, bits)
        num_bytes += 0 if order is None else order.nbytes
        self.packed = PackedGrouped(num_rows, num_columns, num_bytes, data, module, order)
        self._rest: GroupedValues | None = None  # fewer than a tile of rows

    def put(self, rows: GroupedValues) -> None:
        """The next rows, which may be freed then. Raises ValueError where they do not fit."""
        self._check(rows)
        if self._rest is not None:
            rows = stack_rows((self._rest, rows))
        count = rows.shape[0]
        if self._num_put + count < self.packed.out_features:
            count -= count % TILE
        self._rest = rows.narrow(0, count, rows.shape[0] - count).copied() if count < rows.shape[0] else None
        if count:
            self.packed.implementation.put_rows(self.packed.data, self._num_put, rows.narrow(0, 0, count))
            self._num_put += count


def pack_grouped(weight: GroupedValues) -> PackedGrouped:
    """``weight`` for ``grouped_linear``. The packed copy is independent of it."""
    packer = GroupedPacker(weight.shape[0], weight.shape[1], weight.bits, weight.values.device)
    packer.put(weight)
    return packer.packed


def grouped_linear(x: Tensor, packed: PackedGrouped, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` with x rounded to 8 bits for the call; x [M, K] and bias [N] fp32 -> [M, N] fp32.

    Each group of 32 of a row has its own scale, ``x ~ s round(x / s)`` with ``s = max |x| / 127``, and is multiplied exactly in
    integers, as users of quantised GGUFs know it from llama.cpp. A row's result does not depend on the others of the call.
    """
    check_shape("x", x, -1, packed.in_features)
    if x.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}, expected torch.float32")
    if packed.order is not None:
        x = x.index_select(1, packed.order)
    out: Tensor = packed.implementation.grouped_linear(x, packed.data, bias)
    return out
