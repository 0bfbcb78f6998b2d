"""Dense matrix products, with plain weights or with weights packed once for the device."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_shape


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """An [N, K] weight in the layout of the implementation that packed it."""

    out_features: int  # N
    in_features: int  # K
    dtype: torch.dtype
    data: Any  # owned by the implementation
    implementation: ModuleType


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x [..., K], weight [N, K], bias [N], one dtype -> [..., N]. The BLAS of the device does it."""
    return functional.linear(x, weight, bias)


def pack_linear(weight: Tensor) -> PackedLinear:
    """Arrange a weight [N, K] (fp32, fp16, bf16) as the device's matrix product likes it best.

    May copy (on the CPU it does, same size) or keep ``weight`` itself: do not change it afterwards, free it if not needed otherwise.
    """
    check_float("weight", weight)
    check_shape("weight", weight, -1, -1)
    module = implementation("linear", weight.device.type)
    return PackedLinear(weight.shape[0], weight.shape[1], weight.dtype, module.pack_linear(weight), module)


def packed_linear(x: Tensor, packed: PackedLinear, bias: Tensor | None = None) -> Tensor:
    """``linear`` with a packed weight: x [..., K] in its dtype, bias [N] -> [..., N]. Sums may be ordered differently."""
    if x.dtype != packed.dtype or x.shape[-1] != packed.in_features:
        raise ValueError(f"x {tuple(x.shape)} {x.dtype} does not fit a weight of {packed.in_features} columns in {packed.dtype}")
    out: Tensor = packed.implementation.packed_linear(x, packed.data, bias)
    return out
