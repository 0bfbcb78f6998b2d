"""Rotary embedding and cache write with the table look-ups done once per step, and in-place sums.

40 us a layer against 118 us for the reference at T = 32, 180 against 518 us at T = 512 (9 + 3 heads of 64, fp32; 2026-11, EPYC
with AVX-512, 2 threads).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import RopeShape, function
from headway.kernels.cpu.norm import rms_norm
from headway.kernels.kv_cache import FP8, INT8, UNSCALED, PageScales, lie_in_order
from headway.kernels.plans import RopePlan
from headway.kernels.reference import rope as reference
from headway.kernels.rope import QKNorm


def prepare_rope(cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor) -> RopePlan | None:
    """See headway.kernels.rope.prepare_rope. The compiled kernel needs no plan."""
    return None if function("rope_and_cache", torch.float32) is not None else _plan(cos_sin, positions, slot_mapping)


def _plan(cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor) -> RopePlan:
    cos, sin = (half.contiguous() for half in cos_sin[positions].unsqueeze(1).chunk(2, dim=-1))
    if slot_mapping.numel() == 0 or int(slot_mapping.min()) >= 0:
        return RopePlan(cos, sin, slot_mapping, None)
    tokens = (slot_mapping >= 0).nonzero().flatten()
    return RopePlan(cos, sin, slot_mapping[tokens], tokens)


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
    plan: RopePlan | None = None,
) -> Tensor:
    """See headway.kernels.rope.rope_and_cache. Pages in fp8 are left to the reference; what writes no values has no compiled kernel."""
    if qk_norm is not None and k_cache.dtype != FP8:
        q, k, qk_norm = rms_norm(q, qk_norm.q_weight, qk_norm.eps), rms_norm(k, qk_norm.k_weight, qk_norm.eps), None
    kernel = function("rope_and_cache", q.dtype, k_cache.dtype)
    if kernel is not None and v is not None and v_cache is not None:
        fits = _fits(q, k, v, cos_sin, positions, slot_mapping)
        if fits and lie_in_order(k_cache, v_cache, kv_scales):
            return _run(kernel, q, k, v, cos_sin, positions, k_cache, v_cache, slot_mapping, interleaved)
    if k_cache.dtype in (FP8, INT8):
        return reference.rope_and_cache(
            q, k, v, cos_sin, positions, k_cache, v_cache, slot_mapping, interleaved=interleaved, qk_norm=qk_norm, kv_scales=kv_scales
        )
    if v is None or v_cache is None:
        plan = plan or _plan(cos_sin, positions, slot_mapping)
        _write(k_cache, _rotate(k, plan, interleaved), plan)
        return _rotate(q, plan, interleaved)
    plan = plan or _plan(cos_sin, positions, slot_mapping)
    _write(k_cache, _rotate(k, plan, interleaved), plan)
    _write(v_cache, v, plan)
    return _rotate(q, plan, interleaved)


def _fits(q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor) -> bool:
    """Heads and their elements lie next to each other; only the strides between tokens are free."""
    dim = q.shape[2]
    return (
        q.shape[0] > 0
        and all(x.stride(2) == 1 and x.stride(1) == dim and x.dtype == q.dtype for x in (q, k, v))
        and cos_sin.dtype == torch.float32
        and all(x.is_contiguous() for x in (cos_sin, positions, slot_mapping))
        and positions.dtype == slot_mapping.dtype == torch.int64
    )


def _run(
    kernel: Callable[..., None],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    interleaved: bool,
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype)
    shape = RopeShape(
        *(q.shape[0], q.shape[1], k.shape[1], q.shape[2], cos_sin.shape[1]),
        *(q.stride(0), k.stride(0), v.stride(0), int(interleaved), k_cache.shape[1]),
    )
    tensors = (out, q, k, v, cos_sin, positions, k_cache, v_cache, slot_mapping)
    kernel(*[tensor.data_ptr() for tensor in tensors], ctypes.byref(shape))
    return out


def _rotate(x: Tensor, plan: RopePlan, interleaved: bool) -> Tensor:
    half = plan.cos.shape[-1]
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    value = x.float()  # no copy in fp32
    out = torch.empty(x.shape, dtype=torch.float32)
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = value[..., 2 * half :]
    a, b = value[..., first], value[..., second]
    torch.mul(a, plan.cos, out=out[..., first]).addcmul_(b, plan.sin, value=-1)
    torch.mul(b, plan.cos, out=out[..., second]).addcmul_(a, plan.sin)
    return out.to(x.dtype)


def _write(cache: Tensor, x: Tensor, plan: RopePlan) -> None:
    x = (x if plan.tokens is None else x[plan.tokens]).to(cache.dtype)
    if cache.is_contiguous():
        cache.view(-1, *cache.shape[2:]).index_copy_(0, plan.slots, x)
    else:
        block_size = cache.shape[1]
        cache[plan.slots // block_size, plan.slots % block_size] = x
