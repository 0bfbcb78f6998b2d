"""8-bit matrix product in Triton: activations rounded a token at a time, integer products summed exactly, scales at the end.

Products are computed transposed, weights first: Hopper's matrix units want 64 rows of their first operand, and 16 of the second do.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.device import chip, num_multiprocessors
from headway.kernels.gpu.quantize import quantize_int8
from headway.kernels.gpu.split_k import estimate_tiles, part_of, sum_parts, tile_of
from headway.kernels.reference import quant_matmul as reference
from headway.kernels.tuned import tuned_tiles

BLOCK_K = 128


@triton.jit(do_not_specialize=["num_rows"])
def int8_kernel(
    x_ptr,
    weight_ptr,
    x_scale_ptr,
    weight_scale_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    out_features,
    in_features,
    x_stride,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(num_rows, BLOCK_M), tl.cdiv(out_features, BLOCK_N), 8)
    split = tl.program_id(1)
    m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < num_rows, n < out_features
    x_rows = x_ptr + m[:, None] * x_stride
    weight_rows = weight_ptr + n[:, None] * weight_stride
    begin, end = part_of(in_features, split, NUM_SPLITS, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.int32)
    for start in range(begin, end, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_rows + k[None, :], mask=in_m[:, None] & (k < end)[None, :], other=0)
        weight = tl.load(weight_rows + k[None, :], mask=in_n[:, None] & (k < end)[None, :], other=0)
        acc = tl.dot(weight, tl.trans(x), acc, out_dtype=tl.int32)
    acc = tl.trans(acc)
    mask = in_m[:, None] & in_n[None, :]
    if NUM_SPLITS > 1:
        rows = split.to(tl.int64) * num_rows + m
        tl.store(out_ptr + rows[:, None] * out_features + n[None, :], acc, mask=mask)
    else:
        x_scale = tl.load(x_scale_ptr + m, mask=in_m, other=0.0)
        value = acc.to(tl.float32) * x_scale[:, None] * tl.load(weight_scale_ptr + n, mask=in_n, other=0.0)[None, :]
        if HAS_BIAS:
            value += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
        tl.store(out_ptr + m[:, None] * out_features + n[None, :], value.to(out_ptr.dtype.element_ty), mask=mask)


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """See headway.kernels.quant_matmul.pack_int8: rows along K, as the integer matrix units read both operands."""
    return reference.pack_int8(weight)


def keep_int8(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """See headway.kernels.quant_matmul.keep_int8."""
    return values, scale


def int8_linear(x: Tensor, data: tuple[Tensor, Tensor], bias: Tensor | None, block: int = 1) -> Tensor:
    """See headway.kernels.quant_matmul.int8_linear."""
    weight, weight_scale = data
    (num_rows, in_features), out_features = x.shape, weight.shape[0]
    out = torch.empty((num_rows, out_features), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    rounded, scale = quantize_int8(x, block)
    tiles = tuned_tiles("int8_linear", chip(x.device), (out_features, in_features), num_rows)
    tiles = tiles or estimate_tiles(num_rows, out_features, in_features, BLOCK_K, num_multiprocessors(x.device))
    parts = out
    if tiles.num_splits > 1:
        parts = torch.empty((tiles.num_splits, num_rows, out_features), dtype=torch.int32, device=x.device)
    num_tiles = triton.cdiv(num_rows, tiles.block_m) * triton.cdiv(out_features, tiles.block_n)
    int8_kernel[(num_tiles, tiles.num_splits)](
        rounded,
        weight,
        scale,
        weight_scale,
        out if bias is None else bias,
        parts,
        num_rows,
        out_features,
        in_features,
        rounded.stride(0),
        weight.stride(0),
        HAS_BIAS=bias is not None,
        NUM_SPLITS=tiles.num_splits,
        BLOCK_M=tiles.block_m,
        BLOCK_N=tiles.block_n,
        BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x.device),
    )
    if tiles.num_splits > 1:
        sum_parts(parts, scale, weight_scale, bias, out)
    return out
