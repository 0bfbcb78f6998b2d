"""Gated activations in plain torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import gelu, silu


def silu_and_mul(x: Tensor) -> Tensor:
    """See headway.kernels.activation.silu_and_mul."""
    gate, up = x.chunk(2, dim=-1)
    return silu(gate.float()).to(x.dtype) * up


def gelu_and_mul(x: Tensor, *, tanh: bool = False) -> Tensor:
    """See headway.kernels.activation.gelu_and_mul."""
    gate, up = x.chunk(2, dim=-1)
    return gelu(gate.float(), approximate="tanh" if tanh else "none").to(x.dtype) * up
