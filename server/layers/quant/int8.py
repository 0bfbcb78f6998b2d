"""8-bit weights, one scale an output channel, with activations quantised to 8 bits on the fly. CPU only; fp32 in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.kernels.hadamard import block_of, spread_blocks
from headway.kernels.quant_matmul import PackedInt8, int8_linear, keep_int8, pack_int8, round_int8
from headway.server.layers.weight import Part, Weight, share

_ELEMENTS_A_PIECE = 1 << 18  # temporaries in fp32 stay near a core's cache
_BLOCK = 64  # channels that are spread over one another


@dataclass(frozen=True, slots=True)
class RoundedRows:
    values: Tensor  # [N, K] int8
    scale: Tensor  # [N] fp32


class Int8Weight(Weight):
    """One whose rows are rounded as they come."""

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: dict[str, Part],
        finish: Callable[[RoundedRows], int],
        block: int,
        device: torch.device,
    ) -> None:
        super().__init__(shape, parts, finish, dtype=torch.int8, device=device)
        self._block = block
        self._scale: Tensor | None = None
        self._finish_rows = finish

    def load(self, part: str, tensor: Tensor, copy: Callable[[Tensor, Tensor], object] = Tensor.copy_, first: int = 0) -> None:
        """Nothing is copied: the values are rounded, to memory of their own."""
        row, own = share(self.parts[part], tensor, first, tensor.shape[0])
        values = self._allocated()
        if self._scale is None:
            self._scale = torch.ones(self.shape[0], device=self._device)  # 1 of rows that pad a vocabulary
        for piece in torch.split(own, max(_ELEMENTS_A_PIECE // self.shape[1], 1)):
            end = row + piece.shape[0]
            values[row:end], self._scale[row:end] = round_int8(spread_blocks(piece.to(self._device, torch.float32), self._block))
            row = end
        if self._has_all(part, tensor.shape[0]):
            rows = RoundedRows(values, self._scale)
            self._tensor = self._scale = None
            self.num_bytes = self._finish_rows(rows)


@dataclass(frozen=True)
class Int8Linear:
    """Each weight is rounded as it comes, a few rows after the other.

    With ``spread``, blocks of the input are multiplied by a Hadamard matrix H before they are rounded, and those of the weight when
    it is packed: x H (W H)^T = x W^T. Rounding the input of all down projections moved SmolLM2-135M's next-token distribution by
    0.0120 nats (KL divergence) without and 0.0012 with it; it costs 0.5 ms a step of 1 row, 1.7 of 32, 12 of 256 (2026-11).
    """

    device: torch.device
    spread: bool = False

    @property
    def name(self) -> str:
        return "int8 (8-bit activations)"

    def for_gated_input(self) -> Int8Linear:
        return replace(self, spread=True)

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Tensor | RoundedRows], int]) -> Weight:
        if len(shape) == 2:
            return Int8Weight(shape, parts, finish, self._block(shape[1]), self.device)
        return Weight(shape, parts, finish, dtype=torch.float32, device=self.device)

    def pack(self, weight: Tensor | RoundedRows) -> tuple[PackedInt8, int]:
        if isinstance(weight, RoundedRows):
            packed = keep_int8(weight.values, weight.scale, self._block(weight.values.shape[1]))
        else:
            packed = pack_int8(weight, self._block(weight.shape[1]))
        return packed, packed.out_features * (packed.in_features + 4)

    def apply(self, x: Tensor, packed: PackedInt8, bias: Tensor | None) -> Tensor:
        return int8_linear(x, packed, bias)

    def _block(self, num_columns: int) -> int:
        return block_of(num_columns, _BLOCK) if self.spread else 1
