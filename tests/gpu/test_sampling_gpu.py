"""Sampling in Triton against the reference on a CUDA device, token for token, and that the host waits for nothing."""

from __future__ import annotations

import pytest
import torch
from sampling_comparisons import SAMPLING_CASES, SamplingCase, compare_sampling, make_draws, make_logits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LARGE = [
    SamplingCase(64, 128256),
    SamplingCase(33, 151936, step=0.0625),
    SamplingCase(5, 128256, spread=0.0),
    SamplingCase(16, 49152, spread=1.0),
]


@pytest.mark.parametrize("case", SAMPLING_CASES + LARGE, ids=str)
def test_sampling(case: SamplingCase) -> None:
    from headway.kernels.gpu import sampling

    compare_sampling(sampling, case, "cuda", num_seeds=8)


def test_tokens_are_those_of_the_cpus_reference() -> None:
    from headway.kernels.gpu import sampling
    from headway.kernels.reference import sampling as reference

    case = SamplingCase(16, 32000)
    expected = reference.sample_tokens(make_logits(case, "cpu"), make_draws(case, 0, "cpu", every_row=True))
    actual = sampling.sample_tokens(make_logits(case, "cuda"), make_draws(case, 0, "cuda", every_row=True))
    assert actual.tolist() == expected.tolist()


def test_the_host_waits_for_nothing() -> None:
    from headway.server.engine.draw import RandomRow, choose_tokens
    from headway.server.types import SamplingParams

    logits = make_logits(SamplingCase(8, 32000), "cuda")
    rows = [RandomRow(line, SamplingParams(top_p=0.9, top_k=40 * (line % 2)), 0.5) for line in range(6)]
    choose_tokens(logits.clone(), rows)  # compiled
    copy = logits.clone()
    torch.cuda.set_sync_debug_mode("error")
    try:
        choose_tokens(copy, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
