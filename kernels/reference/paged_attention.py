"""Decode attention over cache pages in plain torch, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.reference.prefill_attention import attend, gather_row


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
    plan: object = None,
) -> Tensor:
    """See headway.kernels.paged_attention.paged_attention."""
    del max_seq_len, plan  # hints for faster implementations
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for row, seq_len in enumerate(seq_lens.tolist()):
        keys = gather_row(k_cache, block_tables[row], seq_len, kv_scales.k)
        values = gather_row(v_cache, block_tables[row], seq_len, kv_scales.v)
        out[row : row + 1] = attend(q[row : row + 1], keys, values, scale, sliding_window, softcap, sinks)
    return out
