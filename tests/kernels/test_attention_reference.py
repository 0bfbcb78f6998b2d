"""The reference attention against a dense formula written independently, one query and head at a time."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import DECODE_CASES, PREFILL_CASES, AttentionCase, AttentionInputs, assert_near, make_attention, run_decode, run_prefill
from torch import Tensor

from headway.kernels.reference import paged_attention, prefill_attention


def naive(case: AttentionCase, inputs: AttentionInputs) -> Tensor:
    rows = []
    start = 0
    for row, seq_len in enumerate(case.seq_lens):
        query_len = case.query_lens[row] if case.query_lens else 1
        for i in range(query_len):
            position = seq_len - query_len + i
            first = max(0, position - case.sliding_window + 1) if case.sliding_window else 0
            for head in range(case.num_heads):
                kv_head = head // (case.num_heads // case.num_kv_heads)
                keys = inputs.keys[row][first : position + 1, kv_head].double()
                values = inputs.values[row][first : position + 1, kv_head].double()
                scores = keys @ inputs.q[start + i, head].double() / math.sqrt(case.head_dim)
                if case.softcap:
                    scores = case.softcap * torch.tanh(scores / case.softcap)
                weights = torch.exp(scores - scores.max())
                total = weights.sum()
                if inputs.sinks is not None:
                    total += torch.exp(inputs.sinks[head].double() - scores.max())
                rows.append(weights @ values / total)
        start += query_len
    return torch.stack(rows).view(inputs.q.shape).to(case.dtype) if rows else torch.empty_like(inputs.q)


@pytest.mark.parametrize("case", DECODE_CASES, ids=str)
def test_decode(case: AttentionCase) -> None:
    inputs = make_attention(case)
    assert_near(run_decode(paged_attention, case, inputs), naive(case, inputs))


@pytest.mark.parametrize("case", PREFILL_CASES, ids=str)
def test_prefill(case: AttentionCase) -> None:
    inputs = make_attention(case)
    assert_near(run_prefill(prefill_attention, case, inputs), naive(case, inputs))
