"""Attention over parts of the keys: a case's sequences dealt out to ranks, and what is found of them put together again."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import torch
from kernel_cases import BF16, F16, AttentionCase, AttentionInputs, assert_near, make_attention, odd_strides, run_decode, run_prefill
from torch import Tensor

from headway.kernels.kv_cache import KVScales, PageScales, TokenScales
from headway.kernels.partial_attention import KeySpans, QueryRows
from headway.kernels.reference import paged_attention as reference_decode
from headway.kernels.reference import partial_attention as reference
from headway.kernels.reference import prefill_attention as reference_prefill

Call = tuple[list[object], PageScales]

# (case, ranks, tokens side by side on one)
PARTIAL_CASES = [
    (AttentionCase((1, 17, 48, 100)), 2, 1),
    (AttentionCase((40, 3), num_heads=8, num_kv_heads=2, block_size=8, dtype=BF16), 3, 4),
    (AttentionCase((70, 15), num_heads=4, head_dim=80, softcap=2.0), 2, 1),
    (AttentionCase((90, 20, 7), sliding_window=16, dtype=F16), 2, 2),
    (AttentionCase((40, 5), num_heads=4, dtype=BF16, fp8=KVScales(0.02, 0.5)), 2, 1),
    (AttentionCase((40, 5), num_heads=4, dtype=BF16, has_int8_pages=True), 2, 1),
    (AttentionCase(()), 2, 1),
    (AttentionCase((7, 33), (7, 33)), 2, 1),
    (AttentionCase((50, 20, 9), (13, 2, 9), num_heads=9, num_kv_heads=3, block_size=32), 4, 8),
    (AttentionCase((60, 12), (25, 12), sliding_window=10), 2, 1),
    (AttentionCase((100, 40), (70, 5), num_heads=2, num_kv_heads=2, sliding_window=33, block_size=8, dtype=BF16), 2, 4),
    (AttentionCase((45, 30), (20, 30), num_heads=4, softcap=1.5, fp8=KVScales(0.02, 0.5)), 2, 1),
    (AttentionCase((45, 30), (20, 30), num_heads=4, num_kv_heads=2, sliding_window=10, has_int8_pages=True), 2, 1),
    (AttentionCase((), ()), 2, 1),
]


def kept(num_tokens: int, rank: int, num_ranks: int, interleave: int) -> list[int]:
    """The positions of a sequence that a rank keeps."""
    return [position for position in range(num_tokens) if position // interleave % num_ranks == rank]


def parts_of(case: AttentionCase, num_ranks: int, interleave: int, device: str, *, strided: bool) -> tuple[Tensor, list[Call]]:
    """(what attention over all keys gives, for each rank the arguments of partial_attention and its scales)."""
    inputs = make_attention(case, device, strided=strided)
    run, module = (run_prefill, reference_prefill) if case.query_lens else (run_decode, reference_decode)
    whole = run(module, case, inputs)
    query_lens = case.query_lens or (1,) * len(case.seq_lens)
    starts = torch.tensor([0, *query_lens]).cumsum(0).int().to(device)
    calls: list[Call] = []
    for rank in range(num_ranks):
        dealt = replace(case, seq_lens=tuple(len(kept(n, rank, num_ranks, interleave)) for n in case.seq_lens), query_lens=())
        own = make_attention(dealt, device, strided=strided)
        begins, ends = [], []
        for row, (seq_len, query_len) in enumerate(zip(case.seq_lens, query_lens, strict=True)):
            mine = kept(seq_len, rank, num_ranks, interleave)
            for at, position in enumerate(mine):
                for ours, theirs in zip(_tensors(own), _tensors(inputs), strict=True):
                    page, slot = own.block_tables[row, at // case.block_size], at % case.block_size
                    source = inputs.block_tables[row, position // case.block_size]
                    ours[page, slot] = theirs[source, position % case.block_size]
            for position in range(seq_len - query_len, seq_len):
                oldest = position - case.sliding_window + 1 if case.sliding_window else 0
                begins.append(sum(key < oldest for key in mine))
                ends.append(sum(key <= position for key in mine))
        spans = KeySpans(*(torch.tensor(bound, dtype=torch.int32, device=device) for bound in (begins, ends)))
        rows = QueryRows(own.block_tables, starts, query_lens)
        calls.append(([inputs.q, own.k_cache, own.v_cache, rows, spans, case.head_dim**-0.5], own.scales))
    return whole, calls


def _tensors(inputs: AttentionInputs) -> tuple[Tensor, ...]:
    """What is dealt out, slot by slot."""
    scales = inputs.scales
    return (inputs.k_cache, inputs.v_cache, *((scales.k, scales.v) if isinstance(scales, TokenScales) else ()))


def compare_partial(module: ModuleType, case: AttentionCase, num_ranks: int, interleave: int, device: str, *, strided: bool) -> None:
    """Each part is the reference's, and all of them together are attention over all keys."""
    whole, calls = parts_of(case, num_ranks, interleave, device, strided=strided)
    options = {"softcap": case.softcap, "has_begins": case.sliding_window > 0}
    parts, lses = [], []
    for call, scales in calls:
        (out, lse), (wanted, wanted_lse) = (each.partial_attention(*call, **options, kv_scales=scales) for each in (module, reference))
        assert_near(out, wanted)
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse, wanted_lse, atol=0.02 if case.dtype != torch.float32 or case.fp8 else 1e-4, rtol=0)
        parts.append(out)
        lses.append(lse)
    together = odd_strides(torch.stack(parts)) if strided else torch.stack(parts)
    assert_near(module.merge_parts(together, torch.stack(lses)), whole, scale=2.0)
