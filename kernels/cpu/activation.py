"""Gated activations with one temporary instead of two.

300 us against 424 us for silu_and_mul at [512, 3072] fp32, 18 against 21 us at [32, 3072] (2026-11, EPYC with AVX-512, 2 threads).
torch's silu and gelu compute in fp32 and round to the input dtype themselves.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import gelu, silu


def silu_and_mul(x: Tensor) -> Tensor:
    """See headway.kernels.activation.silu_and_mul."""
    gate, up = x.chunk(2, dim=-1)
    return silu(gate).mul_(up)


def gelu_and_mul(x: Tensor, *, tanh: bool = False) -> Tensor:
    """See headway.kernels.activation.gelu_and_mul."""
    gate, up = x.chunk(2, dim=-1)
    return gelu(gate, approximate="tanh" if tanh else "none").mul_(up)
