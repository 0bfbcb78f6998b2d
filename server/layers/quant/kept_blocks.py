"""The weights of a quantised GGUF on a GPU: 4 or 8 bits in groups of 32, multiplied with activations as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headway.kernels.expert_weights import ExpertWeights, Int4Experts
from headway.kernels.int4_layout import Int4Packer, PackedInt4
from headway.kernels.linear import PackedLinear
from headway.server.layers.quant.grouped import GroupedWeight
from headway.server.layers.quant.kept import KeptLinear, KeptParts
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import GGUF_NAME
from headway.server.layers.weight import Part, Weight


@dataclass(frozen=True)
class KeptBlocksLinear(KeptLinear):
    """Blocks of 4 bits stay as they are; all others take 8, those that have no scale for 32 weights rounded once more. A head that is the
    embedding too is plain."""

    @property
    def name(self) -> str:
        return GGUF_NAME

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Any], int]) -> Weight:
        if len(shape) == 2:
            return GroupedWeight(shape, parts, finish, self.device, Int4Packer)
        return Weight(shape, parts, finish, dtype=self.dtype, device=self.device)

    def pack(self, weight: Tensor | PackedInt4 | list[QuantizedValues]) -> tuple[KeptParts | PackedLinear, int]:
        return (KeptParts((weight,)), weight.num_bytes) if isinstance(weight, PackedInt4) else super().pack(weight)

    def pack_expert(self, weight: Tensor | PackedInt4 | list[QuantizedValues]) -> ExpertWeights:
        return Int4Experts.of(weight) if isinstance(weight, PackedInt4) else super().pack_expert(weight)
