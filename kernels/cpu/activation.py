"""Gated activations with one temporary instead of two.

300 us against 424 us for silu_and_mul at [512, 3072] fp32, 18 against 21 us at [32, 3072] (2026-11, EPYC with AVX-512, 2 threads).
torch's silu and gelu compute in fp32 and round to the input dtype themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from headway.kernels.cpu.native.library import function


def silu_and_mul(x: Tensor) -> Tensor:
    """See headway.kernels.activation.silu_and_mul."""
    if (kernel := function("silu_and_mul", x.dtype)) is not None and x.dim() == 2 and x.stride(1) == 1 and x.numel() > 0:
        rows, size = x.shape[0], x.shape[1] // 2
        out = torch.empty((rows, size), dtype=x.dtype)
        kernel(out.data_ptr(), x.data_ptr(), rows, size, x.stride(0))
        return out
    gate, up = x.chunk(2, dim=-1)
    return silu(gate).mul_(up)


def gelu_and_mul(x: Tensor, *, tanh: bool = False) -> Tensor:
    """See headway.kernels.activation.gelu_and_mul."""
    gate, up = x.chunk(2, dim=-1)
    return gelu(gate, approximate="tanh" if tanh else "none").mul_(up)
