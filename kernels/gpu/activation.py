"""Gated activations in Triton: one program a row and a block of columns."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.functions import sigmoid, tanh

BLOCK = 1024


@triton.jit
def gated_kernel(x_ptr, out_ptr, x_stride, size, KIND: tl.constexpr, BLOCK: tl.constexpr, IS_DEPENDENT: tl.constexpr):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    gate = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + size + column, mask=mask, other=0.0).to(tl.float32)
    if KIND == "silu":
        value = gate * sigmoid(gate)
    elif KIND == "gelu":
        value = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        value = 0.5 * gate * (1.0 + tanh(inner))
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + row * size + column, (value.to(dtype).to(tl.float32) * up).to(dtype), mask=mask)


def silu_and_mul(x: Tensor) -> Tensor:
    """See headway.kernels.activation.silu_and_mul."""
    return _launch(x, "silu")


def gelu_and_mul(x: Tensor, *, tanh: bool = False) -> Tensor:
    """See headway.kernels.activation.gelu_and_mul."""
    return _launch(x, "gelu_tanh" if tanh else "gelu")


def _launch(x: Tensor, kind: str) -> Tensor:
    size = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], size), dtype=x.dtype, device=x.device)
    if out.numel():
        rows = x.reshape(-1, x.shape[-1])  # a view unless there are several outer strides
        grid, options = (rows.shape[0], triton.cdiv(size, BLOCK)), launch_options(x.device)
        gated_kernel[grid](rows, out, rows.stride(0), size, KIND=kind, BLOCK=BLOCK, num_warps=4, **options)
    return out
