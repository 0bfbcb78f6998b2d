"""8-bit matrix product in plain torch: the rounding spelt out, the integer products carried by fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.hadamard import spread_blocks


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] fp32 -> (int8 [N, K], scale [N] fp32). A row of zeros gets scale 1."""
    largest = weight.abs().amax(dim=1)
    scale = largest / torch.full_like(largest, 127)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight / scale[:, None]).clamp(-127, 127).to(torch.int8), scale


def keep_int8(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """See headway.kernels.quant_matmul.keep_int8."""
    return values, scale


def int8_linear(x: Tensor, data: tuple[Tensor, Tensor], bias: Tensor | None, block: int = 1) -> Tensor:
    """See headway.kernels.quant_matmul.int8_linear."""
    weight, weight_scale = data
    dtype, x = x.dtype, spread_blocks(x.float(), block)
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-20)
    scale = largest / torch.full_like(largest, 127)  # by a number CUDA would multiply with its inverse: another rounding
    out = torch.round(x / scale) @ weight.float().T * scale * weight_scale
    return (out if bias is None else out + bias).to(dtype)
