"""Causal attention over cache pages in plain torch, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.kv_cache import UNSCALED, PageScales


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    scale: float,
    *,
    max_query_len: int,
    max_seq_len: int,
    query_lens: Sequence[int] | None = None,
    seq_lens_host: Sequence[int] | None = None,
    sliding_window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    kv_scales: PageScales = UNSCALED,
    plan: object = None,
) -> Tensor:
    """See headway.kernels.prefill_attention.prefill_attention."""
    del max_query_len, max_seq_len, query_lens, seq_lens_host, plan  # hints for faster implementations
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    starts = query_start_loc.tolist()
    for row, seq_len in enumerate(seq_lens.tolist()):
        queries = slice(starts[row], starts[row + 1])
        keys = gather_row(k_cache, block_tables[row], seq_len, kv_scales.k)
        values = gather_row(v_cache, block_tables[row], seq_len, kv_scales.v)
        out[queries] = attend(q[queries], keys, values, scale, sliding_window, softcap, sinks)
    return out


def gather_row(cache: Tensor, block_table: Tensor, seq_len: int, scale: float | Tensor) -> Tensor:
    """The first ``seq_len`` keys (or values) of a row, [seq_len, Hkv, D] fp32, from its pages and their scales."""
    if isinstance(scale, Tensor):
        scale = scale[block_table.long()].flatten(0, 1)[:seq_len, :, None]
    return cache[block_table.long()].flatten(0, 1)[:seq_len].float() * scale


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, sliding_window: int, softcap: float, sinks: Tensor | None = None) -> Tensor:
    """Causal attention of the last positions of one sequence: q [S, Hq, D], k and v [L, Hkv, D] -> [S, Hq, D] in q's dtype."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("shd,lhd->hsl", q.float() * scale, k)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(k.shape[0] - q.shape[0], k.shape[0], device=q.device)[:, None]
    key = torch.arange(k.shape[0], device=q.device)[None, :]
    hidden = key > position
    if sliding_window > 0:
        hidden |= key <= position - sliding_window
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.float()[:, None, None].expand(-1, q.shape[0], 1)], dim=2)
    probabilities = scores.softmax(dim=-1)[:, :, : k.shape[0]]
    return torch.einsum("hsl,lhd->shd", probabilities, v).to(q.dtype)
