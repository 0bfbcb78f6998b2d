"""Dense matrix product for few rows in Triton: a program makes some columns of the result from all of K. More rows are the BLAS's.

Such a product is bound by reading the weight. With cold weights in bf16 an H200 takes, in microseconds, in brackets the share of the
time that reading and writing the bytes takes at its copy bandwidth (2026-11; benchmarks/results/2026-11-26-h200-2.md; the first session's
for 16 rows, before kernels began early):

    N x K            1 row: BLAS    ours           16 rows: BLAS   ours
    4096 x 4096      12.4 (64%)     8.7 (91%)      12.7 (63%)      12.0 (66%)
    6144 x 4096      15.3 (78%)     12.7 (94%)     16.1 (74%)      14.9 (80%)
    4096 x 14336     30.3 (92%)     26.8 (103%)    31.5 (89%)      32.5 (85%)
    28672 x 4096     54.7 (101%)    52.4 (106%)    56.3 (99%)      57.5 (96%)
    128256 x 4096    241.0 (103%)   226.3 (110%)   245.0 (102%)    242.7 (102%)

Where the BLAS is faster the chip's table says so (`tuned.py`), for what was compared in one run.
From 17 rows on the BLAS does it. Splitting K over programs gained nothing, so no parts need adding up, and a row's result depends
neither on scheduling nor, from 2 to 16 rows, on the other rows.
"""

# mypy: allow-incomplete-defs

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.device import chip, num_multiprocessors, shared_memory_bytes
from headway.kernels.tuned import LIBRARY, Tiles, tuned_tiles

MAX_ROWS = 16


@triton.jit
def single_row_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    out_features,
    in_features,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    IS_EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < out_features
    acc = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)  # summed once, at the end: within the loop threads exchange nothing
    k = tl.arange(0, BLOCK_K)
    weights = weight_ptr + n[:, None] * weight_stride + k[None, :]
    begin = 0
    if IS_EVEN and IS_DEPENDENT:  # the first weights are on their way while the kernel before makes x
        weight = tl.load(weights, mask=in_n[:, None], other=0.0)
        await_previous(IS_DEPENDENT)
        acc += weight.to(tl.float32) * tl.load(x_ptr + k).to(tl.float32)[None, :]
        begin = BLOCK_K
    else:
        await_previous(IS_DEPENDENT)
    for start in range(begin, in_features, BLOCK_K):
        # With a mask over k, or addresses made anew, loads wait for each other: on an H200 84.7 us for 28672 x 4096, not 60.7 (2026-11).
        if IS_EVEN:
            weight = tl.load(weights + start, mask=in_n[:, None], other=0.0)
            x = tl.load(x_ptr + start + k)
        else:
            in_k = start + k < in_features
            weight = tl.load(weights + start, mask=in_n[:, None] & in_k[None, :], other=0.0)
            x = tl.load(x_ptr + start + k, mask=in_k, other=0.0)
        acc += weight.to(tl.float32) * x.to(tl.float32)[None, :]
    value = tl.sum(acc, axis=1)
    if HAS_BIAS:
        value += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, value.to(out_ptr.dtype.element_ty), mask=in_n)


@triton.jit(do_not_specialize=["num_rows"])
def few_rows_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    out_features,
    in_features,
    x_stride,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    in_n, in_m = n < out_features, m < num_rows
    acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)  # weights first: Hopper's matrix units want 64 rows of that operand
    for start in range(0, in_features, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = k < in_features
        weight = tl.load(weight_ptr + n[:, None] * weight_stride + k[None, :], mask=in_n[:, None] & in_k[None, :], other=0.0)
        x = tl.load(x_ptr + m[:, None] * x_stride + k[None, :], mask=in_m[:, None] & in_k[None, :], other=0.0)
        if UPCAST:
            weight, x = weight.to(tl.float32), x.to(tl.float32)
        acc = tl.dot(weight, tl.trans(x), acc, input_precision="ieee")
    if HAS_BIAS:
        acc += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    mask = in_n[:, None] & in_m[None, :]
    tl.store(out_ptr + m[None, :] * out_features + n[:, None], acc.to(out_ptr.dtype.element_ty), mask=mask)


def pack_linear(weight: Tensor) -> Tensor:
    """See headway.kernels.linear.pack_linear."""
    return weight


def packed_linear(x: Tensor, data: Tensor, bias: Tensor | None) -> Tensor:
    """See headway.kernels.linear.packed_linear."""
    rows = x.reshape(-1, x.shape[-1])
    tiles = choose_tiles(rows, data)
    if tiles == LIBRARY:
        return functional.linear(x, data, bias)
    return narrow_linear(rows, data, bias, tiles).view(*x.shape[:-1], data.shape[0])


def choose_tiles(x: Tensor, weight: Tensor) -> Tiles:
    """Of ``narrow_linear`` for x [M, K] and weight [N, K], or LIBRARY: from the chip's table, or else an estimate."""
    (num_rows, in_features), out_features = x.shape, weight.shape[0]
    is_narrow = 0 < num_rows <= MAX_ROWS and x.itemsize == 2 and x.stride(1) == weight.stride(1) == 1
    if not is_narrow:
        return LIBRARY
    tiles = tuned_tiles("linear", chip(x.device), (out_features, in_features), num_rows)
    return tiles or estimate(num_rows, out_features, in_features, num_multiprocessors(x.device), shared_memory_bytes(x.device))


def narrow_linear(x: Tensor, weight: Tensor, bias: Tensor | None, tiles: Tiles) -> Tensor:
    """``x @ weight.T + bias``: x [M, K] of 1 to tiles.block_m rows, weight [N, K] -> [M, N], fp16 or bf16, inner strides of 1.

    One row is multiplied without the matrix units (block_m 1), more with them (block_m 16). K is not split.
    """
    (num_rows, in_features), out_features = x.shape, weight.shape[0]
    assert num_rows <= tiles.block_m, f"{tiles} are for fewer than {num_rows} rows"
    assert tiles.num_splits == 1, f"{tiles}: K is not split here"
    out = torch.empty((num_rows, out_features), dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(out_features, tiles.block_n),)
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, **launch_options(x.device)}
    tensors = (x, weight, out if bias is None else bias, out)
    blocks = {"HAS_BIAS": bias is not None, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k}
    if tiles.block_m == 1:
        is_even = in_features % tiles.block_k == 0
        single_row_kernel[grid](*tensors, out_features, in_features, weight.stride(0), IS_EVEN=is_even, **blocks, **options)
    else:
        sizes = (num_rows, out_features, in_features, x.stride(0), weight.stride(0))
        few_rows_kernel[grid](*tensors, *sizes, BLOCK_M=tiles.block_m, UPCAST=is_interpreting(), **blocks, **options)
    return out


@functools.cache
def estimate(num_rows: int, out_features: int, in_features: int, num_multiprocessors: int, shared_memory_bytes: int) -> Tiles:
    """Near the best on an H200 (2026-11); the best are in its table.

    With few columns a program takes fewer of them, so that a third of the GPU has work.
    """
    longest = max(16, triton.next_power_of_2(in_features))
    if num_rows == 1:
        block_k = next((size for size in (2048, 1024, 512) if in_features % size == 0), 0)  # needs no mask
        block_n, block_k = (8192 // block_k, block_k) if block_k else (4, min(2048, longest))
        return Tiles(1, block_n, block_k, num_warps=4, num_stages=1)
    block_n = next((size for size in (64, 32) if 3 * triton.cdiv(out_features, size) >= num_multiprocessors), 16)
    block_k = min(256 if out_features <= 128 * num_multiprocessors else 128, longest)
    stage_bytes = 2 * (block_n + MAX_ROWS) * block_k
    return Tiles(MAX_ROWS, block_n, block_k, num_warps=4, num_stages=min(4, max(2, shared_memory_bytes // stage_bytes)))
