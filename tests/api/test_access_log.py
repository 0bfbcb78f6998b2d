"""The access log: a line an answer, and what it tells of the request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from api_server import ApiServer

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
NAME = "headway.server.api.access_log"


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == NAME]


def test_a_line_for_each_answer_with_the_ids_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    headers = {
        "X-Request-Id": "mine",
        "X-Amzn-SageMaker-Inference-Id": "inference-7",
        "X-Amzn-SageMaker-Prefix-Aware-Id": "p" * 200,
        "X-Amzn-SageMaker-Adapter-Identifier": "sql",
        "X-Amzn-SageMaker-Session-Id": "c46145e9-e8d6-4555-a54f-a06663f5555f",
    }
    with ApiServer() as server:
        assert server.client.post("/invocations?a=1", json=CHAT, headers=headers).status_code == 400
        server.client.get("/nowhere/ä")
        for path in ("/ping", "/health", "/metrics", "/load"):
            server.client.get(path)
    refused, missing = lines(caplog)
    assert refused.getMessage().endswith(' - "POST /invocations?a=1 HTTP/1.1" 400')
    told = {name: getattr(refused, name) for name in ("request_id", "inference_id", "adapter", "session_id", "prefix_id")}
    assert told == {"request_id": "mine", "inference_id": "inference-7", "adapter": "sql", "session_id": "c46145e9", "prefix_id": "p" * 128}
    assert missing.getMessage().endswith(' - "GET /nowhere/%C3%A4 HTTP/1.1" 404')
    assert missing.request_id  # type: ignore[attr-defined]
    assert not hasattr(missing, "inference_id")


def test_the_word_that_opens_a_session_is_no_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with ApiServer(sagemaker={"enable_stateful_sessions": True}) as server:
        server.client.post("/invocations", json=CHAT, headers={"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"})
    (line,) = lines(caplog)
    assert not hasattr(line, "session_id")


@pytest.mark.parametrize("logs", [{"disable_uvicorn_access_log": True}, {"uvicorn_log_level": "warning"}])
def test_without_access_log(logs: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with ApiServer(logs=logs) as server:
        server.post("/invocations", CHAT)
    assert not lines(caplog)
