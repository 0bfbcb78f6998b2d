"""Attention over parts of the keys: each implementation against the reference, and the reference's parts against attention over all."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import AttentionCase
from partial_cases import PARTIAL_CASES, compare_partial, parts_of

from headway.kernels.backend import is_interpreting
from headway.kernels.cpu import partial_attention as cpu
from headway.kernels.partial_attention import KeySpans, merge_parts, partial_attention
from headway.kernels.reference import partial_attention as reference

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
CASES = pytest.mark.parametrize(("case", "num_ranks", "interleave"), PARTIAL_CASES, ids=str)


@CASES
@STRIDED
def test_reference(case: AttentionCase, num_ranks: int, interleave: int, strided: bool) -> None:
    compare_partial(reference, case, num_ranks, interleave, "cpu", strided=strided)


@CASES
@STRIDED
def test_cpu(case: AttentionCase, num_ranks: int, interleave: int, strided: bool) -> None:
    compare_partial(cpu, case, num_ranks, interleave, "cpu", strided=strided)


@STRIDED
def test_cpu_with_bf16_pages_beside_fp32(strided: bool) -> None:
    case = AttentionCase((40, 25), (20, 25), num_heads=9, num_kv_heads=3, has_bf16_pages=True)
    compare_partial(cpu, case, 2, 1, "cpu", strided=strided)


@CASES
@STRIDED
def test_triton(case: AttentionCase, num_ranks: int, interleave: int, strided: bool) -> None:
    triton_module = _triton()
    compare_partial(triton_module, case, num_ranks, interleave, "cpu", strided=strided)


def test_triton_split_over_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of one rank's keys and parts of several ranks: both are merged, and a split may have no keys."""
    triton_module = _triton()
    from headway.kernels.gpu import paged_attention

    monkeypatch.setattr(paged_attention, "MIN_SPLIT_TOKENS", 16)
    compare_partial(triton_module, AttentionCase((1, 170, 90), num_heads=4, num_kv_heads=2), 2, 1, "cpu", strided=False)
    compare_partial(triton_module, AttentionCase((170, 90), sliding_window=60), 2, 1, "cpu", strided=False)


def test_numbers_that_are_no_float_are_no_query() -> None:
    _, (call, _) = parts_of(AttentionCase((9, 4)), 2, 1, "cpu", strided=False)
    q, k, v, rows, spans, scale = call[0]
    with pytest.raises(ValueError, match="ends has dtype"):
        partial_attention(q, k, v, rows, KeySpans(spans.begins, spans.ends.long()), scale)  # type: ignore[arg-type, attr-defined]
    with pytest.raises(ValueError, match="begins has shape"):
        partial_attention(q, k, v, rows, KeySpans(spans.begins[:1], spans.ends), scale)  # type: ignore[arg-type, attr-defined]
    with pytest.raises(ValueError, match="lse has shape"):
        merge_parts(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1))


def _triton() -> object:
    pytest.importorskip("triton")
    if not is_interpreting():
        pytest.skip("a GPU is present: tests/gpu runs these comparisons on it")
    from headway.kernels.gpu import partial_attention as module

    return module
