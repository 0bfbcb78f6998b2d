"""Weights of 4 or 8 bits with a scale and an offset for each group of 32 inputs: what the blocks of a quantised GGUF hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.checks import check_shape

GROUP = 32
TILE = 16  # rows that are packed side by side


@dataclass(frozen=True, slots=True)
class GroupedValues:
    """An [N, K] weight, ``w[n, k] = scale[n, g] * values[n, k] + offset[n, g]`` with ``g = k // 32``."""

    values: Tensor  # [N, K] uint8, below 2^bits
    scale: Tensor  # [N, G] fp16, G = ceil(K / 32)
    offset: Tensor  # [N, G] fp16
    bits: int  # 4 or 8

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def check(self) -> None:
        """Raises ValueError where the parts do not fit together."""
        num_groups = -(-self.shape[1] // GROUP)
        check_shape("scale", self.scale, self.shape[0], num_groups)
        check_shape("offset", self.offset, self.shape[0], num_groups)
        if self.bits not in (4, 8):
            raise ValueError(f"bits is {self.bits}, expected 4 or 8")

    def narrow(self, dim: int, start: int, length: int) -> GroupedValues:
        """A span of rows (``dim`` 0) or of columns, whose ends are those of groups or of the weight."""
        if dim == 0:
            values, scale, offset = (part.narrow(0, start, length) for part in (self.values, self.scale, self.offset))
            return GroupedValues(values, scale, offset, self.bits)
        end = start + length
        if start % GROUP or (end % GROUP and end != self.shape[1]):
            raise ValueError(f"columns {start} to {end} cut a group of {GROUP}")
        groups = slice(start // GROUP, -(-end // GROUP))
        return GroupedValues(self.values[:, start:end], self.scale[:, groups], self.offset[:, groups], self.bits)

    def copied(self) -> GroupedValues:
        return GroupedValues(self.values.clone(), self.scale.clone(), self.offset.clone(), self.bits)

    def dequantize(self) -> Tensor:
        """[N, K] fp32."""

        def spread(groups: Tensor) -> Tensor:
            return groups.float().repeat_interleave(GROUP, dim=1)[:, : self.shape[1]]

        return spread(self.scale) * self.values + spread(self.offset)


def stack_rows(parts: Sequence[GroupedValues]) -> GroupedValues:
    """One weight under the other, in as many bits as the widest has."""
    values, scale, offset = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "scale", "offset"))
    return GroupedValues(values, scale, offset, max(part.bits for part in parts))


def round_to_groups(weight: Tensor) -> GroupedValues:
    """8 bits, symmetric: ``scale = max |w| / 127`` of each group of ``weight`` [N, K]. What was rounded so before comes back as it was."""
    num_columns = weight.shape[1]
    groups = torch.nn.functional.pad(weight.float(), (0, -num_columns % GROUP)).reshape(len(weight), -(-num_columns // GROUP), GROUP)
    scale = (groups.abs().amax(dim=2) / 127).half()
    step = scale.float().unsqueeze(2)
    values = (groups / torch.where(step > 0, step, 1)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    return GroupedValues(values.flatten(1)[:, :num_columns], scale, scale * -128, 8)


class RowsInOrder:
    """Base of what arranges an [N, K] weight as it comes, some rows after the other. ``bits``, 4 or 8: as many as any of them has."""

    def __init__(self, num_rows: int, num_columns: int, bits: int) -> None:
        self._num_rows, self._num_columns, self._bits = num_rows, num_columns, bits
        self._num_put = 0

    @property
    def is_full(self) -> bool:
        return self._num_put == self._num_rows

    def _check(self, rows: GroupedValues) -> None:
        """Raises ValueError where the next rows do not fit."""
        rows.check()
        check_shape("rows", rows.values, -1, self._num_columns)
        if rows.bits > self._bits:
            raise ValueError(f"rows have {rows.bits} bits, and the weight {self._bits}")
