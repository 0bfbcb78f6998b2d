"""Decode attention on the CPU: gather the pages of many rows at once, then one call of torch's flash kernel.

Query heads that share a key-value head become the kernel's queries, so keys are read once for all of them. Measured per 30 layers,
32 rows of 130-190 tokens, 9 + 3 heads of 64, pages of 32, 2 threads, EPYC with AVX-512, 2026-11 (bf16 in brackets): 29 ms
(23), of which the gather 11 (6.5). Alternatives: a loop over rows 72 (57); batched matmul and softmax on the gathered pages 48 (22),
on a gather by head 30 (20, but scores rounded to bf16); embedding_bag for the values 47 (21); enable_gqa 28 (104).

Pages in fp8 and sinks, which models too large for a CPU have, are left to the reference; so are pages in int8, and in bf16 beside
fp32 queries, where there is no compiled kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import DecodeShape, function
from headway.kernels.cpu.prefill_attention import attend
from headway.kernels.kv_cache import FP8, INT8, UNSCALED, PageScales, lie_in_order
from headway.kernels.plans import DecodeGroup, DecodePlan
from headway.kernels.reference import paged_attention as reference

# A padded page costs about 5 us a layer to gather and attend, one more call about 50 us (as measured above).
MAX_WASTED_PAGES = 12


def prepare_decode(
    block_tables: Tensor,
    seq_lens: Tensor,
    *,
    block_size: int,
    dtype: torch.dtype,
    sliding_window: int = 0,
    seq_lens_host: Sequence[int] | None = None,
) -> DecodePlan | None:
    """See headway.kernels.paged_attention.prepare_decode. The compiled kernel and the reference need no plan."""
    if dtype in (FP8, INT8) or function("paged_decode", dtype) is not None:
        return None
    return _plan(block_tables, seq_lens, block_size, dtype, sliding_window, seq_lens_host)


def _plan(
    block_tables: Tensor,
    seq_lens: Tensor,
    block_size: int,
    dtype: torch.dtype,
    sliding_window: int,
    seq_lens_host: Sequence[int] | None = None,
) -> DecodePlan:
    lens = seq_lens.tolist() if seq_lens_host is None else seq_lens_host
    first_pages = [max(0, n - sliding_window) // block_size if sliding_window > 0 else 0 for n in lens]
    num_pages = [-(-n // block_size) - first for n, first in zip(lens, first_pages, strict=True)]
    groups = _group(num_pages)
    tables = block_tables.long()
    return DecodePlan(
        tuple(
            _plan_group(rows if len(groups) > 1 else None, tables, lens, first_pages, block_size, dtype, sliding_window) for rows in groups
        )
    )


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
    """See headway.kernels.paged_attention.paged_attention."""
    fits = _fits(q, block_tables, seq_lens) and lie_in_order(k_cache, v_cache, kv_scales)
    kernel = function("paged_decode", q.dtype, k_cache.dtype) if fits else None
    if sinks is not None or (kernel is None and k_cache.dtype != q.dtype):
        return reference.paged_attention(
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
        )
    if kernel is not None and plan is None:
        out = torch.empty(q.shape, dtype=q.dtype)
        block_size, kv_heads, dim = k_cache.shape[1:]
        shape = DecodeShape(
            q.shape[0], q.shape[1], kv_heads, dim, block_size, block_tables.stride(0), q.stride(0), sliding_window, scale, softcap
        )
        tensors = (out, q, k_cache, v_cache, block_tables, seq_lens)
        kernel(*[tensor.data_ptr() for tensor in tensors], ctypes.byref(shape))
        return out
    if plan is None:
        plan = _plan(block_tables, seq_lens, k_cache.shape[1], q.dtype, sliding_window)
    if len(plan.groups) == 1:
        return _attend_group(q, k_cache, v_cache, plan.groups[0], scale, softcap)
    out = torch.empty(q.shape, dtype=q.dtype)
    for group in plan.groups:
        assert group.rows is not None
        out.index_copy_(0, group.rows, _attend_group(q.index_select(0, group.rows), k_cache, v_cache, group, scale, softcap))
    return out


def _fits(q: Tensor, block_tables: Tensor, seq_lens: Tensor) -> bool:
    return (
        q.shape[0] > 0
        and q.stride(2) == 1
        and q.stride(1) == q.shape[2]
        and block_tables.dtype == seq_lens.dtype == torch.int32
        and block_tables.stride(1) == 1
        and seq_lens.is_contiguous()
    )


def _attend_group(q: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup, scale: float, softcap: float) -> Tensor:
    num_kv_heads, head_dim = k_cache.shape[2:]
    k, v = (  # [R, Hkv, kv_len, D]
        cache.index_select(0, group.blocks).view(group.num_rows, -1, num_kv_heads, head_dim)[:, : group.kv_len].transpose(1, 2)
        for cache in (k_cache, v_cache)
    )
    out = attend(q.view(group.num_rows, num_kv_heads, -1, head_dim), k, v, group.mask, scale, softcap)
    return out.reshape(q.shape)


def _group(num_pages: Sequence[int]) -> list[list[int]]:
    """Rows by falling number of pages, cut where padding them to the group's widest would waste too many pages."""
    groups: list[list[int]] = []
    widest = wasted = 0
    for row in sorted(range(len(num_pages)), key=lambda row: -num_pages[row]):
        if not groups or wasted + widest - num_pages[row] > MAX_WASTED_PAGES:
            groups.append([])
            widest, wasted = num_pages[row], 0
        groups[-1].append(row)
        wasted += widest - num_pages[row]
    return groups


def _plan_group(
    rows: list[int] | None,
    tables: Tensor,
    lens: Sequence[int],
    first_pages: Sequence[int],
    block_size: int,
    dtype: torch.dtype,
    sliding_window: int,
) -> DecodeGroup:
    index = torch.arange(len(lens)) if rows is None else torch.tensor(rows)
    length = torch.tensor(lens)[index]
    first_page = torch.tensor(first_pages)[index]
    end = length - first_page * block_size  # keys of each row, counted from its first gathered page
    kv_len = int(end.max())
    pages = torch.arange(-(-kv_len // block_size))
    # A row's columns past its table are masked below; clamp them to a page that exists.
    columns = (first_page[:, None] + pages).clamp_(max=tables.shape[1] - 1)
    key = torch.arange(kv_len)
    hidden = key >= end[:, None]
    if sliding_window > 0:
        hidden |= key < (end - sliding_window)[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None, None]
    blocks = tables[index[:, None], columns].flatten()
    return DecodeGroup(None if rows is None else index, blocks, len(length), kv_len, mask)
