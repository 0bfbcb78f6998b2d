"""Sampling in Triton's interpreter, token for token like the reference."""

from __future__ import annotations

import pytest
from sampling_comparisons import SAMPLING_CASES, SamplingCase, compare_sampling

from headway.kernels.backend import is_interpreting

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import sampling


@pytest.mark.parametrize("list_size", [4, 4096], ids=["whole row bisected", "listed"])
@pytest.mark.parametrize("case", SAMPLING_CASES, ids=str)
def test_rows_of_several_blocks(case: SamplingCase, list_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 64)
    monkeypatch.setattr(sampling, "PART", 32)
    monkeypatch.setattr(sampling, "LIST_SIZE", list_size)
    compare_sampling(sampling, case, "cpu")


def test_blocks_as_on_a_gpu() -> None:
    compare_sampling(sampling, SamplingCase(6, 5000), "cpu", num_seeds=2)
