"""CPU attention against the reference, with and without a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import DECODE_CASES, PREFILL_CASES, AttentionCase, assert_near, make_attention, run_decode, run_prefill

from headway.kernels import paged_attention as public_decode
from headway.kernels import prefill_attention as public_prefill
from headway.kernels.cpu import paged_attention as cpu_decode
from headway.kernels.cpu import prefill_attention as cpu_prefill
from headway.kernels.plans import DecodePlan, PrefillPlan
from headway.kernels.reference import paged_attention as reference_decode
from headway.kernels.reference import prefill_attention as reference_prefill

pytestmark = pytest.mark.usefixtures("cpu_path")

LONG_PREFILL = [
    AttentionCase((300, 700), (300, 520), num_heads=2, head_dim=16, block_size=32),
    AttentionCase((600,), (513,), num_heads=2, head_dim=16, sliding_window=100),
    AttentionCase((600,), (300,), num_heads=2, head_dim=16, sliding_window=300, dtype=torch.bfloat16),
    AttentionCase((300, 70, 450), (70, 70, 130), num_heads=9, num_kv_heads=3, block_size=32, dtype=torch.bfloat16),
    AttentionCase((200, 90), (70, 65), num_heads=4, num_kv_heads=2, head_dim=80, sliding_window=70, softcap=5.0),
    AttentionCase((140,), (129,), num_heads=14, num_kv_heads=2, head_dim=128, block_size=32, dtype=torch.bfloat16),
    AttentionCase((130, 64), (3, 64), num_heads=64, num_kv_heads=1, head_dim=33, block_size=5, dtype=torch.bfloat16),
    AttentionCase((210,), (100,), num_heads=2, num_kv_heads=2, head_dim=33, block_size=7, softcap=3.0, dtype=torch.bfloat16),
    AttentionCase((66, 300), (66, 8), num_heads=5, head_dim=256, sliding_window=1),
]


# Of more keys than are gone through in one part.
LONG_DECODE = [
    AttentionCase((1, 127, 128, 129, 700), num_heads=9, num_kv_heads=3, block_size=32),
    AttentionCase((130, 513), num_heads=8, num_kv_heads=1, head_dim=80, dtype=torch.bfloat16),
    AttentionCase((700, 300), num_heads=2, num_kv_heads=2, sliding_window=257, softcap=2.0, block_size=32),
    AttentionCase((385, 20), num_heads=6, num_kv_heads=2, head_dim=33, has_int8_pages=True),
    AttentionCase((300, 256), num_heads=4, num_kv_heads=2, head_dim=128, has_bf16_pages=True),
]
DECODE_OF_BF16_PAGES = [
    AttentionCase((1, 17, 48, 100), num_heads=9, num_kv_heads=3, has_bf16_pages=True),
    AttentionCase((70, 15), num_heads=8, num_kv_heads=1, head_dim=80, sliding_window=30, has_bf16_pages=True),
    AttentionCase((16, 64), num_heads=4, num_kv_heads=2, head_dim=128, softcap=2.0, has_bf16_pages=True),
    AttentionCase((33, 20), num_heads=6, num_kv_heads=2, has_bf16_pages=True, has_sinks=True),
    AttentionCase((), has_bf16_pages=True),
]
PREFILL_OF_BF16_PAGES = [
    AttentionCase((300, 70, 450), (70, 70, 130), num_heads=9, num_kv_heads=3, block_size=32, has_bf16_pages=True),
    AttentionCase((200, 90), (70, 65), num_heads=4, num_kv_heads=2, head_dim=33, sliding_window=70, softcap=5.0, has_bf16_pages=True),
    AttentionCase((140,), (129,), num_heads=14, num_kv_heads=2, head_dim=128, has_bf16_pages=True),
    AttentionCase((), (), has_bf16_pages=True),
]


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", DECODE_CASES + DECODE_OF_BF16_PAGES + LONG_DECODE, ids=str)
def test_decode(case: AttentionCase, strided: bool) -> None:
    inputs = make_attention(case, strided=strided)
    assert_near(run_decode(cpu_decode, case, inputs), run_decode(reference_decode, case, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decode_in_any_batch_has_the_same_bits(dtype: torch.dtype, cpu_path: str) -> None:
    """Whether a thread takes all heads of some keys, as where there are many, or one head at a time."""
    if cpu_path == "torch":
        pytest.skip("torch's flash kernel sums in another order for each shape")
    num_rows = 4 * torch.get_num_threads()
    case = AttentionCase(tuple(range(1, 1 + 9 * num_rows, 9)), num_heads=9, num_kv_heads=3, head_dim=64, dtype=dtype)
    inputs = make_attention(case)
    result = run_decode(cpu_decode, case, inputs)
    assert_near(result, run_decode(reference_decode, case, inputs))
    for row in range(num_rows):
        rows = slice(row, row + 1)
        alone = replace(inputs, q=inputs.q[rows], block_tables=inputs.block_tables[rows], seq_lens=inputs.seq_lens[rows])
        assert run_decode(cpu_decode, replace(case, seq_lens=case.seq_lens[rows]), alone).equal(result[rows])


@pytest.mark.parametrize(
    "options", [{}, {"has_bf16_pages": True}, {"has_int8_pages": True}, {"dtype": torch.bfloat16}, {"head_dim": 33}], ids=str
)
def test_rows_that_share_pages_have_the_same_bits_alone(options: dict[str, Any], cpu_path: str) -> None:
    """Eleven, of which one ends with the pages that all share and one goes far beyond them."""
    if cpu_path == "torch":
        pytest.skip("torch's flash kernel sums in another order for each shape")
    seq_lens = (300, 310, 288, 345, 301, 302, 303, 600, 290, 299, 320)
    case = replace(AttentionCase(seq_lens, num_heads=9, num_kv_heads=3, block_size=32), **options)
    inputs = make_attention(case, shared_pages=9)
    result = run_decode(cpu_decode, case, inputs)
    assert_near(result, run_decode(reference_decode, case, inputs))
    for row in range(len(seq_lens)):
        rows = slice(row, row + 1)
        alone = replace(inputs, q=inputs.q[rows], block_tables=inputs.block_tables[rows], seq_lens=inputs.seq_lens[rows])
        assert run_decode(cpu_decode, replace(case, seq_lens=seq_lens[rows]), alone).equal(result[rows]), row


def test_a_part_whose_scores_are_too_low_for_a_float() -> None:
    case = AttentionCase((129,), num_heads=2, num_kv_heads=2, head_dim=16)
    inputs = make_attention(case)
    inputs.q.fill_(1e20)
    inputs.k_cache[inputs.block_tables[0, 8], 0] = -1e20
    result = run_decode(cpu_decode, case, inputs)
    assert result.isfinite().all()
    assert_near(result, run_decode(reference_decode, case, inputs))


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", PREFILL_CASES + LONG_PREFILL, ids=str)
def test_prefill(case: AttentionCase, strided: bool) -> None:
    inputs = make_attention(case, strided=strided)
    found, wanted = run_prefill(cpu_prefill, case, inputs), run_prefill(reference_prefill, case, inputs)
    compared = torch.bfloat16 if case.has_int8_pages else case.dtype  # a chip that multiplies bf16 rounds queries beside such pages to it
    assert_near(found.to(compared), wanted.to(compared))


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", PREFILL_OF_BF16_PAGES, ids=str)
def test_prefill_of_bf16_pages(case: AttentionCase, strided: bool) -> None:
    """A chip that multiplies bf16 rounds the queries and the probabilities too."""
    inputs = make_attention(case, strided=strided)
    wanted = run_prefill(reference_prefill, case, inputs)
    found = run_prefill(cpu_prefill, case, inputs)
    assert found.dtype == torch.float32
    assert_near(found.bfloat16(), wanted.bfloat16())


@pytest.mark.parametrize(
    "options", [{}, {"dtype": torch.bfloat16}, {"has_bf16_pages": True}, {"sliding_window": 40}, {"softcap": 2.0}], ids=str
)
def test_prefill_of_any_length_has_the_same_bits(options: dict[str, Any], cpu_path: str) -> None:
    """A query's result depends on its row's keys alone: not on the chunk, the tile or the batch that it is in."""
    if cpu_path == "torch":
        pytest.skip("torch's flash kernel sums in another order for each shape")
    whole = AttentionCase((150,), (150,), num_heads=9, num_kv_heads=3, block_size=32, **options)
    inputs = make_attention(whole)
    expected = run_prefill(reference_prefill, whole, inputs)
    result = run_prefill(cpu_prefill, whole, inputs)
    compared = torch.bfloat16 if whole.has_bf16_pages else whole.dtype
    assert_near(result.to(compared), expected.to(compared))
    for query_len in [*range(1, 71), 149]:
        start = max(0, 150 - query_len - query_len % 7)
        end = start + query_len
        case = replace(whole, seq_lens=(end, end), query_lens=(query_len, query_len))
        chunk = replace(
            inputs,
            q=inputs.q[start:end].repeat(2, 1, 1),
            block_tables=inputs.block_tables.repeat(2, 1),
            seq_lens=torch.tensor(case.seq_lens, dtype=torch.int32),
            query_start_loc=torch.tensor((0, query_len, 2 * query_len), dtype=torch.int32),
        )
        assert run_prefill(cpu_prefill, case, chunk).equal(result[start:end].repeat(2, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prefill_reads_no_slot_past_the_sequence(dtype: torch.dtype) -> None:
    case = AttentionCase((37,), (21,), block_size=16, dtype=dtype)
    inputs = make_attention(case)
    expected = run_prefill(reference_prefill, case, inputs)
    for cache in (inputs.k_cache, inputs.v_cache):
        cache[inputs.block_tables[0, 2].item(), 5:] = float("nan")
    assert_near(run_prefill(cpu_prefill, case, inputs), expected)


@pytest.mark.parametrize("sliding_window", [0, 40])
def test_decode_plan_groups_rows_of_very_different_length(sliding_window: int, cpu_path: str) -> None:
    if cpu_path == "compiled":
        pytest.skip("the compiled kernel needs no plan")
    case = AttentionCase((900, 5, 20, 880, 300, 64), sliding_window=sliding_window, head_dim=16)
    inputs = make_attention(case)
    plan = public_decode.prepare_decode(
        inputs.block_tables,
        inputs.seq_lens,
        block_size=case.block_size,
        dtype=case.dtype,
        sliding_window=sliding_window,
        seq_lens_host=case.seq_lens,
    )
    assert isinstance(plan, DecodePlan)
    pages = sum(len(group.blocks) for group in plan.groups)
    needed = sum(-(-min(n, sliding_window + case.block_size if sliding_window else n) // case.block_size) for n in case.seq_lens)
    assert pages <= needed + len(plan.groups) * cpu_decode.MAX_WASTED_PAGES
    assert_near(run_decode(public_decode, case, inputs, plan=plan), run_decode(reference_decode, case, inputs))


def test_plan_serves_every_layer(cpu_path: str) -> None:
    case = AttentionCase((50, 20, 9), (13, 1, 9))
    plan = None
    for seed in range(2):
        inputs = make_attention(case)
        generator = torch.Generator().manual_seed(seed)
        inputs.k_cache.copy_(torch.randn(inputs.k_cache.shape, generator=generator))
        plan = plan or public_prefill.prepare_prefill(
            inputs.block_tables, inputs.seq_lens, inputs.query_start_loc, block_size=case.block_size, dtype=case.dtype
        )
        assert (plan is None) if cpu_path == "compiled" else isinstance(plan, PrefillPlan)
        assert_near(run_prefill(public_prefill, case, inputs, plan=plan), run_prefill(reference_prefill, case, inputs))


def test_rows_share_a_prefix() -> None:
    case = AttentionCase((70, 50, 33), block_size=16)
    inputs = make_attention(case, shared_pages=2)
    assert_near(run_decode(cpu_decode, case, inputs), run_decode(reference_decode, case, inputs))
    case = replace(case, query_lens=(30, 17, 1))
    inputs = make_attention(case, shared_pages=2)
    assert_near(run_prefill(cpu_prefill, case, inputs), run_prefill(reference_prefill, case, inputs))
