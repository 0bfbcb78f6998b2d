"""Inputs for the kernels' tests, and the comparisons that run on the CPU, under Triton's interpreter and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from headway.kernels.kv_cache import FP8, INT8, UNSCALED, KVScales, PageScales, TokenScales, int8_blocks, split_int8_blocks
from headway.kernels.reference.prefill_attention import gather_row
from headway.kernels.reference.rope import round_int8

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# Largest absolute error of values of order 1. bf16 has 8 bits of mantissa, fp16 has 11.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_near(actual: Tensor, expected: Tensor, *, scale: float = 1.0) -> None:
    """Equal shape and dtype, and values within the dtype's tolerance, absolute and relative."""
    tolerance = TOLERANCE[expected.dtype] * scale
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def odd_strides(x: Tensor) -> Tensor:
    """The same values, as a slice of a larger tensor: outer strides are not those of a contiguous one."""
    fill = float("nan") if x.is_floating_point() else 77
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 24), fill, dtype=x.dtype, device=x.device)
    view = wide[..., 8 : 8 + x.shape[-1]]
    view.copy_(x)
    return view


@dataclass(frozen=True)
class AttentionCase:
    """Sequence lengths and query lengths of a step's rows, heads, pages and options. ``str`` is the test's id."""

    seq_lens: tuple[int, ...]
    query_lens: tuple[int, ...] = ()  # empty: decode
    num_heads: int = 3
    num_kv_heads: int = 1
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    sliding_window: int = 0
    softcap: float = 0.0
    fp8: KVScales | None = None  # of pages in fp8; None: they are in dtype
    has_bf16_pages: bool = False  # beside fp32, on CPUs
    has_int8_pages: bool = False
    has_sinks: bool = False

    def __str__(self) -> str:
        heads = f"{self.num_heads}/{self.num_kv_heads}x{self.head_dim}"
        rows = ",".join(map(str, self.seq_lens)) + (":" + ",".join(map(str, self.query_lens)) if self.query_lens else "")
        pages = " fp8" if self.fp8 else " bf16 pages" if self.has_bf16_pages else " int8" if self.has_int8_pages else ""
        options = f"{pages}{' sinks' if self.has_sinks else ''}"
        return f"{rows} {heads} b{self.block_size} w{self.sliding_window} c{self.softcap:g} {str(self.dtype)[6:]}{options}"


@dataclass
class AttentionInputs:
    """Tensors of a case."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor
    keys: list[Tensor]  # per row [L, Hkv, D] fp32, what the pages hold
    values: list[Tensor]
    sinks: Tensor | None
    scales: PageScales


def make_attention(case: AttentionCase, device: str = "cpu", *, strided: bool = False, shared_pages: int = 0) -> AttentionInputs:
    """Random inputs, pages in random order. The first ``shared_pages`` pages of all rows are the same (a shared prefix)."""
    generator = torch.Generator().manual_seed(sum(case.seq_lens) + case.head_dim)
    num_rows = len(case.seq_lens)
    widths = [-(-n // case.block_size) for n in case.seq_lens]
    num_blocks = sum(widths) + 3
    order = torch.randperm(num_blocks - 1, generator=generator) + 1  # page 0, the padding, belongs to no row
    tables = torch.zeros(num_rows, max(widths, default=0) + 1, dtype=torch.int32)
    shape = (num_blocks, case.block_size, case.num_kv_heads, case.head_dim)
    (k_cache, v_cache), scales = _empty_pages(case, shape)
    taken = 0
    for row, width in enumerate(widths):
        tables[row, :width] = order[taken : taken + width]
        taken += width
        if row and shared_pages:
            tables[row, :shared_pages] = tables[0, :shared_pages]
    for cache, page_scale in ((k_cache, scales.k), (v_cache, scales.v)):
        used = tables.flatten().unique().long()
        numbers = torch.randn(len(used), *shape[1:], generator=generator)
        if isinstance(page_scale, Tensor):
            cache[used], page_scale[used] = round_int8(numbers)
        else:
            cache[used] = (numbers / page_scale).to(cache.dtype)
    num_tokens = sum(case.query_lens) if case.query_lens else num_rows
    q = torch.randn(num_tokens, case.num_heads, case.head_dim, generator=generator).to(case.dtype)
    starts = torch.tensor([0, *case.query_lens], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    rows = [(tables[row].long(), n) for row, n in enumerate(case.seq_lens)]
    keys = [gather_row(k_cache, table, n, scales.k) for table, n in rows]
    values = [gather_row(v_cache, table, n, scales.v) for table, n in rows]
    sinks = torch.randn(case.num_heads, generator=generator).to(case.dtype).to(device) if case.has_sinks else None
    if strided or device != "cpu":
        q, k_cache, v_cache = q.to(device), k_cache.to(device), v_cache.to(device)
        scales = TokenScales(scales.k.to(device), scales.v.to(device)) if isinstance(scales, TokenScales) else scales
    if strided:
        q, k_cache, v_cache = odd_strides(q), odd_strides(k_cache), odd_strides(v_cache)
    lens = torch.tensor(case.seq_lens, dtype=torch.int32)
    return AttentionInputs(q, k_cache, v_cache, tables.to(device), lens.to(device), starts.to(device), keys, values, sinks, scales)


def _empty_pages(case: AttentionCase, shape: tuple[int, int, int, int]) -> tuple[list[Tensor], PageScales]:
    """Keys and values of zeros, and their scales; in int8 these are of zeros too, to be filled."""
    if case.has_int8_pages:
        parts = [split_int8_blocks(torch.zeros(int8_blocks(*shape), dtype=INT8), *shape[1:]) for _ in range(2)]
        return [numbers for numbers, _ in parts], TokenScales(*(scales for _, scales in parts))
    dtype = FP8 if case.fp8 else BF16 if case.has_bf16_pages else case.dtype
    return [torch.zeros(shape, dtype=dtype) for _ in range(2)], case.fp8 or UNSCALED


def run_decode(module: ModuleType, case: AttentionCase, inputs: AttentionInputs, *, plan: object = None) -> Tensor:
    out: Tensor = module.paged_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_tables,
        inputs.seq_lens,
        case.head_dim**-0.5,
        max_seq_len=max(case.seq_lens, default=0),
        sliding_window=case.sliding_window,
        softcap=case.softcap,
        sinks=inputs.sinks,
        kv_scales=inputs.scales,
        plan=plan,
    )
    return out


def run_prefill(module: ModuleType, case: AttentionCase, inputs: AttentionInputs, *, plan: object = None) -> Tensor:
    out: Tensor = module.prefill_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_tables,
        inputs.seq_lens,
        inputs.query_start_loc,
        case.head_dim**-0.5,
        max_query_len=max(case.query_lens, default=0),
        max_seq_len=max(case.seq_lens, default=0),
        query_lens=case.query_lens,
        seq_lens_host=case.seq_lens,
        sliding_window=case.sliding_window,
        softcap=case.softcap,
        sinks=inputs.sinks,
        kv_scales=inputs.scales,
        plan=plan,
    )
    return out


DECODE_CASES = [
    AttentionCase((1, 17, 48, 100)),
    AttentionCase((33,), num_heads=8, num_kv_heads=8, block_size=32, dtype=F16),
    AttentionCase((40, 5), num_heads=9, num_kv_heads=3, block_size=32, dtype=BF16),
    AttentionCase((70, 15), num_heads=8, num_kv_heads=1, head_dim=80),
    AttentionCase((16, 64), num_heads=4, num_kv_heads=2, head_dim=128, dtype=BF16),
    AttentionCase((90, 20, 7), sliding_window=16),
    AttentionCase((90, 20), num_heads=2, num_kv_heads=2, sliding_window=33, softcap=2.0, block_size=32),
    AttentionCase((50, 3), softcap=1.5, dtype=F16),
    AttentionCase((40, 5), num_heads=8, num_kv_heads=2, dtype=BF16, fp8=KVScales(0.02, 0.5)),
    AttentionCase((70, 15), num_heads=3, head_dim=80, softcap=2.0, fp8=KVScales(1.5, 0.01)),
    AttentionCase((40, 5), num_heads=8, num_kv_heads=2, dtype=F16, sliding_window=9, fp8=UNSCALED, has_sinks=True),
    AttentionCase((40, 5), num_heads=8, num_kv_heads=2, dtype=BF16, has_int8_pages=True),
    AttentionCase((70, 15), num_heads=3, head_dim=80, softcap=2.0, has_int8_pages=True),
    AttentionCase((40, 5), num_heads=8, num_kv_heads=2, dtype=F16, sliding_window=9, has_int8_pages=True, has_sinks=True),
    AttentionCase((33, 100), num_heads=6, num_kv_heads=2, dtype=BF16, has_sinks=True),
    AttentionCase((90, 20), num_heads=2, num_kv_heads=2, sliding_window=16, softcap=2.0, has_sinks=True),
    AttentionCase(()),
]

PREFILL_CASES = [
    AttentionCase((7, 33), (7, 33)),
    AttentionCase((50, 20, 9), (13, 1, 9), num_heads=9, num_kv_heads=3, block_size=32),
    AttentionCase((40,), (24,), num_heads=8, num_kv_heads=8, dtype=F16),
    AttentionCase((45, 30), (20, 30), num_heads=8, num_kv_heads=1, head_dim=80, dtype=BF16),
    AttentionCase((35, 18), (35, 17), num_heads=2, num_kv_heads=1, head_dim=128, block_size=32),
    AttentionCase((60, 12), (25, 12), sliding_window=10),
    AttentionCase((60, 40), (60, 5), sliding_window=33, softcap=2.0, block_size=32),
    AttentionCase((30, 8), (30, 3), softcap=1.5, dtype=BF16),
    AttentionCase((30, 20), (0, 20)),
    AttentionCase((200, 70), (150, 70), num_heads=7, sliding_window=50, head_dim=16),
    AttentionCase((190,), (5,), num_heads=8, num_kv_heads=2, sliding_window=150),
    AttentionCase((45, 30), (20, 30), num_heads=8, num_kv_heads=2, dtype=BF16, fp8=KVScales(0.02, 0.5)),
    AttentionCase((100, 18), (35, 17), num_heads=2, head_dim=80, softcap=2.0, fp8=KVScales(1.5, 0.01)),
    AttentionCase((45, 30), (20, 30), num_heads=4, num_kv_heads=2, dtype=F16, sliding_window=9, fp8=UNSCALED, has_sinks=True),
    AttentionCase((45, 30), (20, 30), num_heads=8, num_kv_heads=2, dtype=BF16, has_int8_pages=True),
    AttentionCase((100, 18), (35, 17), num_heads=2, head_dim=80, softcap=2.0, has_int8_pages=True),
    AttentionCase((45, 30), (20, 30), num_heads=4, num_kv_heads=2, dtype=F16, sliding_window=9, has_int8_pages=True, has_sinks=True),
    AttentionCase((60, 33), (25, 33), num_heads=6, num_kv_heads=2, dtype=BF16, has_sinks=True),
    AttentionCase((60, 40), (60, 5), sliding_window=33, softcap=2.0, has_sinks=True),
    AttentionCase((70, 5), (6, 5), num_heads=71, dtype=BF16, block_size=256),  # more heads than a tile has lines
    AttentionCase((), ()),
]
