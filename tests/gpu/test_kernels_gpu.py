"""Triton kernels against the reference on a CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DECODE_CASES, PREFILL_CASES, AttentionCase
from kernel_comparisons import (
    ACTIVATION_SHAPES,
    DTYPES,
    LORA_CASES,
    MASK_SHAPES,
    NORM_SHAPES,
    ROPE_SHAPES,
    compare_activation,
    compare_bounded_decode,
    compare_decode,
    compare_embedding_lora,
    compare_lora,
    compare_norm,
    compare_prefill,
    compare_rope,
    compare_token_mask,
)
from partial_cases import PARTIAL_CASES, compare_partial

from headway.kernels.kv_cache import KVScales

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
LONG = [
    AttentionCase((5000, 300, 1), num_heads=8, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16),
    AttentionCase((3000, 2999), num_heads=9, num_kv_heads=3, block_size=32, sliding_window=1000),
    AttentionCase((5000, 300, 1), num_heads=8, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16, fp8=KVScales(0.02, 0.5), has_sinks=True),
    AttentionCase((5000, 300, 1), num_heads=8, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16, has_int8_pages=True),
]
LONG_PREFILL = [replace(case, query_lens=tuple(min(n, 700) for n in case.seq_lens)) for case in LONG]


@pytest.fixture(autouse=True)
def _exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own fp32 products must not be rounded to tf32."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", [*NORM_SHAPES, (600, 8192)], ids=str)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import norm

    compare_norm(norm, shape, dtype, "cuda", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", [*ACTIVATION_SHAPES, (600, 8192)], ids=str)
def test_activation(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import activation

    compare_activation(activation, shape, dtype, "cuda", strided=strided)


@DTYPE
@pytest.mark.parametrize("has_norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("shape", ROPE_SHAPES, ids=str)
def test_rope(shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype, has_norm: bool) -> None:
    from headway.kernels.gpu import rope

    compare_rope(rope, shape, dtype, "cuda", has_norm=has_norm)


@DTYPE
@pytest.mark.parametrize("is_native", [True, False], ids=["fp8", "bytes"])
@pytest.mark.parametrize("shape", ROPE_SHAPES[:4], ids=str)
def test_rope_into_fp8_pages(
    shape: tuple[int, int, int, int, int, bool], is_native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.kernels.gpu import fp8_cache, rope

    if not is_native:
        monkeypatch.setattr(fp8_cache, "has_fp8", lambda device: False)
    compare_rope(rope, shape, dtype, "cuda", fp8=KVScales(0.004, 0.7))


@DTYPE
@pytest.mark.parametrize("shape", ROPE_SHAPES[:4], ids=str)
def test_rope_into_int8_pages(shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype) -> None:
    from headway.kernels.gpu import rope

    compare_rope(rope, shape, dtype, "cuda", has_int8_pages=True)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", [*MASK_SHAPES, (256, 151936, [*range(100, 200)])], ids=str)
def test_token_mask(shape: tuple[int, int, list[int]], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import token_mask

    compare_token_mask(token_mask, shape, dtype, "cuda", strided=strided)


@STRIDED
@pytest.mark.parametrize("case", DECODE_CASES + LONG, ids=str)
def test_decode(case: AttentionCase, strided: bool) -> None:
    from headway.kernels.gpu import paged_attention

    compare_decode(paged_attention, case, "cuda", strided=strided)


@pytest.mark.parametrize("case", LONG, ids=str)
def test_decode_bounded_by_the_longest_context(case: AttentionCase) -> None:
    from headway.kernels.gpu import paged_attention

    compare_bounded_decode(paged_attention, case, "cuda")


@STRIDED
@pytest.mark.parametrize("case", PREFILL_CASES + LONG_PREFILL, ids=str)
def test_prefill(case: AttentionCase, strided: bool) -> None:
    from headway.kernels.gpu import prefill_attention

    compare_prefill(prefill_attention, case, "cuda", strided=strided)


@STRIDED
@pytest.mark.parametrize(("case", "num_ranks", "interleave"), PARTIAL_CASES, ids=str)
def test_partial_attention(case: AttentionCase, num_ranks: int, interleave: int, strided: bool) -> None:
    from headway.kernels.gpu import partial_attention

    compare_partial(partial_attention, case, num_ranks, interleave, "cuda", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", LORA_CASES, ids=lambda case: f"{len(case[0])} tokens {case[1:]}")
def test_lora(case: tuple[list[int], list[int], int, int, int], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import lora

    compare_lora(lora, case, dtype, "cuda", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", LORA_CASES, ids=lambda case: f"{len(case[0])} tokens {case[1:]}")
def test_embedding_lora(case: tuple[list[int], list[int], int, int, int], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import embedding_lora, lora

    compare_embedding_lora(embedding_lora, lora.prepare_lora, case, dtype, "cuda", strided=strided)
