"""Attention of one query token per row over the row's cache pages: decode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_heads, check_shape
from headway.kernels.kv_cache import UNSCALED, PageScales, check_cache
from headway.kernels.plans import DecodePlan


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    max_seq_len: int,
    sliding_window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    kv_scales: PageScales = UNSCALED,
    plan: DecodePlan | None = None,
) -> Tensor:
    """``out[b, h] = softmax(cap(scale * q[b, h] . K[b, h // G])) V[b, h // G]`` over the row's ``seq_lens[b]`` keys.

    ``scale`` is above 0. ``G = Hq / Hkv`` query heads share a key-value head. ``cap(s) = softcap * tanh(s / softcap)``, off at 0. The
    query is the sequence's last token (position ``seq_lens - 1``); its key and value are in the cache already. With
    ``sliding_window`` w > 0 it sees the last w keys, its own included. ``sinks`` [Hq]: one more score of each head, uncapped, whose
    key has no value: the softmax's denominator gains ``exp(sinks[h])`` (gpt-oss; Xiao et al., arXiv:2309.17453).

    q [B, Hq, D] (any outer strides); k_cache, v_cache [num_blocks, block_size, Hkv, D], in q's dtype (fp32, fp16 or bf16; summed in
    fp32), in bf16 beside fp32 queries on CPUs, or in float8_e4m3fn or int8, multiplied by ``kv_scales``; block_tables [B, M] int32, entries
    past a row's length are not read as keys but must be valid block ids; seq_lens [B] int32 of at least 1 and at most
    max_seq_len <= M * block_size. Pages must be finite everywhere (zero them once): what is hidden is multiplied by 0, not skipped.
    ``v_cache`` may be ``k_cache`` itself, of any D: pages that are keys and values at once (multi-head latent attention).
    Returns a new contiguous [B, Hq, D].
    ``plan`` comes from ``prepare_decode`` for this step and window; without it each call does that work.
    """
    num_rows = q.shape[0]
    check_float("q", q)
    check_cache(q, k_cache, v_cache, kv_scales)
    check_heads("sinks", sinks, q.shape[1])
    check_shape("block_tables", block_tables, num_rows, -1)
    check_shape("seq_lens", seq_lens, num_rows)
    if max_seq_len > block_tables.shape[1] * k_cache.shape[1]:
        raise ValueError(
            f"max_seq_len {max_seq_len} needs more than the {block_tables.shape[1]} blocks of {k_cache.shape[1]} in block_tables"
        )
    out: Tensor = implementation("paged_attention", q.device.type).paged_attention(
        q,
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        scale,
        max_seq_len=max_seq_len,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
        kv_scales=kv_scales,
        plan=plan,
    )
    return out


def prepare_decode(
    block_tables: Tensor,
    seq_lens: Tensor,
    *,
    block_size: int,
    dtype: torch.dtype,
    sliding_window: int = 0,
    seq_lens_host: Sequence[int] | None = None,
) -> DecodePlan | None:
    """What the layers of one step share; None where the implementation has no use for it (CUDA, reference).

    Valid for calls with the same block_tables [B, M] and seq_lens [B], unchanged, the same window and pages of this block_size
    and dtype. seq_lens_host: a host copy of seq_lens, saves a synchronisation.
    """
    prepare = getattr(implementation("paged_attention", block_tables.device.type), "prepare_decode", None)
    if prepare is None:
        return None
    plan: DecodePlan = prepare(
        block_tables, seq_lens, block_size=block_size, dtype=dtype, sliding_window=sliding_window, seq_lens_host=seq_lens_host
    )
    return plan
