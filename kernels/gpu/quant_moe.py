"""One product of all experts whose weights are of few bits: fp8, int8, 4 or 8 bits in groups, or MXFP4, decoded in registers.

Tiles of pairs are those of moe.py, and a tile is one expert's. As in the products of one weight, results are computed transposed, weights
first: that operand of the matrix units may come from registers. gate and up share what is loaded of x.
"""

# mypy: allow-incomplete-defs

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.expert_weights import MXFP4_BLOCK, Fp8Experts, Int4Experts, Int8Experts, Mxfp4Experts, QuantizedWeights
from headway.kernels.fp8_matmul import SCALE_BLOCK
from headway.kernels.gpu.device import chip, has_fp8
from headway.kernels.gpu.expert_gate import gated
from headway.kernels.gpu.functions import e4m3_to_fp16, group_weight, plus_power
from headway.kernels.gpu.quantize import quantize_fp8, quantize_int8
from headway.kernels.gpu.split_k import tile_of
from headway.kernels.moe import ClampedGate
from headway.kernels.tuned import Tiles, tuned_tiles

GROUP = 8  # tiles of pairs that share tiles of weights in L2
FEW_PAIRS = 32  # of a tile: up to here results are scaled, which are fewer than the weights of a tile


@triton.jit
def _add_bytes(acc, x, x_scale, rows, in_n, k, in_k, scale_ptr, KIND: tl.constexpr, IS_BLOCKED: tl.constexpr, UPCAST: tl.constexpr):
    """acc [N, M] + weight [N, K] x [M, K]^T, of weights of 8 bits."""
    weight = tl.load(rows + k[None, :], mask=in_n[:, None] & in_k[None, :], other=0.0)
    # One return a function: Triton 3.6 compiles what stands behind another one too.
    if KIND == "int8":
        acc = tl.dot(weight, tl.trans(x), acc, out_dtype=tl.int32)
    else:
        if KIND == "bytes":
            weight = e4m3_to_fp16(weight)
        if UPCAST:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        elif x.dtype != weight.dtype:
            weight = weight.to(x.dtype)
        # Hopper's fp8 units keep about 14 bits of a sum; after these products it moves on to fp32.
        if IS_BLOCKED:
            product = tl.dot(weight, tl.trans(x), input_precision="ieee", max_num_imprecise_acc=weight.shape[1])
            acc += product * (x_scale * tl.load(scale_ptr))[None, :]
        else:
            acc = tl.dot(weight, tl.trans(x), acc, input_precision="ieee", max_num_imprecise_acc=weight.shape[1])
    return acc


@triton.jit
def _add_group(
    acc, x, q, scale_ptr, offset_ptr, in_n, KIND: tl.constexpr, BITS: tl.constexpr, SCALE_AFTER: tl.constexpr, UPCAST: tl.constexpr
):
    """acc [N, M] + weight [N, K] x [M, K]^T, of weights whose columns are of one group. ``q``: their codes."""
    if SCALE_AFTER:
        scale = tl.load(scale_ptr, mask=in_n, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr, mask=in_n, other=0.0).to(tl.float32)
        weight, offset = plus_power(q, scale, offset, x.dtype, BITS)
    else:
        weight = group_weight(q, scale_ptr, offset_ptr, in_n, KIND).to(x.dtype)
    if UPCAST:
        x, weight = x.to(tl.float32), weight.to(tl.float32)
    if SCALE_AFTER:
        product = tl.dot(weight, tl.trans(x), input_precision="ieee")
        acc += product * scale[:, None] + offset[:, None] * tl.sum(x.to(tl.float32), axis=1)[None, :]
    else:
        acc = tl.dot(weight, tl.trans(x), acc, input_precision="ieee")
    return acc


@triton.jit
def _scaled(
    acc,
    x_scale,
    scale_ptr,
    bias_ptr,
    in_n,
    KIND: tl.constexpr,
    HAS_X_SCALE: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """acc [N, M] with the scales that are no group's, and the bias, transposed: [M, N] fp32."""
    acc = tl.trans(acc).to(tl.float32)
    if KIND == "bytes":
        acc = acc * 256.0
    if HAS_SCALE:
        if HAS_X_SCALE:
            acc = acc * x_scale[:, None]
        acc = acc * tl.load(scale_ptr, mask=in_n, other=0.0)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias_ptr, mask=in_n, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit(do_not_specialize=["max_tiles"])
def quant_experts_kernel(
    x_ptr,
    x_scale_ptr,
    order_ptr,
    weight_ptr,
    scale_ptr,
    offset_ptr,
    bias_ptr,
    routing_ptr,
    out_ptr,
    pairs_ptr,
    tile_experts_ptr,
    num_tiles_ptr,
    max_tiles,
    out_features,
    in_features,
    pairs_per_row,
    group_size,
    num_groups,
    x_stride,
    weight_stride_expert,
    weight_stride,
    scale_stride_expert,
    limit,
    alpha,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    IS_UP: tl.constexpr,
    IS_CLAMPED: tl.constexpr,
    HAS_X_SCALE: tl.constexpr,
    IS_BLOCKED: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SCALE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FEW_PAIRS: tl.constexpr,
    GROUP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """out [P, I] = the gate of gate_up[e] x[t], or out [P, H] = routing weight * down[e] x[p].

    KIND: "fp8"; "bytes", of fp8 where the chip has none; "int8"; "groups", of BITS; "mxfp4".
    """
    tile_m, tile_n = tile_of(tl.program_id(0), max_tiles, tl.cdiv(out_features, BLOCK_N), GROUP)
    if tile_m >= tl.load(num_tiles_ptr):
        return
    IS_GROUPED: tl.constexpr = KIND == "groups" or KIND == "mxfp4"
    NUM_PARTS: tl.constexpr = 2 if IS_UP else 1
    SCALE_AFTER: tl.constexpr = KIND == "groups" and BLOCK_M <= FEW_PAIRS
    expert = tl.load(tile_experts_ptr + tile_m).to(tl.int64)
    pair = tl.load(pairs_ptr + tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    is_pair = pair >= 0
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < out_features
    row = pair // pairs_per_row
    x_rows = x_ptr + row[:, None] * x_stride
    rows = weight_ptr + expert * weight_stride_expert + n[:, None] * weight_stride
    up_rows = rows + out_features * weight_stride
    scales, offsets = scale_ptr + expert * scale_stride_expert, offset_ptr + expert * scale_stride_expert
    num_rows = NUM_PARTS * out_features
    accumulator: tl.constexpr = tl.int32 if KIND == "int8" else tl.float32
    gate = tl.zeros([BLOCK_N, BLOCK_M], dtype=accumulator)
    up = tl.zeros([BLOCK_N, BLOCK_M], dtype=accumulator)
    x_scale = tl.full([BLOCK_M], 1.0, tl.float32)
    if HAS_X_SCALE and not IS_BLOCKED:
        x_scale = tl.load(x_scale_ptr + row, mask=is_pair, other=0.0)
    for start in range(0, in_features, BLOCK_K):
        if IS_GROUPED:
            HALF: tl.constexpr = BLOCK_K // 2
            column = tl.arange(0, HALF)
            # Rows of bytes are padded to whole chunks, so they need no mask along K: what lies beyond meets zeros of x.
            if BITS == 4:
                both = tl.load(rows + start // 2 + column[None, :], mask=in_n[:, None], other=0)
                if IS_UP:
                    up_both = tl.load(up_rows + start // 2 + column[None, :], mask=in_n[:, None], other=0)
            for high in tl.static_range(2):
                first = start + high * HALF
                k = first + column
                in_k = k < in_features
                if HAS_ORDER:
                    k = tl.load(order_ptr + expert * in_features + k, mask=in_k, other=0)
                x = tl.load(x_rows + k[None, :], mask=is_pair[:, None] & in_k[None, :], other=0.0)
                at = tl.minimum(first, in_features - 1) // group_size * num_rows + n
                if BITS == 4:
                    q = (both >> 4) if high else (both & 15)
                else:
                    q = tl.load(rows + first + column[None, :], mask=in_n[:, None], other=0)
                gate = _add_group(gate, x, q, scales + at, offsets + at, in_n, KIND, BITS, SCALE_AFTER, UPCAST)
                if IS_UP:
                    if BITS == 4:
                        q = (up_both >> 4) if high else (up_both & 15)
                    else:
                        q = tl.load(up_rows + first + column[None, :], mask=in_n[:, None], other=0)
                    at += out_features
                    up = _add_group(up, x, q, scales + at, offsets + at, in_n, KIND, BITS, SCALE_AFTER, UPCAST)
        else:
            k = start + tl.arange(0, BLOCK_K)
            in_k = k < in_features
            x = tl.load(x_rows + k[None, :], mask=is_pair[:, None] & in_k[None, :], other=0.0)
            group = start // SCALE_BLOCK
            if HAS_X_SCALE and IS_BLOCKED:
                x_scale = tl.load(x_scale_ptr + row * num_groups + group, mask=is_pair, other=0.0)
            # A tile has one scale for all of its columns, and no block has rows of both parts.
            block = scales + tile_n * BLOCK_N // SCALE_BLOCK * num_groups + group
            gate = _add_bytes(gate, x, x_scale, rows, in_n, k, in_k, block, KIND, IS_BLOCKED, UPCAST)
            if IS_UP:
                block += out_features // SCALE_BLOCK * num_groups
                up = _add_bytes(up, x, x_scale, up_rows, in_n, k, in_k, block, KIND, IS_BLOCKED, UPCAST)
    HAS_SCALE: tl.constexpr = not IS_GROUPED and not IS_BLOCKED
    bias = bias_ptr + expert * num_rows + n
    value = _scaled(gate, x_scale, scales + n, bias, in_n, KIND, HAS_X_SCALE, HAS_SCALE, HAS_BIAS)
    dtype = out_ptr.dtype.element_ty
    if IS_UP:
        up = _scaled(up, x_scale, scales + out_features + n, bias + out_features, in_n, KIND, HAS_X_SCALE, HAS_SCALE, HAS_BIAS)
        value = gated(value, up, limit, alpha, IS_CLAMPED, dtype)
    else:
        value = value.to(dtype).to(tl.float32) * tl.load(routing_ptr + pair, mask=is_pair, other=0.0)[:, None]
    tl.store(out_ptr + pair[:, None] * out_features + n[None, :], value.to(dtype), mask=is_pair[:, None] & in_n[None, :])


class _Input(NamedTuple):
    """What of x the kernel multiplies, and the operands of the weight's kind."""

    kind: str
    x: Tensor
    x_scale: Tensor | None
    weight: Tensor
    scale: Tensor
    offset: Tensor | None = None
    order: Tensor | None = None
    group_size: int = 0
    is_blocked: bool = False
    bits: int = 8


def quant_product(
    x: Tensor,
    weights: QuantizedWeights,
    bias: Tensor | None,
    out: Tensor,
    groups: tuple[Tensor, Tensor, Tensor],
    tiles: Tiles,
    *,
    top_k: int = 1,
    gate: ClampedGate | None = None,
    routing: Tensor | None = None,
) -> None:
    """Without ``routing`` the first product of experts, x [T, H] -> out [P, I], gated; with it the second, x [P, I] -> out [P, H].

    ``groups``: of moe.group_pairs, with the height of ``tiles``.
    """
    found, max_tiles, is_up = _input(x, weights), groups[1].shape[0], routing is None
    quant_experts_kernel[(max_tiles * triton.cdiv(out.shape[1], tiles.block_n),)](
        found.x,
        found.x_scale,
        found.order,
        found.weight,
        found.scale,
        found.scale if found.offset is None else found.offset,
        out if bias is None else bias,
        routing,
        out,
        *groups,
        max_tiles,
        out.shape[1],
        x.shape[1],
        top_k,
        found.group_size,
        triton.cdiv(x.shape[1], SCALE_BLOCK),
        found.x.stride(0),
        *found.weight.stride()[:2],
        found.scale.stride(0),
        0.0 if gate is None else gate.limit,
        0.0 if gate is None else gate.alpha,
        KIND=found.kind,
        BITS=found.bits,
        IS_UP=is_up,
        IS_CLAMPED=gate is not None,
        HAS_X_SCALE=found.x_scale is not None,
        IS_BLOCKED=found.is_blocked,
        HAS_ORDER=found.order is not None,
        HAS_BIAS=bias is not None,
        SCALE_BLOCK=SCALE_BLOCK,
        **options(tiles),
    )


def options(tiles: Tiles) -> dict[str, Any]:
    """Constants and options of the launch that follow from the tiles."""
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "FEW_PAIRS": FEW_PAIRS, "GROUP": GROUP}
    return sizes | {"UPCAST": is_interpreting(), "num_warps": tiles.num_warps, "num_stages": tiles.num_stages}


def _input(x: Tensor, weights: QuantizedWeights) -> _Input:
    """Rows of x are rounded where the weight's kind says so; those of pairs that are nobody's may hold anything."""
    if isinstance(weights, Int8Experts):
        rounded, x_scale = quantize_int8(x, weights.block)
        return _Input("int8", rounded, x_scale, weights.values, weights.scale)
    if isinstance(weights, Int4Experts):
        operands = (weights.weight, weights.scale, weights.offset, weights.order, weights.group_size)
        return _Input("groups", x, None, *operands, bits=weights.bits)
    if isinstance(weights, Mxfp4Experts):
        return _Input("mxfp4", x, None, weights.weight, weights.scale, group_size=MXFP4_BLOCK, bits=4)
    is_native, fp8_scale = has_fp8(x.device), None
    if weights.rounds_input:
        dtype = torch.float8_e4m3fn if is_native else torch.bfloat16
        x, fp8_scale = quantize_fp8(x, SCALE_BLOCK if weights.is_blocked else 0, dtype)
    values = weights.values if is_native else weights.values.view(torch.uint8)
    return _Input("fp8" if is_native else "bytes", x, fp8_scale, values, weights.scale, is_blocked=weights.is_blocked)


def quant_tiles(weights: QuantizedWeights, num_pairs: int, x: Tensor) -> Tiles:
    """For ``num_pairs`` pairs. x: whose dtype and device the input has, before it is rounded."""
    if isinstance(weights, Int4Experts | Mxfp4Experts):
        kind, size = "mxfp4", 2 * MXFP4_BLOCK
        if isinstance(weights, Int4Experts):
            kind, size = "int4" if weights.bits == 4 else "int8_groups", 2 * weights.half
        tiles = tuned_tiles(f"moe_{kind}", chip(x.device), weights.shape, num_pairs)
        tiles = tiles or estimate_groups(num_pairs, weights.shape[0], x.dtype, size)
        assert tiles.block_k == size, f"{tiles} are not of chunks of {size} columns"
        return tiles
    kind, itemsize, is_blocked = "int8", 1, False
    if isinstance(weights, Fp8Experts):
        kind, is_blocked = "fp8", weights.is_blocked
        itemsize = x.itemsize if not weights.rounds_input else 1 if has_fp8(x.device) else 2
    sizes = (*weights.shape, itemsize, SCALE_BLOCK if is_blocked else 0)
    tiles = tuned_tiles(f"moe_{kind}", chip(x.device), sizes, num_pairs) or estimate_bytes(num_pairs, weights.shape[0], itemsize)
    assert not is_blocked or SCALE_BLOCK % tiles.block_n == SCALE_BLOCK % tiles.block_k == 0, f"{tiles} reach over blocks of scales"
    return tiles


def estimate_bytes(num_pairs: int, num_experts: int, x_itemsize: int) -> Tiles:
    """Of weights of 8 bits, by how many pairs an expert has on average (an estimate: not yet measured on a GPU).

    A step of K takes 128 bytes of a row of x; its stages, with two weights, stay under the 99 KiB of sm_86 and sm_89.
    """
    block_k = SCALE_BLOCK // x_itemsize
    if num_pairs <= 32 * num_experts:
        return Tiles(16, 64, block_k, num_warps=4, num_stages=4)
    return Tiles(64 if num_pairs <= 128 * num_experts else 128, 64, block_k, num_warps=8)


def estimate_groups(num_pairs: int, num_experts: int, dtype: torch.dtype, chunk: int) -> Tiles:
    """Of weights in groups (an estimate: timed on an H200, not tuned). A step of K is a chunk. With 128 pairs a tile registers spill."""
    if num_pairs <= 32 * num_experts:
        return Tiles(16, 64, chunk, num_warps=4, num_stages=4)
    if dtype.itemsize == 4:
        return Tiles(32, 64, chunk, num_warps=4, num_stages=2)
    return Tiles(64, 64, chunk, num_warps=4, num_stages=2)
