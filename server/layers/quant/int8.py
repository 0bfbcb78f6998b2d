"""8-bit weights, one scale an output channel, with activations quantised to 8 bits on the fly. CPU only; fp32 in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.quant_matmul import PackedInt8, int8_linear, pack_int8
from headway.server.layers.weight import Part, Weight


@dataclass(frozen=True)
class Int8Linear:
    """Packs each weight as soon as it is complete, so only one is held in fp32 at a time."""

    device: torch.device

    @property
    def name(self) -> str:
        return "int8 (8-bit activations)"

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Tensor], int]) -> Weight:
        return Weight(shape, parts, finish, dtype=torch.float32, device=self.device)

    def pack(self, weight: Tensor) -> tuple[PackedInt8, int]:
        num_rows, num_columns = weight.shape
        return pack_int8(weight), num_rows * num_columns + 4 * num_rows

    def apply(self, x: Tensor, packed: PackedInt8, bias: Tensor | None) -> Tensor:
        return int8_linear(x, packed, bias)
