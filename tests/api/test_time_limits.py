"""Time limits: of the server, of a request, of the queue; in whole answers, streams, batches and WebSockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import httpx
import openai
import pytest
from api_server import ApiServer
from websockets.sync.client import connect

from headway.server.api.deadline import Deadline
from headway.server.errors import RequestTimedOut

PROMPT = {"prompt": "x"}
SHORT = {"overload": {"request_timeout": 1.0}}


def metric(server: ApiServer, name: str, label: str) -> float:
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(name) and label in line]
    return float(lines[0].rpartition(" ")[2])


def error_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (504, 504, "TimeoutError")
    return str(error["message"])


def last_events(answer: httpx.Response) -> tuple[dict[str, Any], str]:
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return json.loads(events[-2])["error"], events[-1]


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"prompt": "x", "n": 3}])
def test_the_server_s_limit_ends_an_answer_that_has_not_begun(body: dict[str, Any]) -> None:
    with ApiServer(**SHORT) as server:
        server.engine.gate.clear()
        answer = server.post("/v1/completions", body)
        assert error_of(answer) == "The request did not end within 1 s, the limit that --request-timeout sets, and was ended."
        assert answer.headers["x-should-retry"] == "false"
        num_choices = body.get("n", 1)
        assert len(server.engine.aborted_ids) == num_choices
        assert server.engine.num_open_requests == 0
        assert metric(server, "vllm:request_success_total", 'finished_reason="timeout"') == num_choices
        server.on_loop(server.engine.gate.set)
        assert server.post("/v1/completions", body).status_code == 200


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_says_it_in_an_event(n: int) -> None:
    with ApiServer(max_model_len=100_000, **SHORT) as server:
        server.engine.is_endless = True
        answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 90_000, "stream": True, "n": n})
        assert answer.status_code == 200
        error, end = last_events(answer)
        assert error["code"] == 504
        assert end == "[DONE]"
        assert '"text":' in answer.text  # what had come by then
        assert server.engine.num_open_requests == 0


def test_a_reader_that_does_not_read_keeps_nothing_in_the_engine() -> None:
    with ApiServer(**SHORT) as server, socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
        server.engine.gate.clear()
        body = json.dumps({"prompt": "x", "stream": True}).encode()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        server.wait_for(lambda: bool(server.engine.aborted_ids))


def test_the_openai_client_does_not_try_again() -> None:
    with ApiServer(**SHORT) as server, server.openai().with_options(max_retries=2) as client:
        server.engine.gate.clear()
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="tiny", prompt="x")
        assert caught.value.status_code == 504
        assert len(server.engine.requests) == 1


def test_a_header_and_a_field_shorten_it_only() -> None:
    with ApiServer(overload={"request_timeout": 0.3}) as server:
        server.engine.gate.clear()
        asked = [
            ({"timeout": 0.05}, {}, "0.05 s, the limit that the field timeout"),
            ({}, {"X-Request-Timeout": "0.05"}, "0.05 s, the limit that the header X-Request-Timeout"),
            ({"timeout": 0.06}, {"X-Request-Timeout": "0.05"}, "0.05 s, the limit that the header X-Request-Timeout"),
            ({"timeout": 60}, {"X-Request-Timeout": "60"}, "0.3 s, the limit that --request-timeout"),
        ]
        for fields, headers, words in asked:
            assert words in error_of(server.post("/v1/completions", {**PROMPT, **fields}, headers=headers))


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1s", "9" * 1000])
def test_a_header_that_is_no_number_of_seconds(server: ApiServer, text: str) -> None:
    answer = server.post("/v1/completions", PROMPT, headers={"X-Request-Timeout": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Timeout"


@pytest.mark.parametrize("value", [0, -1, "soon"])
def test_a_field_that_is_no_number_of_seconds(server: ApiServer, value: Any) -> None:
    answer = server.post("/v1/completions", {**PROMPT, "timeout": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "timeout"


def test_very_long_limits_are_taken(server: ApiServer) -> None:
    assert server.post("/v1/completions", {**PROMPT, "timeout": 1e300}, headers={"X-Request-Timeout": "1e300"}).status_code == 200


def test_the_time_of_the_body_counts(server: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-timeout: 0.05\r\ncontent-length: 100\r\n\r\n{")
        assert raw.recv(65536).startswith(b"HTTP/1.1 504 ")
    assert server.engine.requests == []


def test_the_time_of_the_queue() -> None:
    with ApiServer(overload={"queue_timeout": 5.0}) as server:
        server.engine.queue_timed_out = True
        answer = server.post("/v1/completions", {**PROMPT, "n": 2})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["message"] == "it waited in vain"
        assert {request.queue_timeout_s for request in server.engine.requests} == {5.0}
        error, end = last_events(server.post("/v1/completions", {**PROMPT, "stream": True}))
        assert (error["code"], end) == (503, "[DONE]")
        assert metric(server, "vllm:admission_rejections_total", 'reason="queue_timeout"') == 2
        assert metric(server, "vllm:request_success_total", 'finished_reason="queue_timeout"') == 3  # each choice


def test_each_line_of_a_batch_has_its_own_time() -> None:
    with ApiServer(**SHORT) as server:
        server.engine.gate.clear()
        headers = {"content-type": "application/jsonlines"}
        num_lines = 70  # more than run at a time
        lines = server.client.post("/invocations", content=b'{"prompt": "x"}\n' * num_lines, headers=headers).text.splitlines()
        assert [json.loads(line)["error"]["code"] for line in lines] == [504] * num_lines
        server.on_loop(server.engine.gate.set)
        limited = server.client.post("/invocations", content=b'{"prompt": "x"}\n', headers={**headers, "X-Request-Timeout": "20"})
        assert "choices" in limited.json()


def test_the_header_of_a_handshake_is_for_each_message(server: ApiServer) -> None:
    url = server.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream"
    server.engine.gate.clear()
    with connect(url, additional_headers={"X-Request-Timeout": "0.05"}) as ws:
        for _ in range(2):
            ws.send(json.dumps(PROMPT))
            assert "the header X-Request-Timeout" in json.loads(ws.recv(timeout=60))["error"]["message"]
    with connect(url, additional_headers={"X-Request-Timeout": "soon"}) as ws:
        ws.send(json.dumps(PROMPT))
        assert json.loads(ws.recv(timeout=60))["error"]["code"] == 400


def test_each_message_of_a_websocket_has_its_own_time() -> None:
    with ApiServer(**SHORT) as server, connect(server.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream") as ws:
        server.engine.gate.clear()
        for _ in range(3):
            ws.send(json.dumps(PROMPT))
        for _ in range(3):
            assert json.loads(ws.recv(timeout=60))["error"]["code"] == 504
        server.on_loop(server.engine.gate.set)
        ws.send(json.dumps(PROMPT))
        assert "choices" in json.loads(ws.recv(timeout=60))


def test_what_comes_to_its_turn_too_late_is_not_begun() -> None:
    """Where the time ran out in a thread, which nothing can cancel: reading a long prompt."""

    async def main() -> None:
        deadline = Deadline.begin().within(0.001, "the test")
        deadline.check()
        time.sleep(0.002)
        with pytest.raises(RequestTimedOut, match="the limit that the test sets"):
            deadline.check()

    asyncio.run(main())
