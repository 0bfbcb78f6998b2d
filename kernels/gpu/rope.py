"""Rotary embedding and cache write in Triton, with or without the norm of q and k: programs a token, the last of which writes the cache."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.fp8_cache import as_loaded, to_page
from headway.kernels.gpu.int8_cache import scale_arguments, sum_of_strange
from headway.kernels.kv_cache import UNSCALED, KVScales, PageScales
from headway.kernels.rope import QKNorm


@triton.jit
def _weigh(normed, weight, dtype):
    if weight.dtype != tl.float32:
        normed = normed.to(dtype).to(tl.float32)
        weight = weight.to(dtype).to(tl.float32)
    return (normed * weight).to(dtype).to(tl.float32)


@triton.jit
def _rotate_heads(
    in_row,
    out_row,
    in_stride_head,
    out_stride_head,
    cos_sin_row,
    weight_ptr,
    eps,
    page_scale,
    scales_row,
    num_heads,
    head_dim,
    HAS_NORM: tl.constexpr,
    HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEADS: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    PASS_BLOCK: tl.constexpr,
):
    head = tl.arange(0, HEADS).to(tl.int64)[:, None]
    pair = tl.arange(0, HALF_BLOCK)
    cos = tl.load(cos_sin_row + pair, mask=pair < HALF, other=0.0)[None, :]
    sin = tl.load(cos_sin_row + HALF + pair, mask=pair < HALF, other=0.0)[None, :]
    if INTERLEAVED:
        first, second = 2 * pair[None, :], 2 * pair[None, :] + 1
    else:
        first, second = pair[None, :], pair[None, :] + HALF
    mask = (head < num_heads) & (pair[None, :] < HALF)
    a = tl.load(in_row + head * in_stride_head + first, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(in_row + head * in_stride_head + second, mask=mask, other=0.0).to(tl.float32)
    dtype = in_row.dtype.element_ty
    page_type = out_row.dtype.element_ty
    rest = 2 * HALF + tl.arange(0, PASS_BLOCK if PASS_BLOCK > 0 else 1)[None, :]
    rest_mask = (head < num_heads) & (rest < head_dim)
    value = tl.load(in_row + head * in_stride_head + rest, mask=rest_mask, other=0.0)
    if HAS_NORM:
        other = value.to(tl.float32)
        scale = tl.rsqrt((tl.sum(a * a + b * b, axis=1) + tl.sum(other * other, axis=1)) / head_dim + eps)[:, None]
        # Rounded where rms_norm rounds: before the weight and after it.
        a = _weigh(a * scale, tl.load(weight_ptr + first, mask=pair[None, :] < HALF, other=0.0), dtype)
        b = _weigh(b * scale, tl.load(weight_ptr + second, mask=pair[None, :] < HALF, other=0.0), dtype)
        value = _weigh(other * scale, tl.load(weight_ptr + rest, mask=rest < head_dim, other=0.0), dtype).to(dtype)
    first_rotated, second_rotated = (a * cos - b * sin).to(dtype).to(tl.float32), (b * cos + a * sin).to(dtype).to(tl.float32)
    if page_type == tl.int8:
        other = value.to(tl.float32)
        peak = tl.maximum(tl.max(tl.maximum(tl.abs(first_rotated), tl.abs(second_rotated)), axis=1), tl.max(tl.abs(other), axis=1))
        strange = sum_of_strange(first_rotated) + sum_of_strange(second_rotated) + sum_of_strange(other)
        page_scale = tl.div_rn(peak[:, None], 127.0) + strange
        tl.store(scales_row + head, page_scale, mask=head < num_heads)
    tl.store(out_row + head * out_stride_head + first, to_page(first_rotated, page_scale, page_type), mask=mask)
    tl.store(out_row + head * out_stride_head + second, to_page(second_rotated, page_scale, page_type), mask=mask)
    if PASS_BLOCK > 0:
        tl.store(out_row + head * out_stride_head + rest, to_page(value.to(tl.float32), page_scale, page_type), mask=rest_mask)


@triton.jit
def rope_and_cache_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_sin_ptr,
    positions_ptr,
    k_cache_ptr,
    v_cache_ptr,
    k_scales_ptr,
    v_scales_ptr,
    slots_ptr,
    out_ptr,
    q_weight_ptr,
    k_weight_ptr,
    eps,
    k_scale,
    v_scale,
    q_stride_token,
    q_stride_head,
    k_stride_token,
    k_stride_head,
    v_stride_token,
    v_stride_head,
    cos_sin_stride,
    k_cache_stride_block,
    k_cache_stride_token,
    k_cache_stride_head,
    v_cache_stride_block,
    v_cache_stride_token,
    v_cache_stride_head,
    scales_stride_block,
    scales_stride_token,
    num_heads,
    num_kv_heads,
    head_dim,
    block_size,
    HAS_VALUES: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    PASS_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    cos_sin_row = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * cos_sin_stride
    if tl.program_id(1) < tl.num_programs(1) - 1:
        first_head = tl.program_id(1).to(tl.int64) * HEADS
        out_row = out_ptr + (token * num_heads + first_head) * head_dim
        _rotate_heads(
            q_ptr + token * q_stride_token + first_head * q_stride_head,
            out_row,
            q_stride_head,
            head_dim,
            cos_sin_row,
            q_weight_ptr,
            eps,
            1.0,
            k_scales_ptr,
            num_heads - first_head,
            head_dim,
            HAS_NORM,
            HALF,
            INTERLEAVED,
            HEADS,
            HALF_BLOCK,
            PASS_BLOCK,
        )
    else:
        slot = tl.load(slots_ptr + token).to(tl.int64)
        heads_written = tl.where(slot >= 0, num_kv_heads, 0)
        block, offset = tl.maximum(slot, 0) // block_size, tl.maximum(slot, 0) % block_size
        _rotate_heads(
            k_ptr + token * k_stride_token,
            k_cache_ptr + block * k_cache_stride_block + offset * k_cache_stride_token,
            k_stride_head,
            k_cache_stride_head,
            cos_sin_row,
            k_weight_ptr,
            eps,
            k_scale,
            k_scales_ptr + block * scales_stride_block + offset * scales_stride_token,
            heads_written,
            head_dim,
            HAS_NORM,
            HALF,
            INTERLEAVED,
            KV_HEADS,
            HALF_BLOCK,
            PASS_BLOCK,
        )
        if HAS_VALUES:
            head = tl.arange(0, KV_HEADS).to(tl.int64)[:, None]
            dim = tl.arange(0, DIM_BLOCK)[None, :]
            mask = (head < heads_written) & (dim < head_dim)
            value = tl.load(v_ptr + token * v_stride_token + head * v_stride_head + dim, mask=mask, other=0.0).to(tl.float32)
            v_row = v_cache_ptr + block * v_cache_stride_block + offset * v_cache_stride_token
            scale = v_scale
            if v_row.dtype.element_ty == tl.int8:
                scale = tl.div_rn(tl.max(tl.abs(value), axis=1)[:, None], 127.0) + sum_of_strange(value)
                v_scales_row = v_scales_ptr + block * scales_stride_block + offset * scales_stride_token
                tl.store(v_scales_row + head, scale, mask=head < heads_written)
            value = to_page(value, scale, v_row.dtype.element_ty)
            tl.store(v_row + head * v_cache_stride_head + dim, value, mask=mask)


_MOST_NUMBERS = 1 << 14  # of the queries of a program


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slot_mapping: Tensor,
    *,
    interleaved: bool = False,
    qk_norm: QKNorm | None = None,
    kv_scales: PageScales = UNSCALED,
    plan: object = None,
) -> Tensor:
    """See headway.kernels.rope.rope_and_cache."""
    del plan  # the kernel looks positions up itself
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, half = k.shape[1], cos_sin.shape[1] // 2
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    rest = head_dim - 2 * half
    values, value_pages = (k, k_cache) if v is None or v_cache is None else (v, v_cache)
    heads = min(triton.next_power_of_2(num_heads), max(1, _MOST_NUMBERS // triton.next_power_of_2(head_dim)))
    k_scales, v_scales, *scale_strides = scale_arguments(kv_scales, out)
    factors = kv_scales if isinstance(kv_scales, KVScales) else UNSCALED
    rope_and_cache_kernel[(num_tokens, triton.cdiv(num_heads, heads) + 1)](
        q,
        k,
        values,
        cos_sin,
        positions,
        as_loaded(k_cache),
        as_loaded(value_pages),
        k_scales,
        v_scales,
        slot_mapping,
        out,
        out if qk_norm is None else qk_norm.q_weight.contiguous(),
        out if qk_norm is None else qk_norm.k_weight.contiguous(),
        0.0 if qk_norm is None else qk_norm.eps,
        factors.k,
        factors.v,
        *q.stride()[:2],
        *k.stride()[:2],
        *values.stride()[:2],
        cos_sin.stride(0),
        *k_cache.stride()[:3],
        *value_pages.stride()[:3],
        *scale_strides,
        num_heads,
        num_kv_heads,
        head_dim,
        k_cache.shape[1],
        HAS_VALUES=v is not None,
        HAS_NORM=qk_norm is not None,
        HALF=half,
        INTERLEAVED=interleaved,
        HEADS=heads,
        KV_HEADS=triton.next_power_of_2(num_kv_heads),
        HALF_BLOCK=triton.next_power_of_2(half),
        PASS_BLOCK=triton.next_power_of_2(rest) if rest else 0,
        DIM_BLOCK=triton.next_power_of_2(head_dim),
        num_warps=4,
        **launch_options(q.device),
    )
    return out
