"""What the quantised matrix products share: the order of tiles, the sum over the parts of a split K, and an estimate of the tiles.

A product with few rows is bound by reading the weight, and a program per tile of the output would leave most of a GPU idle. So K is
split over programs; each leaves its part [M, N] of the sum, and a second kernel adds the parts up, always in the same order.
"""

# mypy: allow-incomplete-defs

import math

import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.tuned import Tiles

MAX_SPLITS = 16
FEW_ROWS = 64  # up to here K is split (an estimate: not yet measured on a GPU)
_BLOCK = 256


@triton.jit
def tile_of(program, num_m, num_n, GROUP: tl.constexpr):
    """(tile of rows, tile of columns): GROUP tiles of rows at a time, so that programs that run together share weights in L2."""
    group = program // (GROUP * num_n)
    first = group * GROUP
    height = tl.minimum(num_m - first, GROUP)
    return first + (program % (GROUP * num_n)) % height, (program % (GROUP * num_n)) // height


@triton.jit
def part_of(size, split, NUM_SPLITS: tl.constexpr, BLOCK_K: tl.constexpr):
    """(begin, end) of a split's share of ``size``, in whole blocks."""
    part = tl.cdiv(tl.cdiv(size, NUM_SPLITS), BLOCK_K) * BLOCK_K
    return split * part, tl.minimum((split + 1) * part, size)


@triton.jit
def sum_parts_kernel(
    parts_ptr,
    row_scale_ptr,
    column_scale_ptr,
    bias_ptr,
    out_ptr,
    parts_stride,
    num_columns,
    NUM_SPLITS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    total = tl.zeros([BLOCK], dtype=parts_ptr.dtype.element_ty)
    for split in range(NUM_SPLITS):
        total += tl.load(parts_ptr + split * parts_stride + row * num_columns + column, mask=inside, other=0)
    value = total.to(tl.float32)
    if HAS_SCALES:
        value = value * tl.load(row_scale_ptr + row) * tl.load(column_scale_ptr + column, mask=inside, other=0.0)
    if HAS_BIAS:
        value += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * num_columns + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def sum_parts(parts: Tensor, row_scale: Tensor | None, column_scale: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
    """``out[m, n] = row_scale[m] * column_scale[n] * sum over splits of parts[:, m, n] + bias[n]``; parts [S, M, N] fp32 or int32."""
    num_splits, num_rows, num_columns = parts.shape
    sum_parts_kernel[(num_rows, triton.cdiv(num_columns, _BLOCK))](
        parts,
        parts if row_scale is None else row_scale,
        parts if column_scale is None else column_scale,
        parts if bias is None else bias,
        out,
        parts.stride(0),
        num_columns,
        NUM_SPLITS=num_splits,
        HAS_SCALES=row_scale is not None,
        HAS_BIAS=bias is not None,
        BLOCK=_BLOCK,
        num_warps=4,
        **launch_options(parts.device),
    )


def choose_num_splits(num_rows: int, num_tiles: int, in_features: int, chunk: int, max_parts: int, num_multiprocessors: int) -> int:
    """How many programs share the K of a tile: enough for two programs a multiprocessor.

    None gets less than two chunks of K, and parts, written and read, are kept to a quarter of the weight's bytes: ``max_parts`` rows.
    A power of two, so that few kernels are compiled: a number of rows that comes for the first time holds up no step.
    """
    wanted = 1 << max(0, round(math.log2(2 * num_multiprocessors / num_tiles)))
    most = max(1, min(in_features // (2 * chunk), max_parts // num_rows, MAX_SPLITS))
    return min(wanted, 1 << most.bit_length() - 1)


def estimate_tiles(num_rows: int, out_features: int, in_features: int, block_k: int, num_multiprocessors: int) -> Tiles:
    """Tiles for operands of one byte an element with ``block_k`` at most 128: three stages stay under the 99 KiB of sm_86 and sm_89."""
    if num_rows <= FEW_ROWS:
        num_tiles = triton.cdiv(out_features, 64)
        num_splits = choose_num_splits(num_rows, num_tiles, in_features, block_k, in_features // 32, num_multiprocessors)
        return Tiles(max(16, triton.next_power_of_2(num_rows)), 64, block_k, num_splits, num_warps=4, num_stages=4)
    if num_rows <= 2 * FEW_ROWS:
        return Tiles(64, 128, block_k, num_warps=4, num_stages=3)
    return Tiles(128, 128, block_k, num_warps=8, num_stages=3)
