"""The reference of sampling against the definition, the CPU's version against the reference, and what both refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from naive_sampling import distribution
from sampling_comparisons import SAMPLING_CASES, SamplingCase, compare_sampling

from headway.kernels.cpu import sampling as cpu_sampling
from headway.kernels.reference import sampling as reference
from headway.kernels.sampling import Draws, sample_tokens
from headway.server.types import SamplingParams

GRID = 512  # uniforms tried for a row


def test_exact_exp_is_exp_to_the_last_bits() -> None:
    x = torch.cat([-torch.logspace(-30, 1.44, 20_000), torch.linspace(-27.9, 0, 20_000), torch.zeros(1)])
    expected = x.double().exp()
    assert ((reference.exact_exp(x) - expected).abs() / expected).max() < 2.0**-22
    assert reference.exact_exp(torch.zeros(1)).item() == 1.0
    assert not reference.weights_of(reference.exact_exp(torch.tensor([-28.0, -1e30, -torch.inf]))).any()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.6),
        SamplingParams(top_k=7),
        SamplingParams(top_p=0.8, temperature=1.4),
        SamplingParams(top_k=20, top_p=0.7, min_p=0.02),
        SamplingParams(top_p=0.0),
        SamplingParams(min_p=0.3),
    ],
    ids=str,
)
def test_the_reference_draws_the_defined_distribution(sampling: SamplingParams) -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(3)) * 2
    expected = distribution(logits.tolist(), sampling)
    tokens = reference.sample_tokens(logits.expand(GRID, -1), _same_options(sampling, 200))
    shares = np.bincount(tokens.numpy(), minlength=200) / GRID
    assert np.abs(shares - expected).max() <= 1.5 / GRID


def _same_options(sampling: SamplingParams, vocab_size: int) -> Draws:
    """For GRID rows, whose uniforms walk evenly over [0, 1)."""

    def column(value: float) -> torch.Tensor:
        return torch.full((GRID,), value, dtype=torch.float64)

    top_k = torch.full((GRID,), sampling.top_k or vocab_size)
    uniform = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    return Draws(torch.arange(GRID), top_k, column(sampling.temperature), column(sampling.top_p), column(sampling.min_p), uniform)


@pytest.mark.parametrize("case", [case for case in SAMPLING_CASES if not case.step and case.spread > 0] + [SamplingCase(12, 3000)], ids=str)
def test_the_cpu_draws_the_references_tokens(case: SamplingCase) -> None:
    """Where no two tokens are equal: exp may differ in the last bit, which moves a border by less than these uniforms see."""
    compare_sampling(cpu_sampling, case, "cpu")


@pytest.mark.parametrize("vocab_size", [1, 17, 4099])
@pytest.mark.parametrize(
    "values",
    [(-0.0, 0.0), (1.0, 1.0), (-0.5, -torch.inf), (torch.inf, torch.inf), (torch.nan, torch.inf), (torch.nan, -torch.nan)],
    ids=str,
)
@pytest.mark.usefixtures("cpu_path")
def test_of_equal_maxima_the_cpu_takes_the_references(vocab_size: int, values: tuple[float, float]) -> None:
    """Wherever they stand: vectorised searches for a maximum differ at the ends of their blocks, and in what a NaN is."""
    logits = torch.full((64, vocab_size + 3), -1.0)[:, :vocab_size]
    places = torch.randint(vocab_size, (64, 4), generator=torch.Generator().manual_seed(vocab_size))
    logits.scatter_(1, places, torch.tensor([*values, *values]).expand(64, -1))
    logits[7] = -torch.inf
    assert cpu_sampling.sample_tokens(logits, None).tolist() == reference.sample_tokens(logits, None).tolist()


def test_tensors_that_do_not_fit_are_refused() -> None:
    draws = _same_options(SamplingParams(), 8)
    with pytest.raises(ValueError, match="float32"):
        sample_tokens(torch.zeros(GRID, 8, dtype=torch.bfloat16), draws)
    with pytest.raises(ValueError, match="logits has strides"):
        sample_tokens(torch.zeros(8, GRID).t(), draws)
    with pytest.raises(ValueError, match=r"top_k is torch.int32"):
        sample_tokens(torch.zeros(GRID, 8), replace(draws, top_k=draws.top_k.int()))
    with pytest.raises(ValueError, match="uniform has shape"):
        sample_tokens(torch.zeros(GRID, 8), replace(draws, uniform=draws.uniform[1:]))
