"""Weights in the dtype of the activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.linear import PackedLinear, pack_linear, packed_linear
from headway.server.layers.weight import Part, Weight

_SHORT_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class UnquantizedLinear:
    """Keeps the weight as loaded, rounded to ``dtype``."""

    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        return _SHORT_NAMES[self.dtype]

    @property
    def stacks_experts(self) -> bool:
        return self.device.type == "cuda"

    def for_gated_input(self) -> UnquantizedLinear:
        return self

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Tensor], int]) -> Weight:
        return Weight(shape, parts, finish, dtype=self.dtype, device=self.device)

    def pack(self, weight: Tensor) -> tuple[PackedLinear, int]:
        return pack_linear(weight), weight.nbytes

    def pack_expert(self, weight: Tensor) -> Tensor:
        return weight

    def apply(self, x: Tensor, packed: PackedLinear, bias: Tensor | None) -> Tensor:
        return packed_linear(x, packed, bias)
