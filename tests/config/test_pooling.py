"""What --pooler-config may say, and what can't go with --runner and --convert."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.config.pooling import PoolerChoice, PoolingConfig, pooler_choice, pooling_problems


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({}, PoolerChoice(None, None, None, None)),
        ({"pooling_type": "MEAN", "normalize": False}, PoolerChoice("mean", False, None, None)),
        ({"seq_pooling_type": "LAST", "use_activation": True, "dimensions": 8}, PoolerChoice("last", True, 8, None)),
        ({"pooling_type": "lasttoken", "softmax": True, "task": "classify"}, PoolerChoice("last", True, None, "classify")),
        ({"pooling_type": None, "task": None}, PoolerChoice(None, None, None, None)),
    ],
)
def test_understood(given: dict[str, Any], choice: PoolerChoice) -> None:
    pooling = PoolingConfig(pooler_config=given)
    assert pooling_problems(pooling) == []
    assert pooler_choice(pooling) == choice


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pooling_type": "STEP"}, ["CLS, LAST, MEAN or MAX", "'STEP'"]),
        ({"pooling_type": 3}, ["pooling_type", "3"]),
        ({"use_activation": "yes"}, ["true or false"]),
        ({"dimensions": 0}, ["at least 1"]),
        ({"dimensions": True}, ["whole number"]),
        ({"task": "rank"}, ["embed, token_embed, classify"]),
        ({"enable_chunked_processing": True}, ["enable_chunked_processing is not supported", "pooling_type"]),
    ],
)
def test_refused(given: dict[str, Any], words: list[str]) -> None:
    (problem,) = pooling_problems(PoolingConfig(pooler_config=given))
    assert problem.startswith("--pooler-config: ")
    assert all(word in problem for word in words)


def test_converting_is_pooling() -> None:
    (problem,) = pooling_problems(PoolingConfig(runner="generate", convert="embed"))
    assert "leave one of them out" in problem
