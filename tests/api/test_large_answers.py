"""Answers that are much to write leave the event loop, and so /ping, alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.api.serving.logprobs import LogprobFormat
from headway.server.types import TokenLogprobs


@pytest.mark.parametrize(("num_tokens", "is_on_loop"), [(3, True), (250, False)])
def test_many_logprobs_are_written_in_a_thread(monkeypatch: pytest.MonkeyPatch, num_tokens: int, is_on_loop: bool) -> None:
    threads: list[int] = []
    written = LogprobFormat.prompt

    def recorded(self: LogprobFormat, logprobs: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        threads.append(threading.get_ident())
        return written(self, logprobs)

    monkeypatch.setattr(LogprobFormat, "prompt", recorded)
    with ApiServer(max_model_len=512) as server:
        loop: list[int] = []
        server.on_loop(lambda: loop.append(threading.get_ident()))
        body = {"model": "tiny", "prompt": [5] * num_tokens, "prompt_logprobs": 1, "max_tokens": 1}
        answer = server.client.post("/v1/completions", json=body)
        assert len(answer.json()["choices"][0]["prompt_logprobs"]) == num_tokens
    assert [[thread] == loop for thread in threads] == [is_on_loop]
