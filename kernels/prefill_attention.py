"""Causal attention of several query tokens per row over the row's cache pages: prefill, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_heads, check_shape
from headway.kernels.kv_cache import UNSCALED, PageScales, check_cache
from headway.kernels.plans import PrefillPlan


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
    plan: PrefillPlan | None = None,
) -> Tensor:
    """Attention as in paged_attention for the last ``query_len`` positions of each row, each seeing the keys up to its own.

    Row b's queries are ``q[query_start_loc[b] : query_start_loc[b + 1]]``, at positions ``seq_lens[b] - query_len ..
    seq_lens[b] - 1``; the query at position i sees keys j <= i, and with ``sliding_window`` w > 0 only j > i - w. Keys and values
    of this chunk are in the cache pages already.

    q [T, Hq, D] (any outer strides), T = query_start_loc[B] - query_start_loc[0] and query_start_loc[0] = 0; k_cache, v_cache
    [num_blocks, block_size, Hkv, D] in q's dtype (fp32, fp16, bf16; summed in fp32), in bf16 beside fp32 queries on CPUs
    (a chip with bf16 products rounds these too, as beside int8), or in float8_e4m3fn or int8; block_tables [B, M] int32,
    seq_lens [B] int32, query_start_loc [B + 1] int32. query_lens, seq_lens_host: host copies, which save a synchronisation. Rows with one
    query or none are right too.
    Returns a new contiguous [T, Hq, D].
    ``plan`` comes from ``prepare_prefill`` for this step and window; without it each call does that work.
    """
    num_rows = block_tables.shape[0]
    check_float("q", q)
    check_cache(q, k_cache, v_cache, kv_scales)
    check_heads("sinks", sinks, q.shape[1])
    check_shape("block_tables", block_tables, num_rows, -1)
    check_shape("seq_lens", seq_lens, num_rows)
    check_shape("query_start_loc", query_start_loc, num_rows + 1)
    out: Tensor = implementation("prefill_attention", q.device.type).prefill_attention(
        q,
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        query_start_loc,
        scale,
        max_query_len=max_query_len,
        max_seq_len=max_seq_len,
        query_lens=query_lens,
        seq_lens_host=seq_lens_host,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
        kv_scales=kv_scales,
        plan=plan,
    )
    return out


def prepare_prefill(
    block_tables: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    *,
    block_size: int,
    dtype: torch.dtype,
    query_lens: Sequence[int] | None = None,
    seq_lens_host: Sequence[int] | None = None,
    sliding_window: int = 0,
) -> PrefillPlan | None:
    """What the layers of one step share; None where the implementation has no use for it (CUDA, reference).

    Valid for calls with the same three tensors, unchanged, the same window and pages of this block_size and dtype.
    """
    prepare = getattr(implementation("prefill_attention", block_tables.device.type), "prepare_prefill", None)
    if prepare is None:
        return None
    plan: PrefillPlan = prepare(
        block_tables,
        seq_lens,
        query_start_loc,
        block_size=block_size,
        dtype=dtype,
        query_lens=query_lens,
        seq_lens_host=seq_lens_host,
        sliding_window=sliding_window,
    )
    return plan
