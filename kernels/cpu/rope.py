"""Rotary embedding and cache write with the table look-ups done once per step, and in-place sums.

40 us a layer against 118 us for the reference at T = 32, 180 against 518 us at T = 512 (9 + 3 heads of 64, fp32; 2026-11, EPYC
with AVX-512, 2 threads).
"""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.plans import RopePlan


def prepare_rope(cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor) -> RopePlan:
    """See headway.kernels.rope.prepare_rope."""
    cos, sin = (half.contiguous() for half in cos_sin[positions].unsqueeze(1).chunk(2, dim=-1))
    if slot_mapping.numel() == 0 or int(slot_mapping.min()) >= 0:
        return RopePlan(cos, sin, slot_mapping, None)
    tokens = (slot_mapping >= 0).nonzero().flatten()
    return RopePlan(cos, sin, slot_mapping[tokens], tokens)


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    *,
    interleaved: bool = False,
    plan: RopePlan | None = None,
) -> Tensor:
    """See headway.kernels.rope.rope_and_cache."""
    plan = plan or prepare_rope(cos_sin, positions, slot_mapping)
    _write(k_cache, _rotate(k, plan, interleaved), plan)
    _write(v_cache, v, plan)
    return _rotate(q, plan, interleaved)


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
    if cache.is_contiguous():
        cache.view(-1, *cache.shape[2:]).index_copy_(0, plan.slots, x if plan.tokens is None else x[plan.tokens])
    else:
        block_size = cache.shape[1]
        cache[plan.slots // block_size, plan.slots % block_size] = x if plan.tokens is None else x[plan.tokens]
