"""Filters and draws against the definitions, and that a row's token depends on nothing but the row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_sampling import distribution

from headway.kernels.cpu import sampling as cpu_sampling
from headway.kernels.sampling import BROKEN
from headway.server.engine.draw import RandomRow, choose_tokens, takes_argmax
from headway.server.types import SamplingParams

GRID = 512  # uniforms tried for a row: enough to meet every token that has a share of it


def drawn_shares(logits: torch.Tensor, sampling: SamplingParams, grid: int = GRID) -> np.ndarray:
    """The share of each token when u walks evenly over [0, 1): within one step of the row's exact distribution."""
    rows = [RandomRow(index, sampling, (index + 0.5) / grid) for index in range(grid)]
    tokens = choose_tokens(logits.expand(grid, -1).clone(), rows)
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1]) / grid


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 2, 3, 7, 64, 65, 1000]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.1, 0.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
)


@settings(max_examples=120, deadline=None)
@given(sampling=params, vocab_size=st.sampled_from([1, 2, 5, 63, 65, 300, 1500]), seed=st.integers(0, 2**31), is_flat=st.booleans())
def test_distribution_is_that_of_the_definition(sampling: SamplingParams, vocab_size: int, seed: int, is_flat: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocab_size, generator=generator) * (0.1 if is_flat else 3.0)
    expected = distribution(logits.tolist(), sampling)
    shares = drawn_shares(logits, sampling)
    # A top-p border can fall between two tokens within fp32's rounding: then one token more or less is kept.
    wrong = np.abs(shares - expected) > 1.5 / GRID
    if wrong.any():
        off_border = [distribution(logits.tolist(), _with_top_p(sampling, sampling.top_p + nudge)) for nudge in (-1e-5, 1e-5)]
        assert any((np.abs(shares - other) <= 1.5 / GRID).all() for other in off_border), (shares - expected)[wrong]


def _with_top_p(sampling: SamplingParams, top_p: float) -> SamplingParams:
    return SamplingParams(temperature=sampling.temperature, top_k=sampling.top_k, top_p=top_p, min_p=sampling.min_p)


@pytest.mark.parametrize("top_k", [2, 64, 200, 1025, 1999])
def test_top_k_keeps_exactly_k_of_equal_tokens(top_k: int) -> None:
    shares = drawn_shares(torch.zeros(2000), SamplingParams(top_k=top_k), grid=4000)
    assert (shares > 0).sum() == top_k


def test_ties_within_the_candidates_go_to_the_lower_token_id() -> None:
    logits = torch.tensor([0.0, 5.0, 5.0, 5.0, 5.0, 1.0]).repeat(15)  # 60 equal ones fit the 64 candidates
    shares = drawn_shares(logits, SamplingParams(top_k=3, temperature=0.7))
    assert np.flatnonzero(shares).tolist() == [1, 2, 3]


@pytest.mark.parametrize("candidates", [(1024, 8192), (50, 500), (50, 1500), ()])
def test_a_nucleus_wider_than_the_candidates_is_still_whole(candidates: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_sampling, "_NUCLEUS_CANDIDATES", candidates)
    logits = torch.linspace(0, 0.5, 1800)
    sampling = SamplingParams(top_p=0.6)
    shares = drawn_shares(logits, sampling, grid=1 << 12)
    expected = distribution(logits.tolist(), sampling)
    assert np.array_equal(shares > 0, expected > 0)
    assert np.abs(shares - expected).max() <= 1.5 / (1 << 12)


def test_extreme_uniforms_hit_only_kept_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).expand(4, -1).clone()
    almost_one = 1.0 - 2.0**-53
    for sampling in (SamplingParams(), SamplingParams(top_p=0.99), SamplingParams(top_k=2), SamplingParams(min_p=0.001)):
        rows = [RandomRow(i, sampling, u) for i, u in enumerate((0.0, 2.0**-53, almost_one, almost_one))]
        assert set(choose_tokens(logits.clone(), rows).tolist()) == {1, 2}


def test_greedy_batches_are_argmax_with_the_first_of_equals() -> None:
    logits = torch.randint(0, 3, (17, 101), generator=torch.Generator().manual_seed(5)).float()
    assert choose_tokens(logits, []).tolist() == [int(np.argmax(line)) for line in logits.numpy()]
    assert choose_tokens(torch.empty(0, 11), []).tolist() == []


def test_top_k_one_and_tiny_temperatures_take_the_argmax() -> None:
    assert takes_argmax(SamplingParams(top_k=1))
    assert takes_argmax(SamplingParams(temperature=0.0))
    assert takes_argmax(SamplingParams(temperature=9e-6, top_p=0.5))
    assert not takes_argmax(SamplingParams(temperature=1e-5))


@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "sampling", [None, SamplingParams(), SamplingParams(top_k=5), SamplingParams(top_p=0.9), SamplingParams(top_p=0.9, min_p=0.1)]
)
def test_a_broken_row_harms_no_other(fault: float, sampling: SamplingParams | None) -> None:
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(1)) * 4
    rows = [RandomRow(i, sampling, 0.3) for i in range(5)] if sampling else []
    expected = choose_tokens(logits.clone(), rows).tolist()
    logits[2, 1234] = fault
    logits[4] = -torch.inf
    found = choose_tokens(logits, rows).tolist()
    assert found[2] == found[4] == BROKEN
    assert [found[i] for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_rows_token_does_not_depend_on_the_batch(data: st.DataObject) -> None:
    num_rows = data.draw(st.integers(1, 9))
    vocab_size = data.draw(st.sampled_from([40, 1100, 3000]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    # Values on a coarse grid, as bf16 models give: ties at every border.
    logits = torch.randn(num_rows, vocab_size, generator=generator).mul(8).round().div(4)
    samplings = data.draw(st.lists(params, min_size=num_rows, max_size=num_rows))
    uniforms = torch.rand(num_rows, generator=generator, dtype=torch.float64).tolist()
    rows = [RandomRow(i, samplings[i], uniforms[i]) for i in range(num_rows) if i % 3 != 2]
    together = choose_tokens(logits.clone(), rows).tolist()
    for row in rows:
        alone = choose_tokens(logits[row.index : row.index + 1].clone(), [RandomRow(0, row.sampling, row.uniform)])
        assert alone.tolist() == [together[row.index]]
    order = data.draw(st.permutations(range(num_rows)))
    moved = [RandomRow(order.index(row.index), row.sampling, row.uniform) for row in rows]
    shuffled = choose_tokens(logits[list(order)].clone(), moved).tolist()
    assert [shuffled[order.index(i)] for i in range(num_rows)] == together
