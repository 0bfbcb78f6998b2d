"""Weights of 4 or 8 bits in groups, and MXFP4, written out as plain ones for a step of many rows.

A product that unpacks in registers does it again for each tile of rows. That is a dozen instructions a weight, against one 32nd of a matrix
unit's cycle for 128 rows (sm_90): from some rows on it is faster to unpack once, into memory that the next layer uses again.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.expert_weights import MXFP4_BLOCK, Int4Experts, Mxfp4Experts
from headway.kernels.gpu.functions import group_weight
from headway.kernels.int4_layout import PackedInt4

WIDE_ROWS = 128  # of x from which on a weight is written out; of a mixture, an expert's on average
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


def dequantize(packed: PackedInt4, dtype: torch.dtype) -> Tensor:
    """[N, K] in ``dtype``, columns in their order."""
    out = torch.empty((packed.out_features, packed.in_features), dtype=dtype, device=packed.weight.device)
    experts = Int4Experts.of(packed)
    strides = 0, packed.weight.stride(0), 0
    _launch(experts, out.unsqueeze(0), strides)
    return out


def dequantize_experts(experts: Int4Experts | Mxfp4Experts, dtype: torch.dtype) -> Tensor:
    """[E, N, K] in ``dtype``, columns in their order."""
    out = torch.empty(experts.shape, dtype=dtype, device=experts.weight.device)
    _launch(experts, out, (*experts.weight.stride()[:2], experts.scale.stride(0)))
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
