"""Attention over a part of each row's keys on the CPU: pages gathered row by row, then torch's flash kernel, which returns its log-sum-exp.

A soft cap, which that kernel has not, is left to the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.partial_attention import KeySpans, QueryRows
from headway.kernels.reference import partial_attention as reference

merge_parts = reference.merge_parts


def partial_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: QueryRows,
    spans: KeySpans,
    scale: float,
    *,
    has_begins: bool = True,
    softcap: float = 0.0,
    kv_scales: PageScales = UNSCALED,
) -> tuple[Tensor, Tensor]:
    """See headway.kernels.partial_attention.partial_attention."""
    if softcap > 0:
        return reference.partial_attention(
            q, k_cache, v_cache, rows, spans, scale, has_begins=has_begins, softcap=softcap, kv_scales=kv_scales
        )
    out = torch.zeros(q.shape, dtype=q.dtype)
    lse = torch.full(q.shape[:2], float("-inf"))
    group, block_size, start = q.shape[1] // k_cache.shape[2], k_cache.shape[1], 0
    for table, query_len in zip(rows.block_tables, rows.query_lens, strict=True):
        own, start = slice(start, start + query_len), start + query_len
        num_keys = int(spans.ends[own].max()) if query_len else 0
        if num_keys == 0:
            continue
        pages = table[: -(-num_keys // block_size)].long()
        k, v = (
            _spread(_gather(cache, pages, num_keys, q.dtype, factor), group)
            for cache, factor in ((k_cache, kv_scales.k), (v_cache, kv_scales.v))
        )
        key = torch.arange(num_keys)
        hidden = (key < spans.begins[own, None]) | (key >= spans.ends[own, None])  # [S, L]
        mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, float("-inf"))[None, None]
        values, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q[own].transpose(0, 1)[None], k, v, 0.0, False, attn_mask=mask, scale=scale
        )
        sees_none = hidden.all(dim=1)  # which the kernel gives a log-sum-exp of 0
        out[own] = values[0].transpose(0, 1)
        lse[own] = (total[0].T / math.log(2)).masked_fill(sees_none[:, None], float("-inf"))
    return out, lse


def _gather(cache: Tensor, pages: Tensor, num_keys: int, dtype: torch.dtype, factor: float | Tensor) -> Tensor:
    """The first keys or values [L, Hkv, D] of these pages, in ``dtype``."""
    rows = cache.index_select(0, pages).flatten(0, 1)[:num_keys]
    if isinstance(factor, Tensor):
        return (rows * factor.index_select(0, pages).flatten(0, 1)[:num_keys, :, None]).to(dtype)
    return rows if rows.dtype == dtype else rows.to(dtype) * factor


def _spread(rows: Tensor, group: int) -> Tensor:
    """Keys or values [L, Hkv, D] -> [1, Hq, L, D]."""
    return rows.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1).flatten(0, 1)[None]
