"""Sampling in Triton's interpreter, token for token like the reference, and penalties."""

from __future__ import annotations

import pytest
from sampling_comparisons import PENALTY_SHAPES, SAMPLING_CASES, SamplingCase, compare_counts, compare_penalties, compare_sampling

from headway.kernels.backend import is_interpreting

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import penalties, sampling


@pytest.mark.parametrize("list_size", [4, 4096], ids=["whole row bisected", "listed"])
@pytest.mark.parametrize("case", SAMPLING_CASES, ids=str)
def test_rows_of_several_blocks(case: SamplingCase, list_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 64)
    monkeypatch.setattr(sampling, "PART", 32)
    monkeypatch.setattr(sampling, "LIST_SIZE", list_size)
    compare_sampling(sampling, case, "cpu")


def test_blocks_as_on_a_gpu() -> None:
    compare_sampling(sampling, SamplingCase(6, 5000), "cpu", num_seeds=2)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("shape", PENALTY_SHAPES, ids=str)
def test_penalties(shape: tuple[int, int, list[int]], strided: bool) -> None:
    compare_penalties(penalties, shape, "cpu", strided=strided)


@pytest.mark.parametrize("num_pairs", [0, 1, 300])
def test_counts(num_pairs: int) -> None:
    compare_counts(penalties, num_pairs, "cpu")
