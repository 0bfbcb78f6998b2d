"""Triton kernels against the reference, run by Triton's interpreter where there is no GPU."""

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

from headway.kernels.backend import is_interpreting

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import activation, embedding_lora, fp8_cache, lora, norm, paged_attention, prefill_attention, rope, token_mask
from headway.kernels.gpu.prefill_tiles import Tile, stride_unit
from headway.kernels.kv_cache import KVScales
from headway.kernels.tuned import DecodeTiles

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    compare_norm(norm, shape, dtype, "cpu", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", ACTIVATION_SHAPES, ids=str)
def test_activation(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    compare_activation(activation, shape, dtype, "cpu", strided=strided)


@DTYPE
@pytest.mark.parametrize("has_norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("shape", ROPE_SHAPES, ids=str)
def test_rope(shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype, has_norm: bool) -> None:
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm)
    if has_norm:
        compare_rope(rope, shape, dtype, "cpu", has_exact_norm=True)


@DTYPE
@pytest.mark.parametrize("is_native", [True, False], ids=["fp8", "bytes"])
@pytest.mark.parametrize("shape", ROPE_SHAPES[:4], ids=str)
def test_rope_into_fp8_pages(
    shape: tuple[int, int, int, int, int, bool], is_native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8_cache, "has_fp8", lambda device: is_native)
    compare_rope(rope, shape, dtype, "cpu", fp8=KVScales(0.004, 0.7))


@DTYPE
@pytest.mark.parametrize("has_norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("shape", ROPE_SHAPES[:4], ids=str)
def test_rope_into_int8_pages(shape: tuple[int, int, int, int, int, bool], has_norm: bool, dtype: torch.dtype) -> None:
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm, has_int8_pages=True)


@pytest.mark.parametrize("case", [case for case in DECODE_CASES if case.fp8], ids=str)
def test_decode_of_fp8_bytes(case: AttentionCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_cache, "has_fp8", lambda device: False)
    compare_decode(paged_attention, case, "cpu", strided=True)


@pytest.mark.parametrize("case", [case for case in PREFILL_CASES if case.fp8], ids=str)
def test_prefill_of_fp8_bytes(case: AttentionCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_cache, "has_fp8", lambda device: False)
    compare_prefill(prefill_attention, case, "cpu", strided=True)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_token_mask(shape: tuple[int, int, list[int]], dtype: torch.dtype, strided: bool) -> None:
    compare_token_mask(token_mask, shape, dtype, "cpu", strided=strided)


@pytest.mark.parametrize("case", DECODE_CASES, ids=str)
def test_decode(case: AttentionCase) -> None:
    compare_decode(paged_attention, case, "cpu", strided=False)
    compare_decode(paged_attention, case, "cpu", strided=True)


@pytest.mark.parametrize("case", [replace(case, seq_lens=tuple(n + 70 for n in case.seq_lens)) for case in DECODE_CASES], ids=str)
def test_decode_split_over_keys(case: AttentionCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_attention, "MIN_SPLIT_TOKENS", 16)
    compare_decode(paged_attention, case, "cpu", strided=False)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase((1, 300, 1)),
        AttentionCase((40, 1), sliding_window=9),
        AttentionCase((40, 300, 1), num_heads=4, num_kv_heads=2, dtype=torch.bfloat16, fp8=KVScales(0.02, 0.5), has_sinks=True),
        AttentionCase((40, 300, 1), num_heads=4, num_kv_heads=2, dtype=torch.bfloat16, has_int8_pages=True, has_sinks=True),
    ],
    ids=str,
)
def test_decode_bounded_by_the_longest_context(case: AttentionCase) -> None:
    compare_bounded_decode(paged_attention, case, "cpu")


@pytest.mark.parametrize("case", PREFILL_CASES, ids=str)
def test_prefill(case: AttentionCase) -> None:
    compare_prefill(prefill_attention, case, "cpu", strided=False)
    compare_prefill(prefill_attention, case, "cpu", strided=True)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase((90, 53), (7, 53)),
        AttentionCase((90, 53), (7, 53), sliding_window=40, block_size=32, has_sinks=True),
        AttentionCase((90, 53), (7, 53), sliding_window=40, has_int8_pages=True),
    ],
    ids=str,
)
def test_prefill_over_many_tiles(case: AttentionCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that all of a tile's queries see are read without masks; pages of as many tokens as a tile and of more."""
    monkeypatch.setattr(prefill_attention, "tile_of", lambda *args, **options: Tile(16, 16, num_warps=4, num_stages=2))
    compare_prefill(prefill_attention, case, "cpu", strided=False)
    compare_prefill(prefill_attention, case, "cpu", strided=True)


def test_places_counted_in_units_fit_32_bits() -> None:
    """A cache is a view of as many bytes as it likes: what is reckoned in 32 bits must be refused to what is larger or lies otherwise."""
    assert stride_unit(torch.empty((4, 32), device="meta"), torch.empty((31, 2**30), device="meta")) == 16
    assert stride_unit(torch.empty((4, 2**30), device="meta"), torch.empty((64, 2**30), device="meta")) == 1
    assert stride_unit(torch.empty((4, 24), device="meta")) == 1


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", LORA_CASES, ids=lambda case: f"{len(case[0])} tokens {case[1:]}")
def test_lora(case: tuple[list[int], list[int], int, int, int], dtype: torch.dtype, strided: bool) -> None:
    compare_lora(lora, case, dtype, "cpu", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", LORA_CASES, ids=lambda case: f"{len(case[0])} tokens {case[1:]}")
def test_embedding_lora(case: tuple[list[int], list[int], int, int, int], dtype: torch.dtype, strided: bool) -> None:
    compare_embedding_lora(embedding_lora, lora.prepare_lora, case, dtype, "cpu", strided=strided)


@pytest.mark.parametrize(
    ("num_rows", "longest", "expected"),
    [(1, 2048, 32), (1, 32768, 64), (8, 2048, 8), (40, 2048, 2), (64, 2048, 1), (1, 63, 1), (300, 2048, 1)],
)
def test_decode_is_split_until_the_gpu_is_full(num_rows: int, longest: int, expected: int) -> None:
    tiles = DecodeTiles(block_n=64, min_split_tokens=paged_attention.MIN_SPLIT_TOKENS)
    assert paged_attention.choose_num_splits(8 * num_rows, longest, 132, tiles) == expected
