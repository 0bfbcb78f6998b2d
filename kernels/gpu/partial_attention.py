"""Attention over a part of each row's keys in Triton: the kernels of decode and of prefill attention, which leave their log-sum-exp too."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.gpu.paged_attention import launch_decode, launch_merge
from headway.kernels.gpu.prefill_attention import launch_prefill
from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.partial_attention import KeySpans, QueryRows


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
    """See headway.kernels.partial_attention.partial_attention. The grid depends on shapes only where rows have one query (CUDA graphs)."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    begins = spans.begins if has_begins else None
    if rows.max_query_len == 1:
        launch_decode(
            *(q, k_cache, v_cache, rows.block_tables, spans.ends, out, scale),
            max_seq_len=rows.block_tables.shape[1] * k_cache.shape[1],
            softcap=softcap,
            kv_scales=kv_scales,
            begins=begins,
            lse=lse,
        )
    else:
        launch_prefill(
            *(q, k_cache, v_cache, rows.block_tables, spans.ends, rows.query_start_loc, out, scale),
            max_query_len=rows.max_query_len,
            softcap=softcap,
            kv_scales=kv_scales,
            begins=begins,
            lse=lse,
        )
    return out, lse


def merge_parts(parts: Tensor, lse: Tensor) -> Tensor:
    """See headway.kernels.partial_attention.merge_parts."""
    num_parts, num_tokens, num_heads, head_dim = parts.shape
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=parts.dtype, device=parts.device)
    if out.numel():
        launch_merge(parts.reshape(num_parts, -1, head_dim), lse.reshape(num_parts, -1), out.view(-1, head_dim))
    return out
