"""Two engines that must answer alike."""

from __future__ import annotations

from typing import Any

import pytest
from engine_driver import Output, run

from headway.server.engine.core import EngineCore
from headway.server.types import GenerateRequest


def assert_alike(single: EngineCore, other: EngineCore, requests: list[GenerateRequest], **how: Any) -> dict[str, Output]:
    """Runs the requests on both; returns the other's outputs. ``how``: see run."""
    expected, found = run(single, requests, **how), run(other, requests, **how)
    for name, output in expected.items():
        assert output.token_ids
        assert found[name].token_ids == output.token_ids, name
        assert found[name].finish_reason == output.finish_reason
        for here, there in zip(found[name].logprobs, output.logprobs, strict=True):
            assert here.logprob == pytest.approx(there.logprob, abs=1e-4)
        here_prompt, there_prompt = found[name].prompt_logprobs, output.prompt_logprobs
        assert [entry and entry.token_id for entry in here_prompt or []] == [entry and entry.token_id for entry in there_prompt or []]
    return found
