"""float8 matrix product in plain torch: everything is brought back to fp32 before it is multiplied."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 128


def quantize_fp8(x: Tensor, group_size: int = 0) -> tuple[Tensor, Tensor]:
    """See headway.kernels.fp8_matmul.quantize_fp8."""
    num_rows, size = x.shape
    group = group_size or size
    num_groups = -(-size // group)
    padded = functional.pad(x.float(), (0, num_groups * group - size)).view(num_rows, num_groups, group)
    largest = padded.abs().amax(dim=2).clamp(min=1e-10)
    scale = largest / torch.full_like(largest, 448)  # by a number CUDA would multiply with its inverse: another rounding
    rounded = (padded / scale[:, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return rounded.view(num_rows, num_groups * group)[:, :size].contiguous(), scale


def fp8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, quantize_input: bool) -> Tensor:
    """See headway.kernels.fp8_matmul.fp8_linear."""
    is_blocked = weight_scale.dim() == 2
    value = x.float()
    if quantize_input:
        rounded, scale = quantize_fp8(x, _BLOCK if is_blocked else 0)
        value = rounded.float() * _spread(scale, 1, x.shape[1], _BLOCK if is_blocked else x.shape[1])
    scale = weight_scale[:, None]
    if is_blocked:
        scale = _spread(_spread(weight_scale, 0, weight.shape[0], _BLOCK), 1, weight.shape[1], _BLOCK)
    out = value @ (weight.float() * scale).T
    return (out if bias is None else out + bias).to(x.dtype)


def _spread(scale: Tensor, dim: int, size: int, block: int) -> Tensor:
    return scale.repeat_interleave(block, dim=dim).narrow(dim, 0, size)
