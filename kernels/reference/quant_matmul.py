"""8-bit matrix product in plain torch: the rounding spelt out, the products in fp32 (exact: below 2^24 up to K of about 500,
and within one part in 10^7 beyond)."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] fp32 -> (int8 [N, K], scale [N, 1] fp32). A row of zeros gets scale 1."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight / scale).clamp(-127, 127).to(torch.int8), scale


def int8_linear(x: Tensor, data: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """See headway.kernels.quant_matmul.int8_linear. Affine uint8 activations, one scale for the call, zero always representable."""
    weight, scale = data
    if x.numel() == 0:
        return x.new_zeros(x.shape[0], weight.shape[0])
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    zero = torch.round(-low / step).clamp(0, 255)
    quantised = torch.round(x / step + zero).clamp(0, 255) - zero
    out = (quantised @ weight.float().T) * (step * scale.T)
    return out if bias is None else out + bias
