"""float8 matrix product in Triton. Chips without fp8 decode the weight's bytes in registers and multiply the same values in bf16.

Products are computed transposed, weights first: that operand may come from registers, and Hopper's units want 64 rows of it. With 16
tokens first, Triton multiplies in fp16 what it has converted from fp8.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.device import chip, has_fp8, num_multiprocessors
from headway.kernels.gpu.functions import e4m3_to_fp16
from headway.kernels.gpu.quantize import quantize_fp8 as quantize_values
from headway.kernels.gpu.split_k import estimate_tiles, part_of, sum_parts, tile_of
from headway.kernels.tuned import Tiles, tuned_tiles

SCALE_BLOCK = 128


@triton.jit(do_not_specialize=["num_rows"])
def fp8_kernel(
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
    x_stride_k,
    weight_stride,
    num_groups,
    HAS_X_SCALE: tl.constexpr,
    IS_BLOCKED: tl.constexpr,
    IS_PER_CHANNEL: tl.constexpr,
    SCALE_BLOCK: tl.constexpr,
    IS_BYTES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
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
    x_rows = x_ptr + m[:, None] * x_stride
    weight_rows = weight_ptr + n[:, None] * weight_stride
    weight_scales = weight_scale_ptr + tile_n * BLOCK_N // SCALE_BLOCK * num_groups  # a tile has one scale for all of its columns
    begin, end = part_of(in_features, split, NUM_SPLITS, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for start in range(begin, end, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = k < end
        x = tl.load(x_rows + k[None, :] * x_stride_k, mask=in_m[:, None] & in_k[None, :], other=0.0)
        weight = tl.load(weight_rows + k[None, :], mask=in_n[:, None] & in_k[None, :], other=0.0)
        if IS_BYTES:
            weight = e4m3_to_fp16(weight)
        if UPCAST:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        elif x.dtype != weight.dtype:
            weight = weight.to(x.dtype)
        # Hopper's fp8 units keep about 14 bits of a sum; after BLOCK_K products it moves on to fp32.
        if IS_BLOCKED:
            group = start // SCALE_BLOCK
            product = tl.dot(weight, tl.trans(x), input_precision="ieee", max_num_imprecise_acc=BLOCK_K)
            scale = tl.load(weight_scales + group)
            if HAS_X_SCALE:
                acc += product * (tl.load(x_scale_ptr + m * num_groups + group, mask=in_m, other=0.0) * scale)[None, :]
            else:
                acc += product * scale
        else:
            acc = tl.dot(weight, tl.trans(x), acc, input_precision="ieee", max_num_imprecise_acc=BLOCK_K)
    acc = tl.trans(acc)
    if IS_BYTES:
        acc = acc * 256.0
    if not IS_BLOCKED:
        acc = acc * tl.load(weight_scale_ptr + (n if IS_PER_CHANNEL else 0 * n), mask=in_n, other=0.0)[None, :]
        if HAS_X_SCALE:
            acc = acc * tl.load(x_scale_ptr + m, mask=in_m, other=0.0)[:, None]
    if HAS_BIAS and NUM_SPLITS == 1:
        acc += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    rows = split.to(tl.int64) * num_rows + m
    out = out_ptr + rows[:, None] * out_features + n[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


def quantize_fp8(x: Tensor, group_size: int = 0) -> tuple[Tensor, Tensor]:
    """See headway.kernels.fp8_matmul.quantize_fp8."""
    if has_fp8(x.device):
        return quantize_values(x, group_size, torch.float8_e4m3fn)
    values, scale = quantize_values(x, group_size, torch.bfloat16)
    return values.to(torch.float8_e4m3fn), scale


def fp8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, quantize_input: bool) -> Tensor:
    """See headway.kernels.fp8_matmul.fp8_linear."""
    (num_rows, in_features), out_features = x.shape, weight.shape[0]
    out = torch.empty((num_rows, out_features), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    is_native, is_blocked = has_fp8(x.device), weight_scale.dim() == 2
    x_scale = out
    if quantize_input:
        dtype = torch.float8_e4m3fn if is_native else torch.bfloat16
        x, x_scale = quantize_values(x, SCALE_BLOCK if is_blocked else 0, dtype)
    sizes = (out_features, in_features, x.itemsize, SCALE_BLOCK if is_blocked else 0)
    tiles = tuned_tiles("fp8_linear", chip(x.device), sizes, num_rows)
    tiles = tiles or estimate(num_rows, out_features, in_features, x.itemsize, num_multiprocessors(x.device))
    assert not is_blocked or SCALE_BLOCK % tiles.block_n == SCALE_BLOCK % tiles.block_k == 0, f"{tiles} reach over blocks of scales"
    parts = out
    if tiles.num_splits > 1:
        parts = torch.empty((tiles.num_splits, num_rows, out_features), dtype=torch.float32, device=x.device)
    num_tiles = triton.cdiv(num_rows, tiles.block_m) * triton.cdiv(out_features, tiles.block_n)
    fp8_kernel[(num_tiles, tiles.num_splits)](
        x,
        weight if is_native else weight.view(torch.uint8),
        x_scale,
        weight_scale,
        out if bias is None else bias,
        parts,
        num_rows,
        out_features,
        in_features,
        *x.stride(),
        weight.stride(0),
        triton.cdiv(in_features, SCALE_BLOCK),
        HAS_X_SCALE=quantize_input,
        IS_BLOCKED=is_blocked,
        IS_PER_CHANNEL=weight_scale.numel() > 1,
        SCALE_BLOCK=SCALE_BLOCK,
        IS_BYTES=not is_native,
        HAS_BIAS=bias is not None,
        NUM_SPLITS=tiles.num_splits,
        BLOCK_M=tiles.block_m,
        BLOCK_N=tiles.block_n,
        BLOCK_K=tiles.block_k,
        UPCAST=is_interpreting(),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x.device),
    )
    if tiles.num_splits > 1:
        sum_parts(parts, None, None, bias, out)
    return out


def estimate(num_rows: int, out_features: int, in_features: int, x_itemsize: int, num_multiprocessors: int) -> Tiles:
    """Tiles for x of ``x_itemsize`` bytes an element: fewer columns at a time where it is wider than the weight."""
    return estimate_tiles(num_rows, out_features, in_features, SCALE_BLOCK // x_itemsize, num_multiprocessors)
