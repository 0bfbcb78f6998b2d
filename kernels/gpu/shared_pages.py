"""Attention in Triton over pages that are keys and values at once and wider than a tile: one key-value head of all query heads.

Multi-head latent attention has it so (arXiv:2405.04434). A program has one query of some heads and a part of its keys, which it reads once.

A page's numbers are two strips, the last of which is the largest power of two that fits: 64 and 512 of DeepSeek's 576. Padded to one
power of two, accumulators of 1024 would leave no registers. Decode and prefill differ in which queries a row has.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.fp8_cache import as_loaded, loaded_scales, operand
from headway.kernels.gpu.softmax import LOG2_E, normalised
from headway.kernels.kv_cache import KVScales, PageScales

BLOCK_N = 16  # keys; 32 spill registers, as 64 heads do (compiled for sm_80 and sm_90, 2026-11; not measured on a GPU yet)
MAX_SPLITS = 32  # of a row's keys: more, of so many numbers, spill registers when they are merged
WIDEST_TILE = 256  # numbers of a head that the kernels for separate pages take


# As decode_kernel: what differs from step to step is no reason to compile anew.
@triton.jit(do_not_specialize=["num_splits", "tables_stride"], do_not_specialize_on_alignment=["tables_ptr", "ends_ptr", "starts_ptr"])
def shared_pages_kernel(
    q_ptr,
    pages_ptr,
    tables_ptr,
    ends_ptr,
    starts_ptr,
    out_ptr,
    lse_ptr,
    scale,
    v_scale,
    q_stride_token,
    q_stride_head,
    pages_stride_block,
    pages_stride_token,
    tables_stride,
    out_stride_token,
    out_stride_head,
    out_stride_split,
    num_heads,
    num_splits,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    HAS_SPANS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FIRST_BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    query, split, row = tl.program_id(0), tl.program_id(1) % num_splits, tl.program_id(2).to(tl.int64)
    token, num_keys = row, 0
    if HAS_STARTS:
        query_start = tl.load(starts_ptr + row)
        query_len = tl.load(starts_ptr + row + 1) - query_start
        if query >= query_len:
            return
        token = (query_start + query).to(tl.int64)
        num_keys = tl.load(ends_ptr + token) if HAS_SPANS else tl.load(ends_ptr + row) - query_len + query + 1
    else:
        num_keys = tl.load(ends_ptr + row)
    part = tl.cdiv(tl.cdiv(num_keys, num_splits), BLOCK_N) * BLOCK_N
    begin = split * part
    end = tl.minimum(begin + part, num_keys)

    head = tl.program_id(1) // num_splits * BLOCK_M + tl.arange(0, BLOCK_M)
    first, last = tl.arange(0, FIRST_BLOCK), FIRST + tl.arange(0, LAST)
    is_head, in_first = (head < num_heads)[:, None], (first < FIRST)[None, :]
    q_rows = q_ptr + token * q_stride_token + head[:, None] * q_stride_head
    q_first = tl.load(q_rows + first[None, :], mask=is_head & in_first, other=0.0)
    q_last = tl.load(q_rows + last[None, :], mask=is_head, other=0.0)
    dtype = q_first.dtype
    q_first, q_last = operand(q_first, dtype, UPCAST), operand(q_last, dtype, UPCAST)
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    found_first = tl.zeros([BLOCK_M, FIRST_BLOCK], dtype=tl.float32)
    found_last = tl.zeros([BLOCK_M, LAST], dtype=tl.float32)
    factor = scale * LOG2_E
    for start in range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        exists = key < end
        block = tl.load(tables_ptr + row * tables_stride + key // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        rows = (pages_ptr + block * pages_stride_block + key % BLOCK_SIZE * pages_stride_token)[:, None]
        k_first = operand(tl.load(rows + first[None, :], mask=exists[:, None] & in_first, other=0.0), dtype, UPCAST)
        k_last = operand(tl.load(rows + last[None, :], mask=exists[:, None], other=0.0), dtype, UPCAST)
        scores = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
        scores = tl.dot(q_last, tl.trans(k_last), scores, input_precision="ieee")
        scores = tl.where(exists[None, :], scores, float("-inf"))
        # The first key of a loop exists, so that the new peak is finite.
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * factor)
        weight = tl.exp2(scores * factor - new_peak[:, None])
        decay = tl.exp2(peak - new_peak)
        total = total * decay + tl.sum(weight, axis=1)
        weight = weight.to(k_last.dtype)
        found_first = tl.dot(weight, k_first, found_first * decay[:, None], input_precision="ieee")
        found_last = tl.dot(weight, k_last, found_last * decay[:, None], input_precision="ieee")
        peak = new_peak

    out_rows = out_ptr + token * out_stride_token + head[:, None] * out_stride_head + split.to(tl.int64) * out_stride_split
    out_type = out_ptr.dtype.element_ty
    tl.store(out_rows + first[None, :], normalised(found_first, total, v_scale).to(out_type), mask=is_head & in_first)
    tl.store(out_rows + last[None, :], normalised(found_last, total, v_scale).to(out_type), mask=is_head)
    if HAS_LSE:
        lse = tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
        tl.store(lse_ptr + (token * num_heads + head) * num_splits + split, lse, mask=head < num_heads)


def has_shared_pages(k_cache: Tensor, v_cache: Tensor) -> bool:
    """Whether this kernel, and none for separate pages, has to read them."""
    return k_cache.data_ptr() == v_cache.data_ptr() and k_cache.shape[3] > WIDEST_TILE


def head_block(num_heads: int) -> int:
    """Heads of a program."""
    return 16 if num_heads <= 16 else 32


def num_head_blocks(q: Tensor) -> int:
    return -(-q.shape[1] // head_block(q.shape[1]))


def launch_shared_pages(
    q: Tensor,
    pages: Tensor,
    block_tables: Tensor,
    ends: Tensor,
    out: Tensor,
    scale: float,
    kv_scales: PageScales,
    *,
    query_start_loc: Tensor | None = None,
    max_query_len: int = 1,
    has_spans: bool = False,
    lse: Tensor | None = None,
    num_splits: int = 1,
) -> None:
    """Fills ``out`` [T, Hq, num_splits, D], and ``lse`` [T, Hq, num_splits] fp32 where it is wanted.

    ``ends``: the keys of each row [B], of which its last query's own is the last; with ``has_spans`` those of each query [T]. Without
    ``query_start_loc`` each row has one query."""
    num_heads, head_dim = q.shape[1:]
    widest = 1 << head_dim.bit_length() - 1
    first, last = (head_dim - widest, widest) if head_dim > widest else (widest // 2, widest // 2)
    assert isinstance(kv_scales, KVScales), "of separate pages alone"
    scales = loaded_scales(pages, kv_scales)
    shared_pages_kernel[(max_query_len, num_head_blocks(q) * num_splits, block_tables.shape[0])](
        q,
        as_loaded(pages),
        block_tables,
        ends,
        ends if query_start_loc is None else query_start_loc,
        out,
        out if lse is None else lse,
        scale * scales.k,
        scales.v,
        *q.stride()[:2],
        *pages.stride()[:2],
        block_tables.stride(0),
        *out.stride()[:3],
        num_heads,
        num_splits,
        FIRST=first,
        LAST=last,
        BLOCK_SIZE=pages.shape[1],
        HAS_STARTS=query_start_loc is not None,
        HAS_SPANS=has_spans,
        HAS_LSE=lse is not None,
        BLOCK_M=head_block(num_heads),
        BLOCK_N=BLOCK_N,
        FIRST_BLOCK=max(16, triton.next_power_of_2(first)),
        UPCAST=is_interpreting(),
        num_warps=head_block(num_heads) // 4,
        num_stages=2 if q.dtype != torch.float32 else 1,
    )
