"""Prefill attention on the CPU: a compiled flash kernel that reads the pages, or torch's flash kernel on gathered pages.

Measured per 30 layers, 9 + 3 heads of 64, pages of 32, 2 threads, EPYC (Zen 4: AVX-512, bf16 products), 2026-11; the bf16 products
of the compiled kernel need AVX512-BF16:

    queries / keys      fp32: compiled    torch      bf16: compiled    torch
    512 / 512            52 ms (174 GF/s)  114 ms     34 ms (268 GF/s)  146 ms
    512 / 1024          152 ms (179)       352 ms     88 ms (310)       328 ms
    128 / 1024           50 ms (170)        91 ms     28 ms (301)       116 ms
    4 rows 128 / 128     17 ms (136)        71 ms     13 ms (173)        76 ms

Without the compiled kernel a row's pages are gathered once. torch's kernel computes the whole rectangle that it is given, masked or
not, so each tile of TILE queries is given only the keys up to its own end:

    queries / keys      one call, mask    is_causal    tiles of 128    tiles of 256    matmul + softmax
    512 / 512           153 ms (136)      153 (133)    138 (108)       131 (106)       340 (92)
    512 / 1024          319 ms (275)      -            323 (270)       290 (251)       700 (335)
    128 / 1024           99 ms (83)       -            103 (84)        105 (85)        112 (57)

(fp32, bf16 in brackets.) Splitting prefix and own chunk and merging by log-sum-exp takes 339 ms (286) for 512 / 1024. matmul rounds
the scores to bf16, so it is used only where the flash kernel cannot be: with a soft cap.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headway.kernels.cpu.native.library import PrefillShape, function
from headway.kernels.kv_cache import FP8, INT8, UNSCALED, PageScales, lie_in_order
from headway.kernels.plans import PrefillPlan, PrefillRow
from headway.kernels.reference import prefill_attention as reference

TILE = 256


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
    """See headway.kernels.prefill_attention.prepare_prefill. The compiled kernel and the reference need no plan."""
    if dtype in (FP8, INT8) or function("prefill_attention", dtype) is not None:
        return None
    return _plan(block_tables, seq_lens, query_start_loc, block_size, dtype, query_lens, seq_lens_host, sliding_window)


def _plan(
    block_tables: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    block_size: int,
    dtype: torch.dtype,
    query_lens: Sequence[int] | None,
    seq_lens_host: Sequence[int] | None,
    sliding_window: int,
) -> PrefillPlan:
    lens = seq_lens.tolist() if seq_lens_host is None else seq_lens_host
    if query_lens is None:
        query_lens = query_start_loc.diff().tolist()
    rows = []
    query_start = 0
    for row, (seq_len, query_len) in enumerate(zip(lens, query_lens, strict=True)):
        if query_len:
            first_key = max(0, seq_len - query_len - sliding_window + 1) if sliding_window > 0 else 0
            first_page = first_key // block_size
            pages = block_tables[row, first_page : -(-seq_len // block_size)].long()
            rows.append(PrefillRow(query_start, query_len, seq_len - first_page * block_size, pages))
        query_start += query_len
    width = max((row.kv_len for row in rows), default=0)
    return PrefillPlan(tuple(rows), _corner_mask(width, sliding_window, dtype), sliding_window)


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
    """See headway.kernels.prefill_attention.prefill_attention."""
    fits = _fits(q, k_cache, v_cache, block_tables, seq_lens, query_start_loc)
    fits = fits and (k_cache.dtype != INT8 or lie_in_order(k_cache, v_cache, kv_scales))
    kernel = function("prefill_attention", q.dtype, k_cache.dtype) if fits else None
    if sinks is not None or (kernel is None and k_cache.dtype != q.dtype):
        return reference.prefill_attention(
            q,
            k_cache,
            v_cache,
            block_tables,
            seq_lens,
            query_start_loc,
            scale,
            max_query_len=max_query_len,
            max_seq_len=max_seq_len,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks=sinks,
            kv_scales=kv_scales,
        )
    out = torch.empty(q.shape, dtype=q.dtype)
    if kernel is not None and plan is None:
        block_size, num_kv_heads, head_dim = k_cache.shape[1:]
        shape = PrefillShape(
            *(len(seq_lens), q.shape[1], num_kv_heads, head_dim, block_size, block_tables.stride(0), *q.stride()[:2]),
            *(*k_cache.stride()[:3], sliding_window, scale, softcap),
        )
        tensors = (out, q, k_cache, v_cache, block_tables, seq_lens, query_start_loc)
        kernel(*[tensor.data_ptr() for tensor in tensors], ctypes.byref(shape))
        return out
    if plan is None:
        plan = _plan(block_tables, seq_lens, query_start_loc, k_cache.shape[1], q.dtype, query_lens, seq_lens_host, sliding_window)
    for row in plan.rows:
        _attend_row(q, k_cache, v_cache, out, row, plan, scale, softcap)
    return out


def _fits(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, seq_lens: Tensor, query_start_loc: Tensor) -> bool:
    return (
        q.shape[0] > 0
        and all(tensor.stride(-1) == 1 for tensor in (q, k_cache, v_cache))
        and k_cache.stride() == v_cache.stride()
        and all(tensor.dtype == torch.int32 and tensor.stride(-1) == 1 for tensor in (block_tables, seq_lens, query_start_loc))
    )


def _attend_row(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, row: PrefillRow, plan: PrefillPlan, scale: float, softcap: float
) -> None:
    num_kv_heads, head_dim = k_cache.shape[2:]
    group = q.shape[1] // num_kv_heads
    # [Hkv, G, L, D], the G copies with stride 0: a view
    k, v = (
        cache.index_select(0, row.blocks).view(-1, num_kv_heads, head_dim).transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)
        for cache in (k_cache, v_cache)
    )
    queries = slice(row.query_start, row.query_start + row.query_len)
    grouped = q[queries].view(row.query_len, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)  # [Hkv, G, S, D]
    target = out[queries].view(row.query_len, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    for start in range(0, row.query_len, TILE):
        stop = min(start + TILE, row.query_len)
        end = row.kv_len - row.query_len + stop
        begin = max(0, end - (stop - start) - plan.sliding_window + 1) if plan.sliding_window > 0 else 0
        mask = plan.mask[TILE - (stop - start) :, plan.mask.shape[1] - (end - begin) :]
        target[:, :, start:stop] = attend(grouped[:, :, start:stop], k[:, :, begin:end], v[:, :, begin:end], mask, scale, softcap)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """softmax(cap(scale q k^T) + mask) v over the last two dimensions, with torch's flash kernel unless there is a cap."""
    if softcap <= 0:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = (q.float() * (scale / softcap)) @ k.float().transpose(-1, -2)
    return (scores.tanh_().mul_(softcap).add_(mask).softmax(dim=-1) @ v.float()).to(q.dtype)


def _corner_mask(width: int, sliding_window: int, dtype: torch.dtype) -> Tensor:
    # [TILE, width]; the bottom right element is a query on its own key.
    age = torch.arange(TILE - 1, -1, -1)[:, None]
    key_age = torch.arange(width - 1, -1, -1)[None, :]
    hidden = key_age < age
    if sliding_window > 0:
        hidden |= key_age >= age + sliding_window
    return torch.zeros(TILE, width, dtype=dtype).masked_fill_(hidden, float("-inf"))
