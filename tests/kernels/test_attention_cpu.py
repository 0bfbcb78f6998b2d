"""CPU attention against the reference, with and without a plan."""

from __future__ import annotations

from dataclasses import replace

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
]


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", DECODE_CASES, ids=str)
def test_decode(case: AttentionCase, strided: bool) -> None:
    inputs = make_attention(case, strided=strided)
    assert_near(run_decode(cpu_decode, case, inputs), run_decode(reference_decode, case, inputs))


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", PREFILL_CASES + LONG_PREFILL, ids=str)
def test_prefill(case: AttentionCase, strided: bool) -> None:
    inputs = make_attention(case, strided=strided)
    assert_near(run_prefill(cpu_prefill, case, inputs), run_prefill(reference_prefill, case, inputs))


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


def test_plan_serves_every_layer() -> None:
    case = AttentionCase((50, 20, 9), (13, 1, 9))
    plan = None
    for seed in range(2):
        inputs = make_attention(case)
        generator = torch.Generator().manual_seed(seed)
        inputs.k_cache.copy_(torch.randn(inputs.k_cache.shape, generator=generator))
        plan = plan or public_prefill.prepare_prefill(
            inputs.block_tables, inputs.seq_lens, inputs.query_start_loc, block_size=case.block_size, dtype=case.dtype
        )
        assert isinstance(plan, PrefillPlan)
        assert_near(run_prefill(public_prefill, case, inputs, plan=plan), run_prefill(reference_prefill, case, inputs))


def test_rows_share_a_prefix() -> None:
    case = AttentionCase((70, 50, 33), block_size=16)
    inputs = make_attention(case, shared_pages=2)
    assert_near(run_decode(cpu_decode, case, inputs), run_decode(reference_decode, case, inputs))
    case = replace(case, query_lens=(30, 17, 1))
    inputs = make_attention(case, shared_pages=2)
    assert_near(run_prefill(cpu_prefill, case, inputs), run_prefill(reference_prefill, case, inputs))
