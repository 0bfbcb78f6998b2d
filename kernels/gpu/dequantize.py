"""Weights of 4 or 8 bits in groups, and MXFP4, written out as plain ones for a step of many rows.

A product that unpacks in registers does it again for each tile of rows. That is a dozen instructions a weight, against one 32nd of a matrix
unit's cycle for 128 rows (sm_90): from some rows on it is faster to unpack once, into memory that the next layer uses again (H200, 4 bits,
4096 to 28672, 4,096 rows: 1.34 ms instead of 3.80, where a plain weight takes 1.32).
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.expert_weights import MXFP4_BLOCK, Int4Experts, Mxfp4Experts
from headway.kernels.gpu.functions import group_weight
from headway.kernels.int4_layout import PackedInt4

# Of an expert on average from which on experts are written out. H200, 2026-11-27, us in registers and written out: gpt-oss-20b's MXFP4 1010
# and 1048 with 64 pairs, 1552 and 1242 with 128; qwen3-30b-a3b's in 4 bits 757 and 815 with 64, 1215 and 1006 with 128.
WIDE_PAIRS = 128
MOST_BYTES = 2 * 1024**3  # of what is written out: larger experts are unpacked in registers
BLOCK_N = 64


@triton.jit
def dequantize_kernel(
    weight_ptr,
    scale_ptr,
    offset_ptr,
    order_ptr,
    out_ptr,
    num_rows,
    in_features,
    group_size,
    weight_stride_expert,
    weight_stride,
    scale_stride_expert,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HALF: tl.constexpr,
):
    """out [E, N, K] = the weights, each in the column that it has without ``order``. KIND: see quant_moe.quant_experts_kernel."""
    expert = tl.program_id(2).to(tl.int64)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    start = tl.program_id(0) * 2 * HALF
    in_n = n < num_rows
    column = tl.arange(0, HALF)
    rows = weight_ptr + expert * weight_stride_expert + n[:, None] * weight_stride
    scales, offsets = scale_ptr + expert * scale_stride_expert, offset_ptr + expert * scale_stride_expert
    out = out_ptr + (expert * num_rows + n)[:, None] * in_features
    if BITS == 4:
        both = tl.load(rows + start // 2 + column[None, :], mask=in_n[:, None], other=0)
    for high in tl.static_range(2):
        first = start + high * HALF
        k = first + column
        in_k = k < in_features
        at = tl.minimum(first, in_features - 1) // group_size * num_rows + n
        if BITS == 4 and high:
            q = both >> 4
        elif BITS == 4:
            q = both & 15
        else:
            q = tl.load(rows + k[None, :], mask=in_n[:, None], other=0)
        weight = group_weight(q, scales + at, offsets + at, in_n, KIND)
        if HAS_ORDER:
            k = tl.load(order_ptr + expert * in_features + k, mask=in_k, other=0)
        tl.store(out + k[None, :], weight.to(out_ptr.dtype.element_ty), mask=in_n[:, None] & in_k[None, :])


def wide_rows(group_size: int) -> int:
    """From how many rows of x on a weight is written out. In groups of 32 the kernel for few rows scales twice as often: of 14336 to 4096
    it took 127 us for 32 rows on an H200, and a weight written out 77; in groups of 128, of 4096 to 28672, 108 and 142 for 64, 256 and 144
    for 96 (2026-11-27)."""
    return 32 if group_size < 64 else 65


def dequantize(packed: PackedInt4, dtype: torch.dtype) -> Tensor:
    """[N, K] in ``dtype``, columns in their order."""
    out = torch.empty((packed.out_features, packed.in_features), dtype=dtype, device=packed.weight.device)
    _launch(Int4Experts.of(packed), out.unsqueeze(0), (0, packed.weight.stride(0), 0))
    return out


def dequantize_experts(experts: Int4Experts | Mxfp4Experts, dtype: torch.dtype) -> Tensor:
    """[E, N, K] in ``dtype``, columns in their order."""
    out = torch.empty(experts.shape, dtype=dtype, device=experts.weight.device)
    strides = experts.weight.stride(0), experts.weight.stride(1), experts.scale.stride(0)
    _launch(experts, out, strides)
    return out


def _launch(weights: Int4Experts | Mxfp4Experts, out: Tensor, strides: tuple[int, int, int]) -> None:
    num_experts, num_rows, in_features = out.shape
    kind, offset, order, group_size, half, bits = "mxfp4", weights.scale, None, MXFP4_BLOCK, MXFP4_BLOCK, 4
    if isinstance(weights, Int4Experts):
        kind, offset, order = "groups", weights.offset, weights.order
        group_size, half, bits = weights.group_size, weights.half, weights.bits
    dequantize_kernel[(triton.cdiv(in_features, 2 * half), triton.cdiv(num_rows, BLOCK_N), num_experts)](
        weights.weight,
        weights.scale,
        offset,
        weights.weight if order is None else order,
        out,
        num_rows,
        in_features,
        group_size,
        *strides,
        KIND=kind,
        BITS=bits,
        HAS_ORDER=order is not None,
        BLOCK_N=BLOCK_N,
        HALF=half,
        num_warps=4,
    )
