"""Prefill attention in Triton: one program a tile of queries, key-value head and row, over the row's cache pages.

The query heads of a key-value head are packed into a tile, so that few queries fill it too and keys are read once for all heads. Tiles
of keys that every query of the tile sees take no mask arithmetic; those that none sees are passed over. Pages are looked up a tile ahead.

Between two products of a tile stand the exponentials, so that what counts is the instructions of a tile's loop: for a thread 551 for 128
keys where addresses are made of what differs between tiles alone, 641 with a plain gather. What was measured is in prefill_tiles.
"""

# mypy: allow-incomplete-defs

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.device import has_warpgroups
from headway.kernels.gpu.fp8_cache import as_loaded, loaded_scales, operand
from headway.kernels.gpu.int8_cache import has_token_scales, load_scales, scale_arguments, scale_values
from headway.kernels.gpu.prefill_tiles import stride_unit, tile_of
from headway.kernels.gpu.shared_pages import has_shared_pages, launch_shared_pages
from headway.kernels.gpu.softmax import accumulate, begin_softmax, exponent_factor, normalised, scores_of
from headway.kernels.kv_cache import UNSCALED, PageScales


@triton.jit
def _pages(table, start, end, HAS_MASK: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The page of each of the keys start .. start + BLOCK_N, 0 from ``end`` on. ``start`` is a multiple of BLOCK_N; so is ``end`` without
    HAS_MASK."""
    line = tl.arange(0, BLOCK_N)
    within = line if HAS_MASK else tl.zeros([BLOCK_N], dtype=tl.int32)
    # Added up apart, a thread's entries are constants apart.
    entry = start // BLOCK_SIZE + line // BLOCK_SIZE if BLOCK_N % BLOCK_SIZE == 0 else (start + line) // BLOCK_SIZE
    return tl.load(table + entry, mask=start + within < end, other=0)


@triton.jit
def _load_rows(
    head,
    block,
    offset,
    stride_block,
    stride_token,
    exists,
    HAS_MASK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
):
    """[N, D] of a head's pages. What does not depend on the block is added first: it is the same for every tile. Strides of blocks are
    multiples of UNIT, and counted in it a place in the cache has 32 bits, but for 1: products of 64 bits are four instructions."""
    dim = tl.arange(0, BLOCK_D)
    page = block.to(tl.int64) * stride_block if UNIT == 1 else (block * (stride_block // UNIT)).to(tl.int64) * UNIT
    rows = head + (offset * stride_token)[:, None] + dim[None, :] + page[:, None]
    if HAS_MASK or HEAD_DIM != BLOCK_D:
        mask = (dim < HEAD_DIM)[None, :]
        if HAS_MASK:
            mask = exists[:, None] & mask
        loaded = tl.load(rows, mask=mask, other=0.0)
    else:
        loaded = tl.load(rows)
    return loaded


@triton.jit
def _attend_keys(
    q,
    peak,
    total,
    acc,
    begin,
    end,
    position,
    oldest,
    k_head,
    v_head,
    k_scales_head,
    v_scales_head,
    table,
    scale,
    softcap,
    k_stride_block,
    k_stride_token,
    v_stride_block,
    v_stride_token,
    scales_stride_block,
    scales_stride_token,
    HAS_MASK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_TOKEN_SCALES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DTYPE: tl.constexpr,
    UNIT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Adds the keys begin .. end, in tiles of BLOCK_N. Without HAS_MASK all of them are seen by all queries of the tile."""
    factor = exponent_factor(scale, HAS_SOFTCAP)
    line = tl.arange(0, BLOCK_N)
    next_block = _pages(table, begin, end, HAS_MASK, BLOCK_SIZE, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        # The pages of the tile after this one are looked up now: the loads of its keys would wait for them.
        block, key = next_block, start + line
        next_block = _pages(table, start + BLOCK_N, end, HAS_MASK, BLOCK_SIZE, BLOCK_N)
        offset = (line if BLOCK_N % BLOCK_SIZE == 0 else key) % BLOCK_SIZE
        k = _load_rows(k_head, block, offset, k_stride_block, k_stride_token, key < end, HAS_MASK, HEAD_DIM, BLOCK_D, UNIT)
        v = _load_rows(v_head, block, offset, v_stride_block, v_stride_token, key < end, HAS_MASK, HEAD_DIM, BLOCK_D, UNIT)
        k_scales, v_scales = scale, scale
        if HAS_TOKEN_SCALES:
            k_scales = load_scales(k_scales_head, block.to(tl.int64), offset, scales_stride_block, scales_stride_token, key < end, HAS_MASK)
            v_scales = load_scales(v_scales_head, block.to(tl.int64), offset, scales_stride_block, scales_stride_token, key < end, HAS_MASK)
        scores = scores_of(q, operand(k, DTYPE, UPCAST), k_scales, scale, softcap, HAS_TOKEN_SCALES, HAS_SOFTCAP)
        if HAS_MASK:
            visible = key[None, :] <= position[:, None]
            if HAS_WINDOW:
                visible = visible & (key[None, :] >= oldest[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        v = scale_values(v, v_scales, DTYPE, UPCAST) if HAS_TOKEN_SCALES else operand(v, DTYPE, UPCAST)
        peak, total, acc = accumulate(scores, v, peak, total, acc, factor)
    return peak, total, acc


# Steps begin with rows that decode: where the others' begin in these tensors is any multiple of 4 bytes.
@triton.jit(
    do_not_specialize=["tables_stride"],
    do_not_specialize_on_alignment=["tables_ptr", "seq_lens_ptr", "starts_ptr", "begins_ptr", "ends_ptr"],
)
def prefill_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    k_scales_ptr,
    v_scales_ptr,
    tables_ptr,
    seq_lens_ptr,
    starts_ptr,
    begins_ptr,
    ends_ptr,
    sinks_ptr,
    out_ptr,
    lse_ptr,
    scale,
    v_scale,
    softcap,
    q_stride_token,
    q_stride_head,
    k_stride_block,
    k_stride_token,
    k_stride_head,
    v_stride_block,
    v_stride_token,
    v_stride_head,
    scales_stride_block,
    scales_stride_token,
    tables_stride,
    out_stride_token,
    out_stride_head,
    sliding_window,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_SPANS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_TOKEN_SCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last see the most keys: they start first
    kv_head, row = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    query_start = tl.load(starts_ptr + row)
    query_len = tl.load(starts_ptr + row + 1) - query_start
    first_query = tile * (BLOCK_M // GROUP)  # lines that are left over idle
    if first_query >= query_len:
        return
    line, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    # Counted from the tile's first query and the group's first head: 64 bits a line, live throughout, would cost registers in the loop.
    query, member = line // GROUP, line % GROUP
    exists = (query < BLOCK_M // GROUP) & (first_query + query < query_len)
    mask = exists[:, None] & (dim < HEAD_DIM)[None, :]
    token = (query_start + first_query).to(tl.int64)
    q_tile = q_ptr + token * q_stride_token + kv_head * GROUP * q_stride_head
    q = tl.load(q_tile + (query * q_stride_token + member * q_stride_head)[:, None] + dim[None, :], mask=mask, other=0.0)

    # Keys before ``unmasked`` are out of some query's window; from ``masked`` on they are after some query.
    if HAS_SPANS:  # of each query, in the place of the sequence's length and a window
        last_query = token + tl.minimum(BLOCK_M // GROUP, query_len - first_query) - 1
        first, last = tl.load(ends_ptr + token) - 1, tl.load(ends_ptr + last_query) - 1
        position = tl.load(ends_ptr + token + query, mask=exists, other=0) - 1
        oldest = position
        if HAS_WINDOW:
            oldest = tl.load(begins_ptr + token + query, mask=exists, other=0)
            oldest_of_first, oldest_of_last = tl.load(begins_ptr + token), tl.load(begins_ptr + last_query)
    else:
        seq_len = tl.load(seq_lens_ptr + row)
        first = seq_len - query_len + first_query
        last = tl.minimum(first + BLOCK_M // GROUP, seq_len) - 1
        position = first + query
        oldest = position - sliding_window + 1
        if HAS_WINDOW:
            oldest_of_first, oldest_of_last = tl.maximum(first - sliding_window + 1, 0), tl.maximum(last - sliding_window + 1, 0)
    begin, unmasked = 0, 0
    masked = (first + 1) // BLOCK_N * BLOCK_N
    if HAS_WINDOW:
        begin = oldest_of_first // BLOCK_N * BLOCK_N
        unmasked = tl.minimum(tl.cdiv(oldest_of_last, BLOCK_N) * BLOCK_N, masked)
    peak, total = begin_softmax(sinks_ptr, kv_head * GROUP + member, exists, True, HAS_SINKS, BLOCK_M)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    k_head, v_head = k_cache_ptr + kv_head * k_stride_head, v_cache_ptr + kv_head * v_stride_head
    table = tables_ptr + row * tables_stride
    for part in tl.static_range(3 if HAS_WINDOW else 2):
        if part == 0:
            start, end = unmasked, masked
        elif part == 1:
            start, end = masked, last + 1
        else:
            start, end = begin, unmasked
        peak, total, acc = _attend_keys(
            operand(q, q.dtype, UPCAST),
            peak,
            total,
            acc,
            start,
            end,
            position,
            oldest,
            k_head,
            v_head,
            k_scales_ptr + kv_head,
            v_scales_ptr + kv_head,
            table,
            scale,
            softcap,
            k_stride_block,
            k_stride_token,
            v_stride_block,
            v_stride_token,
            scales_stride_block,
            scales_stride_token,
            part > 0,
            HAS_WINDOW,
            HAS_SOFTCAP,
            HAS_TOKEN_SCALES,
            HEAD_DIM,
            BLOCK_SIZE,
            BLOCK_N,
            BLOCK_D,
            q.dtype,
            UNIT,
            UPCAST,
        )

    value = normalised(acc, total, v_scale)
    out_tile = out_ptr + token * out_stride_token + kv_head * GROUP * out_stride_head
    out_rows = out_tile + (query * out_stride_token + member * out_stride_head)[:, None]
    tl.store(out_rows + dim[None, :], value.to(out_ptr.dtype.element_ty), mask=mask)
    if HAS_SPANS:
        lse = tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
        lse_rows = lse_ptr + (token + query) * (tl.num_programs(1) * GROUP) + kv_head * GROUP + member
        tl.store(lse_rows, lse, mask=exists)


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
    del max_seq_len, query_lens, seq_lens_host, plan  # the kernel reads tables and lengths itself
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch_prefill(
        *(q, k_cache, v_cache, block_tables, seq_lens, query_start_loc, out, scale),
        max_query_len=max_query_len,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
        kv_scales=kv_scales,
    )
    return out


def launch_prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    out: Tensor,
    scale: float,
    *,
    max_query_len: int,
    sliding_window: int = 0,
    softcap: float,
    sinks: Tensor | None = None,
    kv_scales: PageScales,
    begins: Tensor | None = None,
    lse: Tensor | None = None,
) -> None:
    """Fills ``out``; with ``lse`` [T, Hq] fp32 that too, and then ``seq_lens`` [T] is the end of each query's keys, and ``begins`` [T] the
    first of them where that is not 0."""
    num_heads, head_dim = q.shape[1:]
    block_size, num_kv_heads = k_cache.shape[1:3]
    if q.shape[0] == 0:
        return
    if has_shared_pages(k_cache, v_cache):
        assert not any((softcap, sliding_window, begins is not None, sinks is not None)), "of separate pages alone"
        launch_shared_pages(
            *(q, k_cache, block_tables, seq_lens, out.unsqueeze(2), scale, kv_scales),
            query_start_loc=query_start_loc,
            max_query_len=max_query_len,
            has_spans=lse is not None,
            lse=lse,
        )
        return
    block_d = max(16, triton.next_power_of_2(head_dim))
    group = num_heads // num_kv_heads
    has_window = sliding_window > 0 or begins is not None
    is_bare = not has_window and softcap == 0
    tile = tile_of(block_d, q.dtype, k_cache.dtype, has_warpgroups=has_warpgroups(q.device), is_bare=is_bare)
    block_m = max(tile.block_m, triton.next_power_of_2(group))
    scales = loaded_scales(k_cache, kv_scales)
    k_scales, v_scales, *scale_strides = scale_arguments(kv_scales, out)
    prefill_kernel[(triton.cdiv(max_query_len, block_m // group), num_kv_heads, block_tables.shape[0])](
        q,
        as_loaded(k_cache),
        as_loaded(v_cache),
        k_scales,
        v_scales,
        block_tables,
        seq_lens,
        query_start_loc,
        seq_lens if begins is None else begins,
        seq_lens,
        out if sinks is None else sinks,
        out,
        out if lse is None else lse,
        scale * scales.k,
        scales.v,
        softcap,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *scale_strides,
        block_tables.stride(0),
        *out.stride()[:2],
        sliding_window,
        HEAD_DIM=head_dim,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HAS_SPANS=lse is not None,
        HAS_WINDOW=has_window,
        HAS_SINKS=sinks is not None,
        HAS_SOFTCAP=softcap > 0,
        HAS_TOKEN_SCALES=has_token_scales(k_cache),
        BLOCK_M=block_m,
        BLOCK_N=tile.block_n,
        BLOCK_D=block_d,
        UNIT=stride_unit(k_cache, v_cache),
        UPCAST=is_interpreting(),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
