"""A mixture of experts in Triton: five launches, whatever experts the tokens go to, and no look at the device by the host.

Pairs of a token and one of its experts are sorted by expert into tiles of one expert each, as many as there can be at most; programs
of tiles that are not needed end at once. The results of a token's pairs are added up in order, so nothing is added atomically.
"""

# mypy: allow-incomplete-defs

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.expert_weights import ExpertWeights, Int4Experts, Mxfp4Experts
from headway.kernels.gpu.dequantize import MOST_BYTES, WIDE_PAIRS, dequantize_experts
from headway.kernels.gpu.device import chip
from headway.kernels.gpu.expert_gate import gated
from headway.kernels.gpu.functions import sigmoid
from headway.kernels.gpu.quant_moe import quant_product, quant_tiles
from headway.kernels.gpu.split_k import tile_of
from headway.kernels.moe import ClampedGate, Scoring
from headway.kernels.tuned import Tiles, tuned_tiles

CHUNK = 1024  # pairs that a program sorts at a time
SUM_BLOCK = 1024
GROUP = 8  # tiles of pairs that share tiles of weights in L2


@triton.jit
def route_kernel(
    logits_ptr,
    weights_ptr,
    experts_ptr,
    stride,
    num_experts,
    TOP_K: tl.constexpr,
    IS_SIGMOID: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK_E)
    is_expert = expert < num_experts
    logits = tl.load(logits_ptr + token * stride + expert, mask=is_expert, other=float("-inf")).to(tl.float32)
    if IS_SIGMOID:
        scores = sigmoid(logits)
    else:
        scores = tl.exp(logits - tl.max(logits, axis=0))
        scores = scores / tl.sum(scores, axis=0)
    left = tl.where(is_expert, scores, -1.0)
    place = tl.arange(0, BLOCK_K)
    weights = tl.zeros([BLOCK_K], dtype=tl.float32)
    experts = tl.zeros([BLOCK_K], dtype=tl.int32)
    for k in range(TOP_K):
        score, best = tl.max(left, axis=0, return_indices=True)
        weights = tl.where(place == k, score, weights)
        experts = tl.where(place == k, best, experts)
        left = tl.where(expert == best, -2.0, left)
    if RENORMALISE:
        weights = weights / tl.sum(weights, axis=0)
    out = token * TOP_K + place
    tl.store(weights_ptr + out, weights, mask=place < TOP_K)
    tl.store(experts_ptr + out, experts, mask=place < TOP_K)


@triton.jit(do_not_specialize=["num_pairs"])
def group_kernel(
    experts_ptr,
    pairs_ptr,
    tile_experts_ptr,
    num_tiles_ptr,
    num_pairs,
    num_experts,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    BINS: tl.constexpr,
):
    """A program an expert: it counts all pairs, so as to know where its own tiles begin, then lists its own pairs there."""
    own = tl.program_id(0)
    at = tl.arange(0, CHUNK)
    counts = tl.zeros([BINS], dtype=tl.int32)
    for start in range(0, num_pairs, CHUNK):
        # What is behind the last pair is counted in a bin that no expert has.
        counts += tl.histogram(tl.load(experts_ptr + start + at, mask=start + at < num_pairs, other=BINS - 1), BINS)
    bin = tl.arange(0, BINS)
    tiles = tl.where(bin < num_experts, (counts + BLOCK_M - 1) // BLOCK_M, 0)
    first_tile = tl.sum(tl.where(bin < own, tiles, 0), axis=0)
    num_own_tiles = tl.sum(tl.where(bin == own, tiles, 0), axis=0)
    if own == 0:
        tl.store(num_tiles_ptr, tl.sum(tiles, axis=0))
    place = first_tile * BLOCK_M
    for start in range(0, num_pairs, CHUNK):
        pair = start + at
        is_own = (tl.load(experts_ptr + pair, mask=pair < num_pairs, other=-1) == own).to(tl.int32)
        tl.store(pairs_ptr + place + tl.cumsum(is_own, axis=0) - 1, pair, mask=is_own > 0)
        place += tl.sum(is_own, axis=0)
    rest = place + tl.arange(0, BLOCK_M)
    tl.store(pairs_ptr + rest, tl.full([BLOCK_M], -1, tl.int32), mask=rest < (first_tile + num_own_tiles) * BLOCK_M)
    for start in range(0, num_own_tiles, CHUNK):
        tl.store(tile_experts_ptr + first_tile + start + at, tl.zeros([CHUNK], tl.int32) + own, mask=start + at < num_own_tiles)


@triton.jit(do_not_specialize=["max_tiles"])
def up_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    pairs_ptr,
    tile_experts_ptr,
    num_tiles_ptr,
    max_tiles,
    out_features,
    in_features,
    top_k,
    x_stride,
    weight_stride_expert,
    weight_stride,
    limit,
    alpha,
    HAS_BIAS: tl.constexpr,
    IS_CLAMPED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """out [P, I] = silu_and_mul(gate_up[e] x[t]), or the clamped gate of it"""
    tile_m, tile_n = tile_of(tl.program_id(0), max_tiles, tl.cdiv(out_features, BLOCK_N), GROUP)
    if tile_m >= tl.load(num_tiles_ptr):
        return
    expert = tl.load(tile_experts_ptr + tile_m).to(tl.int64)
    pair = tl.load(pairs_ptr + tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    is_pair = pair >= 0
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < out_features
    x_rows = x_ptr + (pair // top_k)[:, None] * x_stride
    weight = weight_ptr + expert * weight_stride_expert
    gate_rows = weight + n[None, :] * weight_stride
    up_rows = weight + (out_features + n)[None, :] * weight_stride
    gate = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, in_features, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = k < in_features
        x = tl.load(x_rows + k[None, :], mask=is_pair[:, None] & in_k[None, :], other=0.0)
        mask = in_k[:, None] & in_n[None, :]
        gate_weight = tl.load(gate_rows + k[:, None], mask=mask, other=0.0)
        up_weight = tl.load(up_rows + k[:, None], mask=mask, other=0.0)
        if UPCAST:
            x, gate_weight, up_weight = x.to(tl.float32), gate_weight.to(tl.float32), up_weight.to(tl.float32)
        gate = tl.dot(x, gate_weight, gate, input_precision="ieee")
        up = tl.dot(x, up_weight, up, input_precision="ieee")
    dtype = out_ptr.dtype.element_ty
    if HAS_BIAS:
        bias = bias_ptr + expert * 2 * out_features + n
        gate += tl.load(bias, mask=in_n, other=0.0).to(tl.float32)[None, :]
        up += tl.load(bias + out_features, mask=in_n, other=0.0).to(tl.float32)[None, :]
    value = gated(gate, up, limit, alpha, IS_CLAMPED, dtype)
    tl.store(out_ptr + pair[:, None] * out_features + n[None, :], value.to(dtype), mask=is_pair[:, None] & in_n[None, :])


@triton.jit(do_not_specialize=["max_tiles"])
def down_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    pairs_ptr,
    tile_experts_ptr,
    num_tiles_ptr,
    routing_ptr,
    max_tiles,
    out_features,
    in_features,
    weight_stride_expert,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """out [P, H] = routing weight * down[e] x[p]"""
    tile_m, tile_n = tile_of(tl.program_id(0), max_tiles, tl.cdiv(out_features, BLOCK_N), GROUP)
    if tile_m >= tl.load(num_tiles_ptr):
        return
    expert = tl.load(tile_experts_ptr + tile_m).to(tl.int64)
    pair = tl.load(pairs_ptr + tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    is_pair = pair >= 0
    n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < out_features
    x_rows = x_ptr + pair[:, None] * in_features
    weight_rows = weight_ptr + expert * weight_stride_expert + n[None, :] * weight_stride
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, in_features, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = k < in_features
        x = tl.load(x_rows + k[None, :], mask=is_pair[:, None] & in_k[None, :], other=0.0)
        weight = tl.load(weight_rows + k[:, None], mask=in_k[:, None] & in_n[None, :], other=0.0)
        if UPCAST:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    dtype = out_ptr.dtype.element_ty
    if HAS_BIAS:
        acc += tl.load(bias_ptr + expert * out_features + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    routing = tl.load(routing_ptr + pair, mask=is_pair, other=0.0)
    value = acc.to(dtype).to(tl.float32) * routing[:, None]
    tl.store(out_ptr + pair[:, None] * out_features + n[None, :], value.to(dtype), mask=is_pair[:, None] & in_n[None, :])


@triton.jit
def sum_pairs_kernel(pairs_ptr, experts_ptr, out_ptr, size, num_experts, TOP_K: tl.constexpr, SUM_BLOCK: tl.constexpr):
    """out [T, H] = the sum of a token's K results, without those of experts that are nobody's."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SUM_BLOCK + tl.arange(0, SUM_BLOCK)
    inside = column < size
    total = tl.zeros([SUM_BLOCK], dtype=tl.float32)
    for k in range(TOP_K):
        pair = token * TOP_K + k
        end = tl.where(tl.load(experts_ptr + pair) < num_experts, size, 0)
        total += tl.load(pairs_ptr + pair * size + column, mask=column < end, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * size + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def route_tokens(logits: Tensor, top_k: int, *, scoring: Scoring, renormalise: bool) -> tuple[Tensor, Tensor]:
    """See headway.kernels.moe.route_tokens."""
    num_tokens, num_experts = logits.shape
    weights = torch.empty((num_tokens, top_k), dtype=torch.float32, device=logits.device)
    experts = torch.empty((num_tokens, top_k), dtype=torch.int32, device=logits.device)
    if num_tokens:
        route_kernel[(num_tokens,)](
            logits,
            weights,
            experts,
            logits.stride(0),
            num_experts,
            TOP_K=top_k,
            IS_SIGMOID=scoring == "sigmoid",
            RENORMALISE=renormalise,
            BLOCK_E=triton.next_power_of_2(num_experts),
            BLOCK_K=triton.next_power_of_2(top_k),
            num_warps=1,
        )
    return weights, experts


def moe(
    x: Tensor,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    weights: Tensor,
    experts: Tensor,
    *,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    gate: ClampedGate | None = None,
) -> Tensor:
    """See headway.kernels.moe.moe."""
    (num_tokens, hidden_size), top_k = x.shape, experts.shape[1]
    num_experts, _, intermediate_size = down.shape
    out = torch.empty((num_tokens, hidden_size), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    num_pairs = num_tokens * top_k
    groups = _Groups(experts, num_experts)
    # Rows of pairs that are nobody's stay as they are, and may be rounded with the others: NumPy, which interprets, would warn of some.
    make = torch.zeros if is_interpreting() else torch.empty
    inner = make((num_pairs, intermediate_size), dtype=x.dtype, device=x.device)
    results = torch.empty((num_pairs, hidden_size), dtype=x.dtype, device=x.device)
    gate_up = _as_multiplied(gate_up, num_pairs, x.dtype)
    if isinstance(gate_up, Tensor):
        _up(x, gate_up, gate_up_bias, inner, groups, top_k, gate)
    else:
        tiles = quant_tiles(gate_up, num_pairs, x)
        quant_product(x, gate_up, gate_up_bias, inner, groups.by(tiles.block_m), tiles, top_k=top_k, gate=gate)
    del gate_up  # it may be one that was written out, whose memory the next can use
    down = _as_multiplied(down, num_pairs, x.dtype)
    if isinstance(down, Tensor):
        _down(inner, down, down_bias, results, groups, weights)
    else:
        tiles = quant_tiles(down, num_pairs, x)
        quant_product(inner, down, down_bias, results, groups.by(tiles.block_m), tiles, routing=weights)
    sum_pairs_kernel[(num_tokens, triton.cdiv(hidden_size, SUM_BLOCK))](
        results, experts, out, hidden_size, num_experts, TOP_K=top_k, SUM_BLOCK=SUM_BLOCK, num_warps=4
    )
    return out


def _as_multiplied(weights: ExpertWeights, num_pairs: int, dtype: torch.dtype) -> ExpertWeights:
    """Weights in groups are written out where experts have many rows."""
    if not isinstance(weights, Int4Experts | Mxfp4Experts) or num_pairs < WIDE_PAIRS * weights.shape[0]:
        return weights
    num_bytes = math.prod(weights.shape) * dtype.itemsize
    return weights if num_bytes > MOST_BYTES else dequantize_experts(weights, dtype)


def _up(x: Tensor, gate_up: Tensor, bias: Tensor | None, out: Tensor, groups: "_Groups", top_k: int, gate: ClampedGate | None) -> None:
    """out [P, I]"""
    tiles = _tiles((gate_up.shape[0], x.shape[1], out.shape[1]), len(out), x)
    pairs = groups.by(tiles.block_m)
    max_tiles = pairs[1].shape[0]
    up_kernel[(max_tiles * triton.cdiv(out.shape[1], tiles.block_n),)](
        x,
        gate_up,
        bias,
        out,
        *pairs,
        max_tiles,
        out.shape[1],
        x.shape[1],
        top_k,
        x.stride(0),
        *gate_up.stride()[:2],
        0.0 if gate is None else gate.limit,
        0.0 if gate is None else gate.alpha,
        HAS_BIAS=bias is not None,
        IS_CLAMPED=gate is not None,
        **_options(tiles),
    )


def _down(x: Tensor, down: Tensor, bias: Tensor | None, out: Tensor, groups: "_Groups", routing: Tensor) -> None:
    """out [P, H]"""
    tiles = _tiles(tuple(down.shape), len(out), x)
    pairs = groups.by(tiles.block_m)
    max_tiles = pairs[1].shape[0]
    down_kernel[(max_tiles * triton.cdiv(out.shape[1], tiles.block_n),)](
        x,
        down,
        bias,
        out,
        *pairs,
        routing,
        max_tiles,
        out.shape[1],
        x.shape[1],
        *down.stride()[:2],
        HAS_BIAS=bias is not None,
        **_options(tiles),
    )


def _tiles(sizes: tuple[int, ...], num_pairs: int, x: Tensor) -> Tiles:
    return tuned_tiles("moe", chip(x.device), sizes, num_pairs) or estimate_tiles(num_pairs, sizes[0], x.dtype)


def _options(tiles: Tiles) -> dict[str, Any]:
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "GROUP": GROUP, "UPCAST": is_interpreting()}
    return sizes | {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}


class _Groups:
    """Pairs grouped by expert, once for each height of tiles: two where the two matrices of an expert are of different kinds."""

    def __init__(self, experts: Tensor, num_experts: int) -> None:
        self._experts = experts
        self._num_experts = num_experts
        self._found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def by(self, block_m: int) -> tuple[Tensor, Tensor, Tensor]:
        if block_m not in self._found:
            self._found[block_m] = group_pairs(self._experts, self._num_experts, block_m)
        return self._found[block_m]


def group_pairs(experts: Tensor, num_experts: int, block_m: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pairs, tile experts, number of tiles): tile i has pairs ``[i * block_m, (i + 1) * block_m)``, -1 for none, all of one expert."""
    num_pairs = experts.numel()
    max_tiles = min(num_pairs, num_pairs // block_m + num_experts)
    pairs = torch.empty(max_tiles * block_m, dtype=torch.int32, device=experts.device)
    tile_experts = torch.empty(max_tiles, dtype=torch.int32, device=experts.device)
    num_tiles = torch.empty(1, dtype=torch.int32, device=experts.device)
    bins = max(32, triton.next_power_of_2(num_experts + 1))
    group_kernel[(num_experts,)](
        experts, pairs, tile_experts, num_tiles, num_pairs, num_experts, BLOCK_M=block_m, CHUNK=CHUNK, BINS=bins, num_warps=4
    )
    return pairs, tile_experts, num_tiles


def estimate_tiles(num_pairs: int, num_experts: int, dtype: torch.dtype) -> Tiles:
    """By how many pairs an expert has on average (an estimate: not yet measured on a GPU).

    A step of K takes 128 bytes of a row; three stages of x and two weights stay under the 99 KiB of sm_86 and sm_89.
    """
    block_k = 128 // dtype.itemsize
    if num_pairs <= 32 * num_experts:
        return Tiles(16, 64, block_k, num_warps=4, num_stages=4)
    return Tiles(64, 64, block_k, num_warps=4, num_stages=3) if num_pairs <= 128 * num_experts else Tiles(128, 64, block_k, num_warps=8)
