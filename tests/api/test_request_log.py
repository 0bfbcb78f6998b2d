"""--enable-log-requests and its companions: what is told of a request, and that nothing is told unasked."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.config.logs import LogConfig, log_problems

NAME = "headway.server.api.serving.request_log"
COMPLETION: dict[str, Any] = {"prompt": "secret prompt", "max_tokens": 3, "temperature": 0.5, "logit_bias": {"5": 1.0}, "n": 2}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "secret question"}], "stop": ["secret stop"], "stream": True}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == NAME]


def ask(logs: dict[str, Any], *bodies: dict[str, Any]) -> None:
    with ApiServer(logs=logs) as server:
        for body in bodies:
            path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
            assert server.post(path, body, headers={"x-request-id": "mine"}).status_code == 200


def test_nothing_is_told_unasked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ask({}, COMPLETION, CHAT)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("headway")]
    assert ours
    assert "secret" not in str(ours)
    assert not told(caplog)


def test_a_line_without_texts_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    ask({"enable_log_requests": True}, COMPLETION, CHAT)
    first, second = told(caplog)
    assert first == ("INFO cmpl-mine: model 'tiny', 13 prompt tokens, n=2, max_tokens=3, temperature=0.5, logit_bias of 1 token")
    assert second.startswith("INFO chatcmpl-mine: model 'tiny', ")
    assert "secret" not in first + second
    assert {record.request_id for record in caplog.records if record.name == NAME} == {"mine"}  # type: ignore[attr-defined]


def test_prompts_stand_at_debug_and_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    ask({"enable_log_requests": True, "max_log_len": 6}, {"prompt": ["secret prompt", "two\nlines"]}, {"prompt": [1, 2, 3, 4, 5, 6, 7, 8]})
    lines = told(caplog)
    assert lines[0].startswith("INFO cmpl-mine: model 'tiny', 22 prompt tokens in 2 prompts, n=1")
    assert [line for line in lines if line.startswith("DEBUG")] == [
        "DEBUG cmpl-mine: prompt 0: secret",
        "DEBUG cmpl-mine: prompt 1: two\nli",  # the formats keep it on a line
        "DEBUG cmpl-mine: prompt 0: [1, 2, 3, 4, 5, 6]",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_outputs_are_told_at_the_end_and_cut(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    ask({"enable_log_requests": True, "enable_log_outputs": True, "max_log_len": 8}, {"prompt": "x", "n": 2, "stream": stream})
    _, *outputs = told(caplog)
    assert len(outputs) == 2
    for index, line in enumerate(outputs):
        assert line.startswith(f"INFO cmpl-mine: choice {index}, ")
        assert line.endswith(" tokens, stop: hello wo")


def test_outputs_need_requests() -> None:
    assert log_problems(LogConfig(enable_log_outputs=True)) == ["--enable-log-outputs needs --enable-log-requests: add it"]
    assert log_problems(LogConfig(enable_log_outputs=True, enable_log_requests=True)) == []


@pytest.mark.parametrize("asked", [False, True])
def test_the_stack_of_an_error_is_there_when_asked_for(asked: bool, caplog: pytest.LogCaptureFixture) -> None:
    with ApiServer(logs={"log_error_stack": asked}) as server:
        assert server.post("/v1/completions", {"promt": "x"}, headers={"x-request-id": "mine"}).status_code == 400
        server.engine.fail_after = 1
        assert "something broke" in server.post("/v1/completions", {"prompt": "x", "stream": True}).text
    stacks = [record for record in caplog.records if record.exc_info and record.name == "headway.server.api.errors"]
    assert len(stacks) == (2 if asked else 0)
    if asked:
        assert stacks[0].getMessage() == "Request mine is answered 400"
        assert "GenerationFailed: something broke" in caplog.text
