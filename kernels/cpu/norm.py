"""RMS normalisation with fewer passes than the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.reference import norm as reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See headway.kernels.norm.rms_norm."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return reference.rms_norm(x, weight, eps)
    # 15 against 19 us at [32, 576], 86 against 100 us at [512, 576]; torch's own rms_norm takes 16 and 94 us
    # (2026-11, EPYC with AVX-512, 2 threads).
    scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * scale).mul_(weight)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See headway.kernels.norm.fused_add_rms_norm."""
    total = x + residual
    return rms_norm(total, weight, eps), total
