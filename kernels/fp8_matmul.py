"""Matrix products with weights in float8 (e4m3), and activations rounded to it on the fly."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride, check_shape

FP8 = torch.float8_e4m3fn
SCALE_BLOCK = 128  # rows and columns of a weight that share a scale, and channels of a token that do


def quantize_fp8(x: Tensor, group_size: int = 0) -> tuple[Tensor, Tensor]:
    """(q [M, K] float8_e4m3fn, scale [M, G] fp32) with ``x[m, k] ~ scale[m, k // group_size] * q[m, k]``; group 0: the whole row.

    x [M, K] fp32, fp16 or bf16, any strides; G = ceil(K / group_size); group_size 0 or a power of two. A scale is the largest magnitude
    of its channels (at least 1e-10) / 448; values are rounded to the nearest, ties to even. (Micikevicius et al., arXiv:2209.05433)
    """
    check_float("x", x)
    check_shape("x", x, -1, -1)
    if group_size and (group_size < 0 or group_size & (group_size - 1)):
        raise ValueError(f"group_size is {group_size}, expected 0 or a power of two")
    out: tuple[Tensor, Tensor] = implementation("fp8_matmul", x.device.type).quantize_fp8(x, group_size)
    return out


def fp8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, *, quantize_input: bool = True) -> Tensor:
    """``x @ w.T + bias`` with ``w[n, k] = scale * weight[n, k]``; x [M, K], bias [N] (fp32, fp16, bf16) -> [M, N] in x's dtype.

    weight [N, K] float8_e4m3fn. Its scale, fp32, tells what is done to x, unless ``quantize_input`` is off:

    | weight_scale | of | x is rounded by quantize_fp8 with a scale |
    |---|---|---|
    | [1] | the whole weight | a token |
    | [N] | each output channel | a token |
    | [ceil(N / 128), ceil(K / 128)] | each block of 128 x 128 (DeepSeek-V3, arXiv:2412.19437) | a token's 128 channels |

    Sums are fp32. A chip without fp8 arithmetic multiplies the same values in bf16.
    """
    check_float("x", x)
    check_shape("weight", weight, -1, x.shape[1])
    check_inner_stride("weight", weight)
    if weight.dtype != FP8:
        raise ValueError(f"weight is {weight.dtype}, expected {FP8}")
    n, k = weight.shape
    shapes = ((1,), (n,), (-(-n // SCALE_BLOCK), -(-k // SCALE_BLOCK)))
    if tuple(weight_scale.shape) not in shapes or weight_scale.dtype != torch.float32 or not weight_scale.is_contiguous():
        raise ValueError(f"weight_scale is {weight_scale.dtype} {tuple(weight_scale.shape)}, expected contiguous fp32 of one of {shapes}")
    module = implementation("fp8_matmul", x.device.type)
    out: Tensor = module.fp8_linear(x, weight, weight_scale, bias, quantize_input=quantize_input)
    return out
