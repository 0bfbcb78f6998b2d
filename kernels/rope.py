"""Rotary position embedding, together with the write of keys and values into the cache pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride, check_shape
from headway.kernels.kv_cache import UNSCALED, PageScales, check_cache
from headway.kernels.plans import RopePlan


@dataclass(frozen=True, slots=True)
class QKNorm:
    """RMS normalisation of each head of q and k before they are rotated (Henry et al., arXiv:2010.04245; Qwen3's form)."""

    q_weight: Tensor  # [D]
    k_weight: Tensor  # [D]
    eps: float


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
    """Rotate q and k by their positions, write k and v into their cache slots, return the rotated q.

    With ``c, s = cos_sin[position]``, split in halves, each pair of the first ``rotary_dim`` elements of a head becomes
    ``(a * c - b * s, b * c + a * s)``, computed in fp32. Pairs are ``(i, i + rotary_dim / 2)`` (NeoX, the default) or
    ``(2 i, 2 i + 1)`` (``interleaved``, GPT-J); elements from ``rotary_dim`` on pass unchanged.

    With ``qk_norm``, heads of q and k are first replaced by their ``rms_norm`` with these weights, rounded as that function does.

    q [T, Hq, D], k and v [T, Hkv, D] (one dtype, any outer strides: slices of a fused QKV output are fine); cos_sin
    [P, rotary_dim] fp32, the cosines then the sines; positions [T] int64 below P; k_cache, v_cache
    [num_blocks, block_size, Hkv, D] in q's dtype, in bf16 beside fp32 on CPUs, in float8_e4m3fn: what would be written is
    divided by ``kv_scales``, cut off at +-448 and rounded to the nearest, ties to even; or in int8: each head is divided by its scale,
    which is written to ``kv_scales`` (``TokenScales`` says how large it is), and rounded alike; slot_mapping [T] int64,
    ``block * block_size + offset``, unique, -1: do not write. Returns a new contiguous [T, Hq, D]; q, k and v are left as they are,
    the caches change in place.
    ``v`` and ``v_cache`` are both None where pages of keys serve as those of values too: only k is written.
    ``plan`` comes from ``prepare_rope`` with the same arguments; without it each call does that work. (Su et al., arXiv:2104.09864)
    """
    num_tokens, _, head_dim = q.shape
    check_float("q", q)
    check_cache(q, k_cache, k_cache if v_cache is None else v_cache, kv_scales)
    if (v is None) != (v_cache is None):
        raise ValueError("v and v_cache: either both or neither")
    check_shape("k", k, num_tokens, k_cache.shape[2], head_dim)
    check_inner_stride("k", k)
    if v is not None:
        check_shape("v", v, num_tokens, k_cache.shape[2], head_dim)
        check_inner_stride("v", v)
    if cos_sin.shape[1] > head_dim or cos_sin.shape[1] % 2 or cos_sin.dtype != torch.float32:
        raise ValueError(f"cos_sin {tuple(cos_sin.shape)} {cos_sin.dtype}: expected fp32, an even rotary_dim of at most {head_dim}")
    if qk_norm is not None:
        check_shape("qk_norm.q_weight", qk_norm.q_weight, head_dim)
        check_shape("qk_norm.k_weight", qk_norm.k_weight, head_dim)
    out: Tensor = implementation("rope", q.device.type).rope_and_cache(
        q,
        k,
        v,
        cos_sin,
        positions,
        k_cache,
        v_cache,
        slot_mapping,
        interleaved=interleaved,
        qk_norm=qk_norm,
        kv_scales=kv_scales,
        plan=plan,
    )
    return out


def prepare_rope(cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor) -> RopePlan | None:
    """What the layers of one step share; None where the implementation has no use for it (CUDA, reference).

    Valid for calls with the same three tensors, unchanged.
    """
    prepare = getattr(implementation("rope", positions.device.type), "prepare_rope", None)
    return None if prepare is None else prepare(cos_sin, positions, slot_mapping)
