"""Decode and prefill attention over pages, and torch's own attention over the same keys as a yardstick."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from device_timing import Call
from kernel_case import Case, Shapes
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headway.kernels.kv_cache import FP8, INT8, UNSCALED, PageScales, TokenScales, int8_blocks, split_int8_blocks
from headway.kernels.paged_attention import paged_attention, prepare_decode
from headway.kernels.prefill_attention import prefill_attention, prepare_prefill

BLOCK_SIZE = 16


def attention_cases(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for cache_dtype in (shapes.dtype, FP8, INT8):
        for batch, context in shapes.decodes:
            yield _decode(shapes, batch, context, cache_dtype, device)
    for num_rows, num_new, num_before in shapes.prefills:
        yield _prefill(shapes, [(num_new, num_before)] * num_rows, device)
    (_, first, _), (_, second, _), *_, (_, last, before) = shapes.prefills
    yield _prefill(shapes, [(last, before), (first, 0)], device)  # a chunk of a long prompt beside a short one
    yield _prefill(shapes, [(second, 0)], device, sliding_window=shapes.sliding_window)
    for num_new in (first, second):
        yield _torch_prefill(shapes, num_new, device)


class Pages:
    """Random keys and values of rows of ``lengths`` tokens in pages that lie anywhere."""

    def __init__(self, shapes: Shapes, lengths: list[int], dtype: torch.dtype, device: torch.device) -> None:
        widths = [-(-length // BLOCK_SIZE) for length in lengths]
        pages = (sum(widths), BLOCK_SIZE, shapes.num_kv_heads, shapes.head_dim)
        self.scales: PageScales = UNSCALED
        if dtype == INT8:
            self._fill_int8(pages, device)
        else:
            self.k, self.v = (torch.empty(pages, device=device, dtype=shapes.dtype).normal_().to(dtype) for _ in range(2))
        order = torch.randperm(pages[0], dtype=torch.int32)
        tables = torch.zeros(len(lengths), max(widths), dtype=torch.int32)
        for row, (width, end) in enumerate(zip(widths, accumulate(widths), strict=True)):
            tables[row, :width] = order[end - width : end]
        self.tables = tables.to(device)
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=device)

    def _fill_int8(self, shape: tuple[int, int, int, int], device: torch.device) -> None:
        blocks = [torch.zeros(int8_blocks(*shape), device=device, dtype=INT8) for _ in range(2)]
        (self.k, k_scales), (self.v, v_scales) = (split_int8_blocks(own, *shape[1:]) for own in blocks)
        for numbers, scales in ((self.k, k_scales), (self.v, v_scales)):
            numbers.random_(-127, 128)
            scales.fill_(0.02)
        self.scales = TokenScales(k_scales, v_scales)


def _decode(shapes: Shapes, batch: int, context: int, cache_dtype: torch.dtype, device: torch.device) -> Case:
    scale = shapes.head_dim**-0.5
    q_size, kv_size = shapes.num_heads * shapes.head_dim, shapes.num_kv_heads * shapes.head_dim

    def make() -> Call:
        pages = Pages(shapes, [context] * batch, cache_dtype, device)
        q = torch.randn(batch, shapes.num_heads, shapes.head_dim, device=device, dtype=shapes.dtype)
        plan = prepare_decode(pages.tables, pages.lengths, block_size=BLOCK_SIZE, dtype=cache_dtype, seq_lens_host=[context] * batch)
        options = {"max_seq_len": context, "plan": plan, "kv_scales": pages.scales}
        return lambda: paged_attention(q, pages.k, pages.v, pages.tables, pages.lengths, scale, **options)

    token = kv_size * cache_dtype.itemsize + (4 * shapes.num_kv_heads if cache_dtype == INT8 else 0)
    moved = batch * 2 * (context * token + q_size * shapes.dtype.itemsize)
    flops = 4.0 * batch * context * q_size
    name = "paged_attention" + {FP8: ", fp8 pages", INT8: ", int8 pages"}.get(cache_dtype, "")
    return Case(name, f"batch {batch}, context {context}", moved, flops, make, shapes.arithmetic, is_cold=True)


def _prefill(shapes: Shapes, rows: list[tuple[int, int]], device: torch.device, *, sliding_window: int = 0) -> Case:
    """``rows`` of (new tokens, tokens before them)."""
    scale = shapes.head_dim**-0.5
    query_lens, lengths = [new for new, _ in rows], [new + before for new, before in rows]
    q_size, kv_size = shapes.num_heads * shapes.head_dim, shapes.num_kv_heads * shapes.head_dim

    def make() -> Call:
        pages = Pages(shapes, lengths, shapes.dtype, device)
        q = torch.randn(sum(query_lens), shapes.num_heads, shapes.head_dim, device=device, dtype=shapes.dtype)
        starts = torch.tensor([0, *accumulate(query_lens)], dtype=torch.int32, device=device)
        plan = prepare_prefill(
            pages.tables,
            pages.lengths,
            starts,
            block_size=BLOCK_SIZE,
            dtype=shapes.dtype,
            query_lens=query_lens,
            seq_lens_host=lengths,
            sliding_window=sliding_window,
        )
        return lambda: prefill_attention(
            q,
            pages.k,
            pages.v,
            pages.tables,
            pages.lengths,
            starts,
            scale,
            max_query_len=max(query_lens),
            max_seq_len=max(lengths),
            query_lens=query_lens,
            seq_lens_host=lengths,
            sliding_window=sliding_window,
            plan=plan,
        )

    seen = sum(_num_seen(new, before, sliding_window) for new, before in rows)
    moved = (2 * sum(query_lens) * q_size + 2 * sum(lengths) * kv_size) * shapes.dtype.itemsize
    return Case("prefill_attention", _shape(rows, sliding_window), moved, 4.0 * seen * q_size, make, shapes.arithmetic, is_cold=True)


def _torch_prefill(shapes: Shapes, num_tokens: int, device: torch.device) -> Case:
    q_size, kv_size = shapes.num_heads * shapes.head_dim, shapes.num_kv_heads * shapes.head_dim

    def make() -> Call:
        q, k, v = (_heads(shapes.num_heads, num_tokens, shapes, device) for _ in range(3))  # not all of its kernels share keys of heads
        return lambda: scaled_dot_product_attention(q, k, v, is_causal=True)

    moved = num_tokens * (2 * q_size + 2 * kv_size) * shapes.dtype.itemsize
    flops = 4.0 * _num_seen(num_tokens, 0, 0) * q_size
    return Case("torch attention, no pages", _shape([(num_tokens, 0)], 0), moved, flops, make, shapes.arithmetic, is_cold=True)


def _heads(count: int, num_tokens: int, shapes: Shapes, device: torch.device) -> Tensor:
    return torch.randn(1, count, num_tokens, shapes.head_dim, device=device, dtype=shapes.dtype)


def _num_seen(num_new: int, num_before: int, sliding_window: int) -> int:
    """Pairs of a query and a key that it sees."""
    if not sliding_window:
        return num_new * num_before + num_new * (num_new + 1) // 2
    return sum(min(position + 1, sliding_window) for position in range(num_before, num_before + num_new))


def _shape(rows: list[tuple[int, int]], sliding_window: int) -> str:
    kinds = [f"{rows.count(row)}x{row[0]}" + (f" after {row[1]}" if row[1] else "") for row in dict.fromkeys(rows)]
    return " + ".join(kinds) + (f", window {sliding_window}" if sliding_window else "")
