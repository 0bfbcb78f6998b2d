"""When a request ends."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.engine.finish import Limits, finish_of
from headway.server.types import FinishReason, SamplingParams

EOS, STOP, OTHER = 2, 3, 5
END = (FinishReason.STOP, None)
STOPPED = (FinishReason.STOP, STOP)
LENGTH = (FinishReason.LENGTH, None)


@pytest.mark.parametrize(
    ("token_id", "num_output", "changes", "expected"),
    [
        (OTHER, 1, {}, None),
        (EOS, 1, {}, END),
        (EOS, 1, {"ignore_eos": True}, None),
        (STOP, 1, {}, STOPPED),
        (STOP, 1, {"ignore_eos": True}, STOPPED),
        (EOS, 1, {"stop_token_ids": (EOS,)}, END),
        (EOS, 1, {"stop_token_ids": (EOS,), "ignore_eos": True}, (FinishReason.STOP, EOS)),
        (EOS, 3, {"min_tokens": 3}, None),
        (STOP, 3, {"min_tokens": 3}, None),
        (EOS, 4, {"min_tokens": 3}, END),
        (OTHER, 10, {}, LENGTH),
        (EOS, 10, {}, END),
        (EOS, 10, {"min_tokens": 10}, LENGTH),
    ],
)
def test_rules(token_id: int, num_output: int, changes: dict[str, Any], expected: object) -> None:
    sampling = SamplingParams(**{"max_tokens": 10, "eos_token_ids": (EOS,), "stop_token_ids": (STOP,), **changes})
    assert finish_of(sampling, token_id, num_output_tokens=num_output, num_tokens=num_output + 7, max_len=50) == expected


def test_the_context_ends_a_request() -> None:
    sampling = SamplingParams(max_tokens=100)
    assert finish_of(sampling, OTHER, num_output_tokens=3, num_tokens=49, max_len=50) is None
    assert finish_of(sampling, OTHER, num_output_tokens=4, num_tokens=50, max_len=50) == LENGTH


@pytest.mark.parametrize(
    ("limits", "max_len"),
    [
        (Limits(50, 100, None), 50),
        (Limits(50, 40, None), 41),
        (Limits(50, 40, 30), 31),
        (Limits(50, 49, None), 50),
        (Limits(50, 100, 50), 50),
    ],
)
def test_the_longest_sequence(limits: Limits, max_len: int) -> None:
    assert limits.max_len == max_len


@pytest.mark.parametrize(
    ("limits", "num_prompt", "max_tokens", "words"),
    [
        (Limits(50, 100, None), 49, 1, None),
        (Limits(50, 100, None), 50, 0, None),
        (Limits(50, 100, None), 50, 1, "context length"),
        (Limits(50, 40, None), 40, 1, None),
        (Limits(50, 40, None), 41, 1, "KV cache"),
        (Limits(50, 40, 30), 30, 1, None),
        (Limits(50, 40, 30), 31, 1, "chunked prefill"),
    ],
)
def test_refusals(limits: Limits, num_prompt: int, max_tokens: int, words: str | None) -> None:
    refusal = limits.refusal(num_prompt, max_tokens)
    assert refusal is None if words is None else words in str(refusal)
