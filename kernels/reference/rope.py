"""Rotary position embedding and cache write in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.kv_cache import FP8, FP8_MAX, INT8_MAX, UNSCALED, PageScales
from headway.kernels.reference.norm import rms_norm
from headway.kernels.rope import QKNorm


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
    del plan  # nothing to share: the reference computes everything from its arguments
    if qk_norm is not None:
        q, k = rms_norm(q, qk_norm.q_weight, qk_norm.eps), rms_norm(k, qk_norm.k_weight, qk_norm.eps)
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    write = slot_mapping >= 0
    block, offset = slot_mapping[write] // k_cache.shape[1], slot_mapping[write] % k_cache.shape[1]
    _write(k_cache, block, offset, _rotate(k, cos, sin, interleaved)[write], kv_scales.k)
    if v is not None and v_cache is not None:
        _write(v_cache, block, offset, v[write], kv_scales.v)
    return _rotate(q, cos, sin, interleaved)


def _write(cache: Tensor, block: Tensor, offset: Tensor, values: Tensor, scale: float | Tensor) -> None:
    """``scale`` of pages in int8, each head's, is written too."""
    if isinstance(scale, Tensor):
        cache[block, offset], scale[block, offset] = round_int8(values)
        return
    if cache.dtype == FP8:
        # By a tensor: CUDA multiplies by the reciprocal of a number.
        values = (values.float() / torch.tensor(scale, device=values.device)).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    cache[block, offset] = values.to(cache.dtype)


def round_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., D] -> (int8 [..., D], scales fp32 [...]): the largest of a head becomes +-127, halves go to the even number."""
    x = x.float()
    peak = x.abs().amax(dim=-1)
    scale = peak / torch.tensor(INT8_MAX, device=x.device)  # by a tensor, as above
    scale = torch.where(peak.isfinite(), scale, torch.nan)
    numbers = (x / torch.where(scale == 0, 1, scale)[..., None]).round().clamp(-INT8_MAX, INT8_MAX)
    return numbers.nan_to_num(0).to(torch.int8), scale


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    rotary_dim = 2 * cos.shape[-1]
    value, rest = x[..., :rotary_dim].float(), x[..., rotary_dim:]
    if interleaved:
        first, second = value[..., 0::2], value[..., 1::2]
    else:
        first, second = value.chunk(2, dim=-1)
    pair = (first * cos - second * sin, second * cos + first * sin)
    rotated = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return torch.cat((rotated.to(x.dtype), rest), dim=-1)
