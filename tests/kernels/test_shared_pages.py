"""Pages that are keys and values at once, as latent attention has them: written once, read by every implementation alike."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.cpu import rope as cpu_rope
from headway.kernels.kv_cache import FP8, KVScales
from headway.kernels.partial_attention import KeySpans, QueryRows
from headway.kernels.reference import paged_attention as reference_decode
from headway.kernels.reference import partial_attention as reference_partial
from headway.kernels.reference import prefill_attention as reference_prefill
from headway.kernels.reference import rope as reference_rope

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: the interpreter, which these run in, is off", allow_module_level=True)

from headway.kernels.gpu import paged_attention, partial_attention, prefill_attention, rope

TABLES = torch.tensor([[3, 1, 2, 0], [5, 6, 7, 8], [9, 10, 11, 4]], dtype=torch.int32)
SCALE = 0.06
# (numbers of a page, query heads): two strips, one of which is no power of two; the same of one power of two
SHAPES = [(288, 20), (304, 3), (512, 16)]


def pages_of(head_dim: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(12, 4, 1, head_dim, generator=torch.Generator().manual_seed(0)).to(dtype)


def queries(count: int, num_heads: int, head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, num_heads, head_dim, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("min_split", [64, 4], ids=["one part", "many parts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decode(shape: tuple[int, int], dtype: torch.dtype, min_split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_attention, "MIN_SPLIT_TOKENS", min_split)
    head_dim, num_heads = shape
    pages, lens = pages_of(head_dim, dtype), torch.tensor([13, 1, 16], dtype=torch.int32)
    arguments = (queries(3, num_heads, head_dim, dtype), pages, pages, TABLES, lens, SCALE)
    found, expected = (module.paged_attention(*arguments, max_seq_len=16) for module in (paged_attention, reference_decode))
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)


@pytest.mark.parametrize("page", [torch.float32, FP8], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prefill(shape: tuple[int, int], page: torch.dtype) -> None:
    head_dim, num_heads = shape
    pages, lens = pages_of(head_dim, page), torch.tensor([13, 4, 16], dtype=torch.int32)
    starts = torch.tensor([0, 5, 5, 8], dtype=torch.int32)
    scales: dict[str, Any] = {"kv_scales": KVScales(0.5, 0.5)} if page == FP8 else {}
    arguments = (queries(8, num_heads, head_dim), pages, pages, TABLES, lens, starts, SCALE)
    found, expected = (
        module.prefill_attention(*arguments, max_query_len=5, max_seq_len=16, **scales) for module in (prefill_attention, reference_prefill)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("query_lens", [[1, 1, 1], [3, 0, 2]], ids=["decode", "prefill"])
def test_a_part_of_the_keys(query_lens: list[int]) -> None:
    """Some see none of those that are here."""
    head_dim, num_heads = SHAPES[0]
    pages, count = pages_of(head_dim, torch.float32), sum(query_lens)
    ends = torch.tensor([7, 0, 12, 13, 2][:count], dtype=torch.int32)
    starts = torch.tensor([0, *query_lens]).cumsum(0).int()
    spans = KeySpans(torch.zeros_like(ends), ends)
    arguments = (queries(count, num_heads, head_dim), pages, pages, QueryRows(TABLES, starts, query_lens), spans, SCALE)
    found, expected = (module.partial_attention(*arguments, has_begins=False) for module in (partial_attention, reference_partial))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("module", [rope, cpu_rope], ids=["triton", "cpu"])
@pytest.mark.parametrize("page", [torch.float32, FP8], ids=str)
def test_a_page_is_written_once(module: ModuleType, page: torch.dtype) -> None:
    """Of 40 heads so wide that one program has not all of them. The token without a slot leaves all pages as they are."""
    head_dim, positions, slots = 576, torch.tensor([4, 0, 9, 3]), torch.tensor([17, 3, -1, 40])
    q, k = queries(4, 40, head_dim), queries(4, 1, head_dim) + 1
    cos_sin = torch.randn(16, 64)
    pages, expected_pages = pages_of(head_dim, page), pages_of(head_dim, page)
    found = module.rope_and_cache(q, k, None, cos_sin, positions, pages, None, slots, interleaved=True)
    expected = reference_rope.rope_and_cache(q, k, None, cos_sin, positions, expected_pages, None, slots, interleaved=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(pages.float(), expected_pages.float())
    assert (expected_pages.float() != pages_of(head_dim, page).float()).flatten(2).any(-1).sum() == 3
