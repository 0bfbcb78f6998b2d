"""Decode attention in Triton: the query heads of a key-value head in one tile, keys split over programs, then a merge.

With few rows a program a row and key-value head leaves most of the GPU idle, so each row's keys are cut into ``num_splits`` equal
parts; each part leaves its normalised output and log-sum-exp, and a second kernel weighs them. (Flash-Decoding, Dao et al. 2023)
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.gpu.device import chip, num_multiprocessors
from headway.kernels.gpu.fp8_cache import as_loaded, loaded_scales, operand
from headway.kernels.gpu.int8_cache import has_token_scales, load_scales, scale_arguments, scale_values
from headway.kernels.gpu.shared_pages import BLOCK_N as SHARED_BLOCK_N
from headway.kernels.gpu.shared_pages import MAX_SPLITS as MOST_SHARED_SPLITS
from headway.kernels.gpu.shared_pages import WIDEST_TILE, has_shared_pages, launch_shared_pages, num_head_blocks
from headway.kernels.gpu.softmax import accumulate, begin_softmax, exponent_factor, normalised, scores_of
from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.tuned import DecodeTiles, tuned_decode

MIN_SPLIT_TOKENS = 64  # one row of 2048 tokens, 32 and 8 heads of 128, bf16, H200: 9.3 us; with 256 13.1 (2026-11)
MERGED = (8, 32, 64)  # parts that a merge is compiled for
MAX_SPLITS = MERGED[-1]


# What differs from step to step is no reason to compile anew: that would hold up all requests for up to a second.
@triton.jit(do_not_specialize=["num_splits", "tables_stride"], do_not_specialize_on_alignment=["tables_ptr", "seq_lens_ptr", "begins_ptr"])
def decode_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    k_scales_ptr,
    v_scales_ptr,
    tables_ptr,
    seq_lens_ptr,
    begins_ptr,
    sinks_ptr,
    out_ptr,
    lse_ptr,
    scale,
    v_scale,
    softcap,
    q_stride_row,
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
    out_stride_row,
    out_stride_head,
    out_stride_split,
    head_dim,
    sliding_window,
    num_splits,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_BEGINS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_TOKEN_SCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    seq_len = tl.load(seq_lens_ptr + row)
    if HAS_BEGINS:  # noqa: SIM108
        first = tl.load(begins_ptr + row)
    else:
        first = tl.where(sliding_window > 0, tl.maximum(seq_len - sliding_window, 0), 0)
    part = tl.cdiv(tl.cdiv(seq_len - first, num_splits), BLOCK_N) * BLOCK_N
    begin = first + split * part
    end = tl.minimum(begin + part, seq_len)

    member, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + member
    in_group, in_dim = member < GROUP, dim < head_dim
    q_mask = in_group[:, None] & in_dim[None, :]
    q = tl.load(q_ptr + row * q_stride_row + head[:, None] * q_stride_head + dim[None, :], mask=q_mask, other=0.0)
    dtype = q.dtype
    q = operand(q, dtype, UPCAST)
    peak, total = begin_softmax(sinks_ptr, head, in_group, split == 0, HAS_SINKS, BLOCK_M)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    factor = exponent_factor(scale, HAS_SOFTCAP)
    for start in range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        exists = key < end
        block = tl.load(tables_ptr + row * tables_stride + key // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        offset = key % BLOCK_SIZE
        kv_mask = exists[:, None] & in_dim[None, :]
        k_rows = k_cache_ptr + block * k_stride_block + offset * k_stride_token + kv_head * k_stride_head
        v_rows = v_cache_ptr + block * v_stride_block + offset * v_stride_token + kv_head * v_stride_head
        k = operand(tl.load(k_rows[:, None] + dim[None, :], mask=kv_mask, other=0.0), dtype, UPCAST)
        k_scales, v_scales = scale, scale
        if HAS_TOKEN_SCALES:
            k_scales = load_scales(k_scales_ptr + kv_head, block, offset, scales_stride_block, scales_stride_token, exists, True)
            v_scales = load_scales(v_scales_ptr + kv_head, block, offset, scales_stride_block, scales_stride_token, exists, True)
        scores = scores_of(q, k, k_scales, scale, softcap, HAS_TOKEN_SCALES, HAS_SOFTCAP)
        scores = tl.where(exists[None, :], scores, float("-inf"))
        v = tl.load(v_rows[:, None] + dim[None, :], mask=kv_mask, other=0.0)
        v = scale_values(v, v_scales, dtype, UPCAST) if HAS_TOKEN_SCALES else operand(v, dtype, UPCAST)
        peak, total, acc = accumulate(scores, v, peak, total, acc, factor)

    value = normalised(acc, total, v_scale)  # a split without keys leaves zeros and -inf
    out_rows = out_ptr + row * out_stride_row + head[:, None] * out_stride_head + split.to(tl.int64) * out_stride_split
    tl.store(out_rows + dim[None, :], value.to(out_ptr.dtype.element_ty), mask=q_mask)
    if HAS_LSE:
        lse = tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
        num_heads = tl.num_programs(1) * GROUP
        tl.store(lse_ptr + (row * num_heads + head) * num_splits + split, lse, mask=in_group)


@triton.jit(do_not_specialize=["lse_stride_item", "lse_stride_split", "num_splits"])
def merge_kernel(
    parts_ptr,
    lse_ptr,
    out_ptr,
    total_ptr,
    parts_stride_item,
    parts_stride_split,
    lse_stride_item,
    lse_stride_split,
    num_splits,
    head_dim,
    HAS_TOTAL: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    item = tl.program_id(0).to(tl.int64)  # row * num_heads + head
    split, dim = tl.arange(0, BLOCK_S).to(tl.int64), tl.arange(0, BLOCK_D)
    exists = split < num_splits
    lse = tl.load(lse_ptr + item * lse_stride_item + split * lse_stride_split, mask=exists, other=float("-inf"))
    peak = tl.max(lse, axis=0)
    weight = tl.exp2(lse - tl.where(peak == float("-inf"), 0.0, peak))
    total = tl.sum(weight, axis=0)
    rows = parts_ptr + item * parts_stride_item + split[:, None] * parts_stride_split
    parts = tl.load(rows + dim[None, :], mask=exists[:, None] & (dim < head_dim)[None, :], other=0.0).to(tl.float32)
    value = tl.sum(parts * weight[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + item * head_dim + dim, value.to(out_ptr.dtype.element_ty), mask=dim < head_dim)
    if HAS_TOTAL:
        tl.store(total_ptr + item, tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf")))


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
    """See headway.kernels.paged_attention.paged_attention. The grid depends on shapes and max_seq_len only (CUDA graphs)."""
    del plan  # the kernel reads tables and lengths itself
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch_decode(
        *(q, k_cache, v_cache, block_tables, seq_lens, out, scale),
        max_seq_len=max_seq_len,
        sliding_window=sliding_window,
        softcap=softcap,
        sinks=sinks,
        kv_scales=kv_scales,
    )
    return out


def launch_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    out: Tensor,
    scale: float,
    *,
    max_seq_len: int,
    sliding_window: int = 0,
    softcap: float,
    sinks: Tensor | None = None,
    kv_scales: PageScales,
    begins: Tensor | None = None,
    lse: Tensor | None = None,
) -> None:
    """Fills ``out``, and ``lse`` [B, Hq] fp32 where it is wanted. ``begins`` [B]: the first key of each row, in the place of a window."""
    num_rows, num_heads, head_dim = q.shape
    block_size, num_kv_heads = k_cache.shape[1:3]
    if num_rows == 0:
        return
    if has_shared_pages(k_cache, v_cache):
        assert not any((softcap, sliding_window, begins is not None, sinks is not None)), "of separate pages alone"
        _launch_shared(q, k_cache, block_tables, seq_lens, out, scale, max_seq_len, kv_scales, lse)
        return
    longest = min(max_seq_len, sliding_window) if sliding_window > 0 else max_seq_len
    block_d, group = max(16, triton.next_power_of_2(head_dim)), num_heads // num_kv_heads
    tiles = tuned_decode(chip(q.device), (group, head_dim, k_cache.itemsize), num_rows * num_kv_heads)
    tiles = tiles or DecodeTiles(block_n(block_d, q.dtype), MIN_SPLIT_TOKENS)
    num_splits = choose_num_splits(num_rows * num_kv_heads, longest, num_multiprocessors(q.device), tiles)
    parts, parts_lse = out.unsqueeze(2), out if lse is None else lse
    if num_splits > 1:
        parts = torch.empty((num_rows, num_heads, num_splits, head_dim), dtype=torch.float32, device=q.device)
        parts_lse = torch.empty((num_rows, num_heads, num_splits), dtype=torch.float32, device=q.device)
    scales = loaded_scales(k_cache, kv_scales)
    k_scales, v_scales, *scale_strides = scale_arguments(kv_scales, out)
    decode_kernel[(num_rows, num_kv_heads, num_splits)](
        q,
        as_loaded(k_cache),
        as_loaded(v_cache),
        k_scales,
        v_scales,
        block_tables,
        seq_lens,
        seq_lens if begins is None else begins,
        out if sinks is None else sinks,
        parts,
        parts_lse,
        scale * scales.k,
        scales.v,
        softcap,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *scale_strides,
        block_tables.stride(0),
        *parts.stride()[:3],
        head_dim,
        sliding_window,
        num_splits,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HAS_BEGINS=begins is not None,
        HAS_LSE=num_splits > 1 or lse is not None,
        HAS_SINKS=sinks is not None,
        HAS_SOFTCAP=softcap > 0,
        HAS_TOKEN_SCALES=has_token_scales(k_cache),
        BLOCK_M=max(16, triton.next_power_of_2(group)),
        BLOCK_N=tiles.block_n,
        BLOCK_D=block_d,
        UPCAST=is_interpreting(),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(q.device),
    )
    if num_splits > 1:
        launch_merge(parts.flatten(0, 1).transpose(0, 1), parts_lse.flatten(0, 1).T, out, lse)


def _launch_shared(
    q: Tensor,
    pages: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    out: Tensor,
    scale: float,
    longest: int,
    kv_scales: PageScales,
    lse: Tensor | None,
) -> None:
    """As ``launch_decode``, where pages are keys and values at once."""
    tiles = DecodeTiles(SHARED_BLOCK_N, MIN_SPLIT_TOKENS)
    wanted = choose_num_splits(q.shape[0] * num_head_blocks(q), longest, num_multiprocessors(q.device), tiles)
    num_splits = min(wanted, MOST_SHARED_SPLITS)
    if num_splits == 1:
        launch_shared_pages(q, pages, block_tables, seq_lens, out.unsqueeze(2), scale, kv_scales, lse=lse)
        return
    parts = torch.empty((*q.shape[:2], num_splits, q.shape[2]), dtype=torch.float32, device=q.device)
    parts_lse = torch.empty(parts.shape[:3], dtype=torch.float32, device=q.device)
    launch_shared_pages(q, pages, block_tables, seq_lens, parts, scale, kv_scales, lse=parts_lse, num_splits=num_splits)
    launch_merge(parts.flatten(0, 1).transpose(0, 1), parts_lse.flatten(0, 1).T, out, lse)


def launch_merge(parts: Tensor, lse: Tensor, out: Tensor, total: Tensor | None = None) -> None:
    """Fills ``out`` [N, D] with the weighted sum of parts [S, N, D] by lse [S, N], and ``total`` [N] with the lse of all."""
    num_splits, num_items, head_dim = parts.shape
    merge_kernel[(num_items,)](
        parts,
        lse,
        out,
        out if total is None else total,
        parts.stride(1),
        parts.stride(0),
        lse.stride(1),
        lse.stride(0),
        num_splits,
        head_dim,
        HAS_TOTAL=total is not None,
        BLOCK_S=next((size for size in MERGED if size >= num_splits), triton.next_power_of_2(num_splits)),
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        num_warps=4 if head_dim <= WIDEST_TILE else 8,
        **launch_options(parts.device),
    )


def choose_num_splits(num_tiles: int, longest: int, num_multiprocessors: int, tiles: DecodeTiles) -> int:
    """How many programs share a row's keys: nearest to ``tiles``' programs a multiprocessor, none with less than its tokens."""
    wanted = (tiles.programs_per_multiprocessor * num_multiprocessors + num_tiles // 2) // num_tiles
    return max(1, min(wanted, longest // tiles.min_split_tokens, MAX_SPLITS))


def block_n(block_d: int, dtype: torch.dtype) -> int:
    """Keys a tile: two stages of keys and values stay under the 99 KiB of shared memory of the smallest chips (sm_86, sm_89)."""
    return 64 if block_d * dtype.itemsize <= 256 else 32 if block_d * dtype.itemsize <= 512 else 16
