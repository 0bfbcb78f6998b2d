"""Matrix products with 8-bit weights and 8-bit activations quantised on the fly."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_shape
from headway.kernels.hadamard import spread_blocks
from headway.kernels.reference import quant_matmul as reference


@dataclass(frozen=True, slots=True)
class PackedInt8:
    """An [N, K] weight in 8 bits, one scale per output channel, in the layout of the implementation that packed it."""

    out_features: int  # N
    in_features: int  # K
    data: Any  # owned by the implementation
    implementation: ModuleType
    block: int = 1  # channels of an input, and of the weight before it was rounded, that are spread over one another: kernels/hadamard.py


def pack_int8(weight: Tensor, block: int = 1) -> PackedInt8:
    """Quantise a weight [N, K] (fp32, fp16, bf16): ``w ~ scale[n] * round(w / scale[n])``, ``scale[n] = max |w[n]| / 127``.

    Symmetric, per output channel. ``block``: a power of two that divides K, see PackedInt8. The packed copy is independent of
    ``weight``, which may be freed.
    """
    check_shape("weight", weight, -1, -1)
    module = implementation("quant_matmul", weight.device.type)
    data = module.pack_int8(spread_blocks(weight.float(), block))
    return PackedInt8(weight.shape[0], weight.shape[1], data, module, block)


def round_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What pack_int8 rounds a weight [N, K] to: values [N, K] int8, scale [N] fp32."""
    check_shape("weight", weight, -1, -1)
    return reference.pack_int8(weight.float())


def keep_int8(values: Tensor, scale: Tensor, block: int = 1) -> PackedInt8:
    """A weight that was quantised before, ``w[n] = scale[n] * values[n]``: values [N, K] int8, scale [N] fp32. Given up to the call.

    ``block``: as of pack_int8; the weight was spread before.
    """
    check_shape("values", values, -1, -1)
    check_shape("scale", scale, values.shape[0])
    if values.dtype != torch.int8 or scale.dtype != torch.float32:
        raise ValueError(f"values are {values.dtype} and scale is {scale.dtype}, expected torch.int8 and torch.float32")
    module = implementation("quant_matmul", values.device.type)
    return PackedInt8(values.shape[0], values.shape[1], module.keep_int8(values.contiguous(), scale.contiguous()), module, block)


def int8_linear(x: Tensor, packed: PackedInt8, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` with x quantised to 8 bits for the call; x [M, K], bias [N] -> [M, N] in x's dtype.

    x and bias are fp32, fp16 or bf16 (on the CPU fp32). Each token has its own scale, ``x[m] ~ s[m] * round(x[m] / s[m])`` with
    ``s[m] = max |x[m]| / 127``, after its channels were spread over one another where the weight's were, and
    products are summed exactly in int32: a token's result does not depend on the others of the
    call. The relative error is about 1 %, of which the activations make two thirds. (On a CPU without AVX-512 VNNI activations have
    7 bits: ``s[m] = max |x[m]| / 63``.)
    """
    check_shape("x", x, -1, packed.in_features)
    check_float("x", x)
    out: Tensor = packed.implementation.int8_linear(x, packed.data, bias, packed.block)
    return out
