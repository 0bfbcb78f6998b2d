"""Matrix products of 4-bit or 8-bit weights with activations that are rounded to 8 bits, both in groups of 32 inputs."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_shape
from headway.kernels.grouped_layout import GroupedValues


@dataclass(frozen=True, slots=True)
class PackedGrouped:
    """An [N, K] weight in the layout of the implementation that packed it."""

    out_features: int  # N
    in_features: int  # K
    num_bytes: int
    data: Any  # owned by the implementation
    implementation: ModuleType


def pack_grouped(weight: GroupedValues) -> PackedGrouped:
    """Arrange a weight for ``grouped_linear``. The packed copy is independent of ``weight``, which may be freed."""
    weight.check()
    module = implementation("grouped_matmul", weight.values.device.type)
    data, num_bytes = module.pack_grouped(weight)
    return PackedGrouped(weight.shape[0], weight.shape[1], num_bytes, data, module)


def grouped_linear(x: Tensor, packed: PackedGrouped, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` with x rounded to 8 bits for the call; x [M, K] and bias [N] fp32 -> [M, N] fp32.

    Each group of 32 of a row has its own scale, ``x ~ s round(x / s)`` with ``s = max |x| / 127``, and is multiplied exactly in
    integers, as users of quantised GGUFs know it from llama.cpp. A row's result does not depend on the others of the call.
    """
    check_shape("x", x, -1, packed.in_features)
    if x.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}, expected torch.float32")
    out: Tensor = packed.implementation.grouped_linear(x, packed.data, bias)
    return out
