"""A weight as a quantised checkpoint has it, whatever the packing of its file: numbers of 4 or 8 bits, scales and zero points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.kernels.expert_weights import mxfp4_numbers
from headway.server.layers.quant.scheme import BLOCK


@dataclass(frozen=True, slots=True)
class QuantizedValues:
    """An [N, K] weight, ``w[n, k] = scale[n, g] * (values[n, k] - zero[n, g])`` with g the group of column k.

    Blocked: ``w[n, k] = scale[n // 128, k // 128] * values[n, k]``. In MXFP4 values are codes of 4 bits, and scales the exponents of powers
    of two: see kernels/expert_weights.py.
    """

    values: Tensor  # [N, K] uint8, int8 or float8_e4m3fn
    scale: Tensor  # [N, G] fp32, in MXFP4 uint8; blocked: [ceil(N / 128), ceil(K / 128)]
    zero: Tensor | None = None  # [N, G] uint8, or fp32 where it need not be whole; None: 0
    group_size: int = 0  # columns of a group; 0: all
    groups: Tensor | None = None  # [K] int64: the group of each column, where they are not in order
    is_blocked: bool = False

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def is_mxfp4(self) -> bool:
        return self.scale.dtype == torch.uint8

    def rows(self, first: int, count: int) -> QuantizedValues:
        return self if (first, count) == (0, self.shape[0]) else self.narrow(0, first, count)

    def narrow(self, dim: int, start: int, length: int) -> QuantizedValues:
        """A span of rows or columns, whose ends are those of groups (or blocks), or of the weight."""
        values = self.values.narrow(dim, start, length)
        if (start, length) == (0, self.shape[dim]):
            return self
        step = self._step(dim)
        end = start + length
        assert start % step == 0, "the split was checked before loading"
        assert end % step == 0 or end == self.shape[dim], "the split was checked before loading"
        assert dim == 0 or self.groups is None, "columns in an order of their own are not cut"
        first, count = start // step, -(-end // step) - start // step
        if dim == 1 and not self.group_size and not self.is_blocked:
            return replace(self, values=values)
        zero = None if self.zero is None else self.zero.narrow(dim, first, count)
        return replace(self, values=values, scale=self.scale.narrow(dim, first, count), zero=zero)

    def to(self, device: torch.device) -> QuantizedValues:
        """A copy that holds no file."""

        def copied(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, copy=True)

        values, scale = self.values.to(device, copy=True), self.scale.to(device, copy=True)
        return replace(self, values=values, scale=scale, zero=copied(self.zero), groups=copied(self.groups))

    def dequantize(self) -> Tensor:
        """[N, K] fp32; bf16 of MXFP4, which has it exactly."""
        if self.is_mxfp4:
            return mxfp4_numbers(self.values, self.scale)
        if self.is_blocked:
            rows = self.scale.repeat_interleave(BLOCK, dim=0)[: self.shape[0]]
            return rows.repeat_interleave(BLOCK, dim=1)[:, : self.shape[1]] * self.values.float()
        values = self.values.float()
        return self._spread(self.scale) * (values if self.zero is None else values - self._spread(self.zero.float()))

    def _spread(self, groups: Tensor) -> Tensor:
        if not self.group_size:
            return groups
        if self.groups is not None:
            return groups.index_select(1, self.groups)
        return groups.repeat_interleave(self.group_size, dim=1)[:, : self.shape[1]]

    def _step(self, dim: int) -> int:
        return BLOCK if self.is_blocked else 1 if dim == 0 else self.group_size or 1


def stack_values(parts: Sequence[QuantizedValues]) -> list[QuantizedValues]:
    """One weight under the other: as one where their columns are in one order, else as they are. No block reaches into the next."""
    first = parts[0]
    if any(not same_order(part.groups, first.groups) for part in parts):
        return list(parts)
    zero = None if first.zero is None else torch.cat([part.zero for part in parts if part.zero is not None])
    # As bytes: not every device puts numbers of fp8 together.
    values = torch.cat([part.values.view(torch.uint8) for part in parts]).view(first.values.dtype)
    return [replace(first, values=values, scale=torch.cat([part.scale for part in parts]), zero=zero)]


def same_order(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
