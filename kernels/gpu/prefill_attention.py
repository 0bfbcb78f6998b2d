"""Prefill attention in Triton: one program a tile of queries, head and row, over the row's cache pages."""

# mypy: allow-incomplete-defs

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.paged_attention import block_n
from headway.kernels.gpu.softmax import accumulate, scores_log2


@triton.jit
def prefill_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    tables_ptr,
    seq_lens_ptr,
    starts_ptr,
    out_ptr,
    scale,
    softcap,
    q_stride_token,
    q_stride_head,
    k_stride_block,
    k_stride_token,
    k_stride_head,
    v_stride_block,
    v_stride_token,
    v_stride_head,
    tables_stride,
    out_stride_token,
    out_stride_head,
    block_size,
    head_dim,
    sliding_window,
    GROUP: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tile, head, row = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    query_start = tl.load(starts_ptr + row)
    query_len = tl.load(starts_ptr + row + 1) - query_start
    if tile * BLOCK_M >= query_len:
        return
    seq_len = tl.load(seq_lens_ptr + row)
    query, dim = tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_dim = dim < head_dim
    position = seq_len - query_len + query
    token = (query_start + query).to(tl.int64)
    q_mask = (query < query_len)[:, None] & in_dim[None, :]
    q = tl.load(q_ptr + token[:, None] * q_stride_token + head * q_stride_head + dim[None, :], mask=q_mask, other=0.0)

    first_position = seq_len - query_len + tile * BLOCK_M
    begin = tl.where(sliding_window > 0, tl.maximum(first_position - sliding_window + 1, 0), 0)
    end = tl.minimum(first_position + BLOCK_M, seq_len)
    kv_head = head // GROUP
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        exists = key < end
        block = tl.load(tables_ptr + row * tables_stride + key // block_size, mask=exists, other=0).to(tl.int64)
        offset = key % block_size
        kv_mask = exists[:, None] & in_dim[None, :]
        k_rows = k_cache_ptr + block * k_stride_block + offset * k_stride_token + kv_head * k_stride_head
        v_rows = v_cache_ptr + block * v_stride_block + offset * v_stride_token + kv_head * v_stride_head
        k = tl.load(k_rows[:, None] + dim[None, :], mask=kv_mask, other=0.0)
        visible = exists[None, :] & (key[None, :] <= position[:, None])
        visible = visible & ((sliding_window <= 0) | (key[None, :] > position[:, None] - sliding_window))
        scores = scores_log2(q, k, visible, scale, softcap, HAS_SOFTCAP, UPCAST)
        v = tl.load(v_rows[:, None] + dim[None, :], mask=kv_mask, other=0.0)
        peak, total, acc = accumulate(scores, v, peak, total, acc, UPCAST)

    value = acc / tl.where(total > 0, total, 1.0)[:, None]
    out_rows = out_ptr + token[:, None] * out_stride_token + head * out_stride_head
    tl.store(out_rows + dim[None, :], value.to(out_ptr.dtype.element_ty), mask=q_mask)


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
    plan: object = None,
) -> Tensor:
    """See headway.kernels.prefill_attention.prefill_attention."""
    del max_seq_len, query_lens, seq_lens_host, plan  # the kernel reads tables and lengths itself
    num_heads, head_dim = q.shape[1:]
    block_size, num_kv_heads = k_cache.shape[1:3]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if q.shape[0] == 0:
        return out
    block_d = max(16, triton.next_power_of_2(head_dim))
    tile = block_m(block_d, q.dtype)
    prefill_kernel[(triton.cdiv(max_query_len, tile), num_heads, block_tables.shape[0])](
        q,
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        query_start_loc,
        out,
        scale,
        softcap,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        block_tables.stride(0),
        *out.stride()[:2],
        block_size,
        head_dim,
        sliding_window,
        GROUP=num_heads // num_kv_heads,
        HAS_SOFTCAP=softcap > 0,
        BLOCK_M=tile,
        BLOCK_N=block_n(block_d, q.dtype),
        BLOCK_D=block_d,
        UPCAST=is_interpreting(),
        num_warps=4,
        num_stages=2,
    )
    return out


def block_m(block_d: int, dtype: torch.dtype) -> int:
    """Queries a tile, by the same limit as block_n."""
    return 64 if block_d * dtype.itemsize <= 256 else 32
