"""Prompt logprobs against log_softmax, in one part and in many."""

from __future__ import annotations

import pytest
import torch

from headway.server.engine import logprobs
from headway.server.engine.logprobs import prompt_logprobs


@pytest.mark.parametrize("num_top", [0, 1, 5, 400, -1])
@pytest.mark.parametrize("rows_a_part", [1, 3, 100])
def test_prompt_logprobs_are_log_softmax(num_top: int, rows_a_part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab_size = 130
    monkeypatch.setattr(logprobs, "_CHUNK_ELEMENTS", rows_a_part * vocab_size)
    logits = torch.randn(7, vocab_size, generator=torch.Generator().manual_seed(2)) * 5
    targets = [3, 129, 0, 64, 3, 3, 77]
    own = torch.log_softmax(logits.double(), -1)
    entries = prompt_logprobs(logits, targets, num_top)
    assert [entry.token_id for entry in entries] == targets
    for position, entry in enumerate(entries):
        order = own[position].argsort(descending=True).tolist()
        width = vocab_size if num_top < 0 else min(num_top, vocab_size)
        assert entry.logprob == pytest.approx(own[position, targets[position]].item(), abs=1e-5)
        assert entry.rank == order.index(targets[position]) + 1
        assert [token for token, _ in entry.top] == order[:width]
        assert [value for _, value in entry.top] == pytest.approx(own[position][order[:width]].tolist(), abs=1e-5)


def test_equal_tokens_share_a_rank_and_bf16_logits_are_welcome() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.5]], dtype=torch.bfloat16)
    assert [prompt_logprobs(logits, [token], 0)[0].rank for token in range(4)] == [3, 1, 1, 4]


def test_no_positions() -> None:
    assert prompt_logprobs(torch.empty(0, 10), [], 5) == []
