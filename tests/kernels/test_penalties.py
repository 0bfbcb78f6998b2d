"""Penalties: the CPU's version and the reference against each other, and what is refused. tests/engine/test_sampler.py has the formula."""

from __future__ import annotations

import pytest
import torch
from sampling_comparisons import PENALTY_SHAPES, compare_counts, compare_penalties, make_penalties

from headway.kernels.cpu import penalties as cpu_penalties
from headway.kernels.penalties import apply_penalties, count_tokens


@pytest.mark.parametrize("shape", PENALTY_SHAPES, ids=str)
def test_the_cpu_gives_the_references_logits(shape: tuple[int, int, list[int]]) -> None:
    compare_penalties(cpu_penalties, shape, "cpu", strided=True)


@pytest.mark.parametrize("num_pairs", [0, 1, 300])
def test_counts(num_pairs: int) -> None:
    compare_counts(cpu_penalties, num_pairs, "cpu")


def test_tensors_that_do_not_fit_are_refused() -> None:
    logits, penalties, counts, in_prompt = make_penalties(PENALTY_SHAPES[0], "cpu")
    with pytest.raises(ValueError, match="counts has shape"):
        apply_penalties(logits, penalties, counts[:, 1:], in_prompt)
    with pytest.raises(ValueError, match="in_prompt has shape"):
        apply_penalties(logits, penalties, counts, in_prompt[1:])
    with pytest.raises(ValueError, match="penalties are for float32"):
        apply_penalties(logits.half(), penalties, counts, in_prompt)
    with pytest.raises(ValueError, match=r"token_ids is torch.int32"):
        count_tokens(counts, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="token_ids has shape"):
        count_tokens(counts, torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
