"""Activations rounded to 8 bits on the fly, with a scale for each token or for each group of a token's channels."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.functions import round_e4m3, round_even
from headway.kernels.hadamard import spread_blocks

MAX_BLOCK = 4096
GROUPS = 8  # groups a program
SMALLEST_SPREAD = 16  # that tensor cores take
BLOCKS = 16  # that are spread at once: with 32 of 128 channels registers spill on Hopper


@triton.jit
def _rounded(x, scale, LIMIT: tl.constexpr, IS_INTEGER: tl.constexpr):
    value = tl.div_rn(x, scale)
    if IS_INTEGER:
        return round_even(value)
    return round_e4m3(tl.minimum(tl.maximum(value, -LIMIT), LIMIT))


@triton.jit
def quantize_rows_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    x_stride_row,
    x_stride_column,
    size,
    SMALLEST: tl.constexpr,
    LIMIT: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x_row = x_ptr + row * x_stride_row
    largest, poison = tl.zeros([BLOCK], dtype=tl.float32), tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, size, BLOCK):
        x = tl.load(x_row + (start + column) * x_stride_column, mask=start + column < size, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(x))
        poison += x * 0.0  # NaN where x is not finite: maximum and casts would hide it
    scale = tl.div_rn(tl.maximum(tl.max(largest, axis=0), SMALLEST), LIMIT) + tl.sum(poison, axis=0)
    tl.store(scale_ptr + row, scale)
    for start in range(0, size, BLOCK):  # the row is in the cache now
        inside = start + column < size
        x = tl.load(x_row + (start + column) * x_stride_column, mask=inside, other=0.0).to(tl.float32)
        value = _rounded(x, scale, LIMIT, IS_INTEGER)
        tl.store(out_ptr + row * size + start + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _signs(SPREAD: tl.constexpr):
    """Sylvester's matrix of +-1: the parity of the bits that row and column share."""
    i = tl.arange(0, SPREAD)
    shared = i[:, None] & i[None, :]
    shared = shared ^ (shared >> 4)
    shared = shared ^ (shared >> 2)
    shared = shared ^ (shared >> 1)
    return 1.0 - 2.0 * (shared & 1).to(tl.float32)


@triton.jit
def quantize_spread_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    x_stride_row,
    x_stride_column,
    size,
    SMALLEST: tl.constexpr,
    LIMIT: tl.constexpr,
    SPREAD: tl.constexpr,
    BLOCKS: tl.constexpr,
    UPCAST: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    signs = _signs(SPREAD)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCKS)[:, None] * SPREAD + tl.arange(0, SPREAD)[None, :]
    x_row = x_ptr + row * x_stride_row
    signs = signs.to(tl.float32 if UPCAST else x_ptr.dtype.element_ty)  # exact in all of them; the root of SPREAD comes after the sum
    root: tl.constexpr = SPREAD**-0.5
    largest, poison = tl.zeros([BLOCKS, SPREAD], dtype=tl.float32), tl.zeros([BLOCKS, SPREAD], dtype=tl.float32)
    for start in range(0, size, BLOCKS * SPREAD):
        x = tl.load(x_row + (start + column) * x_stride_column, mask=start + column < size, other=0.0).to(signs.dtype)
        largest = tl.maximum(largest, tl.abs(tl.dot(x, signs, input_precision="ieee")))
        poison += x.to(tl.float32) * 0.0
    scale = tl.div_rn(tl.maximum(tl.max(largest) * root, SMALLEST), LIMIT) + tl.sum(poison)
    tl.store(scale_ptr + row, scale)
    for start in range(0, size, BLOCKS * SPREAD):  # the row is in the cache now
        inside = start + column < size
        x = tl.load(x_row + (start + column) * x_stride_column, mask=inside, other=0.0).to(signs.dtype)
        spread = tl.dot(x, signs, input_precision="ieee") * root
        value = _rounded(spread, tl.broadcast_to(scale, spread.shape), LIMIT, True)
        tl.store(out_ptr + row * size + start + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def quantize_groups_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    x_stride_row,
    x_stride_column,
    size,
    num_groups,
    SMALLEST: tl.constexpr,
    LIMIT: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    inside = column < size
    x = tl.load(x_ptr + row * x_stride_row + column * x_stride_column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(x), axis=1), SMALLEST), LIMIT) + tl.sum(x * 0.0, axis=1)
    tl.store(scale_ptr + row * num_groups + group, scale, mask=group < num_groups)
    value = _rounded(x, tl.broadcast_to(scale[:, None], x.shape), LIMIT, False)
    tl.store(out_ptr + row * size + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def quantize_int8(x: Tensor, block: int = 1) -> tuple[Tensor, Tensor]:
    """x [M, K], any strides -> (int8 [M, K], scale [M] fp32), ``x[m] ~ scale[m] * q[m]``, scale[m] = max |x[m]| / 127.

    ``block``: so many channels are first spread over one another, see kernels/hadamard.py.
    """
    out = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    if block >= SMALLEST_SPREAD:
        return out, _quantize_spread(x, out, block)
    spread = x if block == 1 else spread_blocks(x.float(), block)
    return out, _quantize_rows(spread, out, smallest=1e-20, limit=127.0)


def _quantize_spread(x: Tensor, out: Tensor, block: int) -> Tensor:
    scale = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if out.numel():
        quantize_spread_kernel[(x.shape[0],)](
            x,
            out,
            scale,
            *x.stride(),
            x.shape[1],
            SMALLEST=1e-20,
            LIMIT=127.0,
            SPREAD=block,
            BLOCKS=BLOCKS,
            UPCAST=is_interpreting(),
            num_warps=4,
            **launch_options(x.device),
        )
    return scale


def quantize_fp8(x: Tensor, group_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [M, K], any strides -> (values of e4m3 [M, K] in ``dtype``, scales fp32), as headway.kernels.fp8_matmul.quantize_fp8.

    ``dtype`` is float8_e4m3fn, or bfloat16, which holds the same values, where the chip has no fp8.
    """
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    num_rows, size = x.shape
    if not group_size:
        return out, _quantize_rows(x, out, smallest=1e-10, limit=448.0)[:, None]
    num_groups = triton.cdiv(size, group_size)
    scale = torch.empty((num_rows, num_groups), dtype=torch.float32, device=x.device)
    if out.numel():
        quantize_groups_kernel[(num_rows, triton.cdiv(num_groups, GROUPS))](
            x,
            out,
            scale,
            *x.stride(),
            size,
            num_groups,
            SMALLEST=1e-10,
            LIMIT=448.0,
            GROUPS=GROUPS,
            GROUP_SIZE=group_size,
            num_warps=4,
            **launch_options(x.device),
        )
    return out, scale


def _quantize_rows(x: Tensor, out: Tensor, *, smallest: float, limit: float) -> Tensor:
    scale = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if out.numel():
        block = min(triton.next_power_of_2(x.shape[1]), MAX_BLOCK)
        quantize_rows_kernel[(x.shape[0],)](
            x,
            out,
            scale,
            *x.stride(),
            x.shape[1],
            SMALLEST=smallest,
            LIMIT=limit,
            IS_INTEGER=out.dtype == torch.int8,
            BLOCK=block,
            num_warps=8 if block > 1024 else 4,
            **launch_options(x.device),
        )
    return scale
