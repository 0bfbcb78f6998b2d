"""Attention over a part of each row's keys in plain torch, row by row, and the sum of parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.partial_attention import KeySpans, QueryRows
from headway.kernels.reference.prefill_attention import gather_row


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
    del has_begins  # a hint for faster implementations
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    group, start = q.shape[1] // k_cache.shape[2], 0
    for table, query_len in zip(rows.block_tables, rows.query_lens, strict=True):
        own = slice(start, start + query_len)
        num_keys = int(spans.ends[own].max()) if query_len else 0
        k, v = (
            gather_row(cache, table, num_keys, factor).repeat_interleave(group, dim=1)
            for cache, factor in ((k_cache, kv_scales.k), (v_cache, kv_scales.v))
        )
        scores = torch.einsum("shd,lhd->hsl", q[own].float() * scale, k)
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        key = torch.arange(num_keys, device=q.device)
        hidden = (key < spans.begins[own, None]) | (key >= spans.ends[own, None])
        scores = scores.masked_fill(hidden, float("-inf"))
        total = scores.logsumexp(dim=-1)  # [Hq, S]
        probabilities = (scores - total.clamp(min=torch.finfo(torch.float32).min)[..., None]).exp()
        out[own] = torch.einsum("hsl,lhd->shd", probabilities, v).to(q.dtype)
        lse[own] = total.T / math.log(2)
        start += query_len
    return out, lse


def merge_parts(parts: Tensor, lse: Tensor) -> Tensor:
    """See headway.kernels.partial_attention.merge_parts."""
    weights = (lse * math.log(2)).softmax(dim=0)
    return (parts.float() * weights[..., None]).sum(dim=0).to(parts.dtype)
