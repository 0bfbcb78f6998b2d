"""Gated activations of the feed-forward layers."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride


def silu_and_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` with ``gate, up`` the halves of x [..., 2 I]; silu(a) = a / (1 + exp(-a)).

    x fp32, fp16 or bf16, any outer strides. silu is computed in fp32 and rounded to x's dtype before the product, as
    transformers' feed-forward layers do. Returns a new contiguous [..., I] in x's dtype. (Shazeer 2020, arXiv:2002.05202)
    """
    _check(x)
    out: Tensor = implementation("activation", x.device.type).silu_and_mul(x)
    return out


def gelu_and_mul(x: Tensor, *, tanh: bool = False) -> Tensor:
    """``gelu(gate) * up`` with ``gate, up`` the halves of x [..., 2 I].

    gelu(a) = a / 2 * (1 + erf(a / sqrt 2)), or with ``tanh`` its approximation
    a / 2 * (1 + tanh(sqrt(2 / pi) * (a + 0.044715 a^3))). Dtypes, rounding and result as in silu_and_mul.
    """
    _check(x)
    out: Tensor = implementation("activation", x.device.type).gelu_and_mul(x, tanh=tanh)
    return out


def _check(x: Tensor) -> None:
    check_float("x", x)
    check_inner_stride("x", x)
    if x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; the last dimension must hold gate and up, so be even")
