"""Sampling and penalties in Triton against the reference on a CUDA device, and that the host waits for nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sampling_comparisons import (
    PENALTY_SHAPES,
    SAMPLING_CASES,
    SamplingCase,
    compare_counts,
    compare_penalties,
    compare_sampling,
    make_draws,
    make_logits,
)

from headway.server.engine.draw import RandomRow, choose_tokens
from headway.server.engine.logit_bias import LogitBiasState
from headway.server.engine.logits_state import LogitsState
from headway.server.engine.penalties import PenaltyState
from headway.server.engine.token_bans import TokenBanState
from headway.server.types import SamplingParams

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


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("shape", [*PENALTY_SHAPES, (256, 151936, [7, 200, 31])], ids=str)
def test_penalties(shape: tuple[int, int, list[int]], strided: bool) -> None:
    from headway.kernels.gpu import penalties

    compare_penalties(penalties, shape, "cuda", strided=strided)


@pytest.mark.parametrize("num_pairs", [0, 1, 300])
def test_counts(num_pairs: int) -> None:
    from headway.kernels.gpu import penalties

    compare_counts(penalties, num_pairs, "cuda")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize(
    "state", [PenaltyState, TokenBanState, lambda vocab_size, _: LogitBiasState(vocab_size)], ids=["penalties", "bans", "bias"]
)
def test_the_host_waits_for_no_option_and_no_draw(state: Callable[[int, torch.device], LogitsState]) -> None:
    """A second time, when kernels are compiled and memory is there."""
    device, vocab_size = torch.device("cuda"), 32000
    sampling = SamplingParams(
        top_p=0.9, presence_penalty=0.5, repetition_penalty=1.2, bad_words=((5,), (7, 8)), allowed_token_ids=(5, 6, 7), logit_bias={3: 1.0}
    )
    logits = make_logits(SamplingCase(8, vocab_size), "cuda")
    try:
        for mode in ("default", "error"):
            option = state(vocab_size, device)
            torch.cuda.set_sync_debug_mode(mode)
            for row in range(6):
                option.add(row, sampling, [1, 2, 3, 7], 3)
            for top_k in (0, 40):
                option.apply(logits, list(range(6)))
                draws = [RandomRow(row, SamplingParams(top_p=0.9, top_k=top_k), 0.5) for row in range(6)]
                choose_tokens(logits.clone(), draws)
                option.append(list(range(6)), [5, 6, 7, 5, 6, -1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
