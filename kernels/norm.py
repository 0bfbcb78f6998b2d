"""RMS normalisation, alone and fused with the residual addition."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride, check_shape


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``y = weight * (x / sqrt(mean(x^2) + eps)).to(x.dtype)`` over the last dimension.

    x [..., H] fp32, fp16 or bf16, any outer strides; weight [H]. The statistics are fp32; the normalised value is rounded to
    x's dtype before it is multiplied by the weight, as transformers' LlamaRMSNorm does; beside a weight in fp32 it is not, and the
    product alone is rounded (Gemma, OLMo 2). Returns a new tensor [..., H] in x's dtype. (Zhang and Sennrich 2019, arXiv:1910.07467)
    """
    _check(x, weight)
    out: Tensor = implementation("norm", x.device.type).rms_norm(x, weight, eps)
    return out


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``r = x + residual`` (rounded to x's dtype); returns ``(rms_norm(r, weight, eps), r)``, both new tensors.

    x, residual [..., H] of the same dtype and shape; weight [H].
    """
    _check(x, weight)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise ValueError(f"residual {tuple(residual.shape)} {residual.dtype} differs from x {tuple(x.shape)} {x.dtype}")
    check_inner_stride("residual", residual)
    out: tuple[Tensor, Tensor] = implementation("norm", x.device.type).fused_add_rms_norm(x, residual, weight, eps)
    return out


def _check(x: Tensor, weight: Tensor) -> None:
    check_float("x", x)
    check_shape("weight", weight, x.shape[-1])
    check_inner_stride("x", x)
