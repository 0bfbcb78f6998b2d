"""The access log: a line an answer, and what it tells of the request."""

from __future__ import annotations

import hashlib
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
NAME = "headway.access"


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


def test_it_tells_what_a_generation_took_and_gave(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    keys = {"api_key": ["plain"]}
    with ApiServer(security=keys) as server:
        num_output = len(server.tokenizer.encode("hello world", add_special_tokens=False)) + 1
        for stream in (False, True):
            body = {"prompt": "four", "n": 2, "stream": stream}
            assert server.post("/v1/completions", body, headers={"authorization": "Bearer plain"}).status_code == 200
        batch = '{"prompt": "four"}\n{"prompt": "four", "max_tokens": 1}\n'
        headers = {"authorization": "Bearer plain", "content-type": "application/jsonlines"}
        assert server.client.post("/invocations", content=batch, headers=headers).status_code == 200
        server.engine.is_endless = True
        with server.client.stream(
            "POST", "/v1/completions", json={"prompt": "x", "stream": True}, headers={"authorization": "Bearer plain"}
        ):
            pass
        server.wait_for(lambda: len(lines(caplog)) == 4)
    whole, stream_line, lines_of_batch, left = lines(caplog)
    for line in (whole, stream_line):
        told = {name: getattr(line, name) for name in ("status", "prompt_tokens", "completion_tokens", "cached_tokens", "finish_reason")}
        assert told == {"status": 200, "prompt_tokens": 4, "completion_tokens": 2 * num_output, "cached_tokens": 3, "finish_reason": "stop"}
        assert 0 < line.duration_s < 60  # type: ignore[attr-defined]
    assert lines_of_batch.prompt_tokens == 8  # type: ignore[attr-defined]
    assert lines_of_batch.finish_reason == "length,stop"  # type: ignore[attr-defined]
    assert left.finish_reason == "abort"  # type: ignore[attr-defined]


def test_a_client_that_leaves_before_its_answer_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with ApiServer() as server:
        server.engine.gate.clear()
        server.leave("/v1/completions", {"prompt": "x"}, lambda: server.engine.num_open_requests == 1)
        server.wait_for(lambda: len(lines(caplog)) == 1)
    assert lines(caplog)[0].getMessage().endswith(' - "POST /v1/completions HTTP/1.1" 499')


def test_the_name_of_a_key_is_told_and_the_key_is_not(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, NAME)
    (tmp_path / "keys").write_text(f"alice=sha256:{hashlib.sha256(b's3cret').hexdigest()}\n")
    with ApiServer(security={"api_key_file": str(tmp_path / "keys")}) as server:
        server.client.get("/v1/models", headers={"authorization": "Bearer s3cret"})
    (line,) = lines(caplog)
    assert line.api_key == "alice"  # type: ignore[attr-defined]
    assert "s3cret" not in str(line.__dict__)


def test_a_websocket_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with ApiServer(security={"api_key": ["k"]}) as server:
        url = server.url.replace("http", "ws") + "/invocations-bidirectional-stream"
        with pytest.raises(InvalidStatus), connect(url):
            pass
        with connect(url, additional_headers={"authorization": "Bearer k", "x-request-id": "mine"}) as conversation:
            conversation.send('{"prompt": "four"}')
            conversation.recv(timeout=60)
        server.wait_for(lambda: len(lines(caplog)) == 2)
    refused, served = lines(caplog)
    assert refused.getMessage().endswith(' - "WebSocket /invocations-bidirectional-stream" 401')
    assert served.getMessage().endswith(' - "WebSocket /invocations-bidirectional-stream" 101')
    assert (served.request_id, served.prompt_tokens) == ("mine", 4)  # type: ignore[attr-defined]


def test_which_paths_are_left_out_can_be_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with ApiServer(logs={"disable_access_log_for_endpoints": ["/version/", "/v1/models"]}) as server:
        for path in ("/version", "/v1/models", "/v1/models/tiny", "/ping"):
            server.client.get(path)
    assert [line.getMessage().split()[3] for line in lines(caplog)] == ["/v1/models/tiny", "/ping"]


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


def test_nothing_of_a_request_ends_its_part_of_the_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    forged = '9.9.9.9:1 - "GET /forged HTTP/1.1" 200'
    with ApiServer() as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f'GET /x?a"200&b=%20c HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {forged}\r\n\r\n'.encode())
        assert raw.recv(12) == b"HTTP/1.1 404"
        server.wait_for(lambda: len(lines(caplog)) == 1)
    client, _, rest = lines(caplog)[0].getMessage().partition(" ")
    assert client == "9.9.9.9:1%20-%20%22GET%20%2Fforged%20HTTP%2F1.1%22%20200:0"
    assert rest == '- "GET /x?a%22200&b=%20c HTTP/1.1" 404'
