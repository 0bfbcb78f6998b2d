"""RMS normalisation in Triton: one program a row, the row in registers."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    total_ptr,
    x_stride_outer,
    x_stride_inner,
    residual_stride_outer,
    residual_stride_inner,
    num_inner,
    hidden_size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    outer, inner = row // num_inner, row % num_inner
    column = tl.arange(0, BLOCK)
    mask = column < hidden_size
    dtype = out_ptr.dtype.element_ty
    value = tl.load(x_ptr + outer * x_stride_outer + inner * x_stride_inner + column, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual_row = residual_ptr + outer * residual_stride_outer + inner * residual_stride_inner
        value += tl.load(residual_row + column, mask=mask, other=0.0).to(tl.float32)
        total = value.to(dtype)  # the norm sees the rounded sum, as the reference does
        tl.store(total_ptr + row * hidden_size + column, total, mask=mask)
        value = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / hidden_size + eps)
    normed = value * scale
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0)
    if weight_ptr.dtype.element_ty != tl.float32:
        normed = normed.to(dtype).to(tl.float32)
        weight = weight.to(dtype).to(tl.float32)
    tl.store(out_ptr + row * hidden_size + column, (normed * weight).to(dtype), mask=mask)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See headway.kernels.norm.rms_norm."""
    return _launch(x, None, weight, eps)[0]


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See headway.kernels.norm.fused_add_rms_norm."""
    return _launch(x, residual, weight, eps)


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    hidden_size = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = out if residual is None else torch.empty_like(out)
    if out.numel() == 0:
        return out, total
    rows = _outer_inner(x)
    other = rows if residual is None else _outer_inner(residual)
    block = triton.next_power_of_2(hidden_size)
    rms_norm_kernel[(rows.shape[0] * rows.shape[1],)](
        rows,
        other,
        weight.contiguous(),
        out,
        total,
        rows.stride(0),
        rows.stride(1),
        other.stride(0),
        other.stride(1),
        rows.shape[1],
        hidden_size,
        eps,
        HAS_RESIDUAL=residual is not None,
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 16),
        **launch_options(x.device),
    )
    return out, total


def _outer_inner(x: Tensor) -> Tensor:
    """A view [outer, inner, H]: heads of a fused QKV output have two outer strides. Only more dimensions may need a copy."""
    if x.dim() == 3:
        return x
    return x.reshape(-1, 1, x.shape[-1])
