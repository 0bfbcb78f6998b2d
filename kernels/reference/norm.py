"""RMS normalisation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See headway.kernels.norm.rms_norm."""
    value = x.float()
    value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + eps)
    if weight.dtype == torch.float32:
        return (weight * value).to(x.dtype)
    return weight.to(x.dtype) * value.to(x.dtype)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See headway.kernels.norm.fused_add_rms_norm."""
    total = x + residual
    return rms_norm(total, weight, eps), total
