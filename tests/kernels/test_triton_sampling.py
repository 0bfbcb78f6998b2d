"""Sampling in Triton's interpreter, token for token like the reference, and penalties."""

from __future__ import annotations

import pytest
from sampling_comparisons import (
    PENALTY_SHAPES,
    SAMPLING_CASES,
    SamplingCase,
    compare_counts,
    compare_penalties,
    compare_sampling,
    make_logits,
)

from headway.kernels.backend import OVERRIDE, is_interpreting
from headway.server.engine.draw import RandomRow, choose_tokens
from headway.server.types import SamplingParams

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import penalties, sampling


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 64)
    monkeypatch.setattr(sampling, "SCAN", 128)
    monkeypatch.setattr(sampling, "PART", 32)


@pytest.mark.parametrize("case", SAMPLING_CASES, ids=str)
def test_sampling(case: SamplingCase) -> None:
    compare_sampling(sampling, case, "cpu")


def test_a_row_is_bisected_where_too_many_tokens_are_nearly_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "LIST_SIZE", 4)
    compare_sampling(sampling, SamplingCase(6, 300, step=1.0, spread=1.0), "cpu", num_seeds=2)


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("shape", PENALTY_SHAPES, ids=str)
def test_penalties(shape: tuple[int, int, list[int]], strided: bool) -> None:
    compare_penalties(penalties, shape, "cpu", strided=strided)


@pytest.mark.parametrize("num_pairs", [0, 1, 300])
def test_counts(num_pairs: int) -> None:
    compare_counts(penalties, num_pairs, "cpu")


def test_the_engine_draws_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options as the sampler gives them, through the public function: the same tokens as the CPU's version finds."""
    case = SamplingCase(4, 300)
    options = [SamplingParams(top_k=7), SamplingParams(top_p=0.8, min_p=0.01), SamplingParams(temperature=0.7)]
    rows = [RandomRow(line, sampling, 0.37) for line, sampling in enumerate(options)]
    expected = choose_tokens(make_logits(case, "cpu"), rows).tolist()
    monkeypatch.setenv(OVERRIDE, "triton")
    assert choose_tokens(make_logits(case, "cpu"), rows).tolist() == expected
