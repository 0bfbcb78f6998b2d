"""Matrix product with weights of 4 or 8 bits in groups in Triton, weights unpacked in registers.

One row is multiplied by int4_single_row.py. With a few more K is split, and a group's products are scaled after they are summed: q is
exact in any dtype, and a tile of results has fewer elements than a tile of weights. For many weights are scaled, and rounded, before: once,
by dequantize.py, for a plain product.
Results are computed transposed, weights first: that operand of the matrix units may come from registers on every chip.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import linear

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.dequantize import dequantize, wide_rows
from headway.kernels.gpu.device import chip, num_multiprocessors
from headway.kernels.gpu.functions import plus_power
from headway.kernels.gpu.int4_single_row import int4_single_row
from headway.kernels.gpu.split_k import choose_num_splits, part_of, sum_parts, tile_of
from headway.kernels.int4_layout import PackedInt4
from headway.kernels.tuned import Tiles, tuned_tiles


@triton.jit(do_not_specialize=["num_rows"])
def int4_kernel(
    x_ptr,
    order_ptr,
    weight_ptr,
    scale_ptr,
    offset_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    out_features,
    in_features,
    group_size,
    x_stride,
    x_stride_k,
    weight_stride,
    HAS_ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HALF: tl.constexpr,
    BITS: tl.constexpr,
    UPCAST: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(num_rows, BLOCK_M), tl.cdiv(out_features, BLOCK_N), 8)
    split = tl.program_id(1)
    m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < num_rows, n < out_features
    column = tl.arange(0, HALF)
    x_rows = x_ptr + m[:, None] * x_stride
    weight_rows = weight_ptr + n[:, None] * weight_stride
    begin, end = part_of(in_features, split, NUM_SPLITS, 2 * HALF)
    acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for start in range(begin, end, 2 * HALF):
        # Rows of bytes are padded to whole chunks, so they need no mask along K: what lies beyond meets zeros of x.
        if BITS == 4:
            both = tl.load(weight_rows + start // 2 + column[None, :], mask=in_n[:, None], other=0)
        for high in tl.static_range(2):
            first = start + high * HALF
            k = first + column
            in_k = k < in_features
            if HAS_ORDER:
                k = tl.load(order_ptr + k, mask=in_k, other=0)
            x = tl.load(x_rows + k[None, :] * x_stride_k, mask=in_m[:, None] & in_k[None, :], other=0.0)
            group = tl.minimum(first, in_features - 1) // group_size
            scale = tl.load(scale_ptr + group * out_features + n, mask=in_n, other=0.0).to(tl.float32)
            offset = tl.load(offset_ptr + group * out_features + n, mask=in_n, other=0.0).to(tl.float32)
            if BITS == 4:
                q = (both >> 4) if high else (both & 15)
            else:
                q = tl.load(weight_rows + first + column[None, :], mask=in_n[:, None], other=0)
            weight, offset = plus_power(q, scale, offset, x.dtype, BITS)
            if UPCAST:
                x, weight = x.to(tl.float32), weight.to(tl.float32)
            product = tl.dot(weight, tl.trans(x), input_precision="ieee")
            total = tl.sum(x.to(tl.float32), axis=1)
            acc += product * scale[:, None] + offset[:, None] * total[None, :]
    if HAS_BIAS and NUM_SPLITS == 1:
        acc += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    rows = split.to(tl.int64) * num_rows + m
    out = out_ptr + rows[:, None] * out_features + n[None, :]
    tl.store(out, tl.trans(acc).to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


def int4_linear(x: Tensor, packed: PackedInt4, bias: Tensor | None) -> Tensor:
    """See headway.kernels.int4_matmul.int4_linear."""
    (num_rows, in_features), out_features = x.shape, packed.out_features
    out = torch.empty((num_rows, out_features), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    if num_rows >= wide_rows(packed.group_size):
        return linear(x, dequantize(packed, x.dtype), None if bias is None else bias.to(x.dtype))
    operation = "int4_linear" if packed.bits == 4 else "int8_groups_linear"
    tiles = tuned_tiles(operation, chip(x.device), (out_features, in_features, packed.group_size), num_rows)
    tiles = tiles or estimate(num_rows, (out_features, in_features), packed.half, x.dtype, num_multiprocessors(x.device))
    if tiles.block_m == 1:
        return int4_single_row(x, packed, bias, tiles)
    order = packed.order
    parts = out
    if tiles.num_splits > 1:
        parts = torch.empty((tiles.num_splits, num_rows, out_features), dtype=torch.float32, device=x.device)
    num_tiles = triton.cdiv(num_rows, tiles.block_m) * triton.cdiv(out_features, tiles.block_n)
    int4_kernel[(num_tiles, tiles.num_splits)](
        x,
        packed.weight if order is None else order,
        packed.weight,
        packed.scale,
        packed.offset,
        out if bias is None else bias,
        parts,
        num_rows,
        out_features,
        in_features,
        packed.group_size,
        *x.stride(),
        packed.weight.stride(0),
        HAS_ORDER=order is not None,
        HAS_BIAS=bias is not None,
        NUM_SPLITS=tiles.num_splits,
        BLOCK_M=tiles.block_m,
        BLOCK_N=tiles.block_n,
        HALF=packed.half,
        BITS=packed.bits,
        UPCAST=is_interpreting(),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x.device),
    )
    if tiles.num_splits > 1:
        sum_parts(parts, None, None, bias, out)
    return out


def estimate(num_rows: int, size: tuple[int, int], half: int, dtype: torch.dtype, num_multiprocessors: int) -> Tiles:
    """For fewer than wide_rows() rows. Stages of x and bytes and the unpacked weights stay under the 99 KiB of sm_86 and sm_89."""
    out_features, in_features = size
    chunk = 2 * half
    if num_rows == 1:
        # In groups of 32, H200, 2026-11-27: 28672 x 4096 in 48 us with 1024 columns, 67 with 2048; 4096 x 14336 in 49 and 34.
        most = 1024 if half == 32 and in_features <= 8192 else 2048
        return Tiles(1, 16, min(most, triton.next_power_of_2(max(in_features, chunk))), num_warps=4, num_stages=1)
    # The work on x is shared by a tile's columns: of 128 instead of 64, 11.8 instead of 8.7 bytes of weights an issue slot (sm_90).
    block_m = max(16, triton.next_power_of_2(num_rows))
    block_n = 128 if block_m <= 32 and dtype.itemsize == 2 else 64
    num_tiles = triton.cdiv(out_features, block_n)
    num_splits = choose_num_splits(num_rows, num_tiles, in_features, chunk, in_features // 64, num_multiprocessors)
    num_stages = 4 if block_m <= 32 and dtype.itemsize == 2 else 2
    return Tiles(block_m, block_n, chunk, num_splits, num_warps=4, num_stages=num_stages)
