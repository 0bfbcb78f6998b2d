"""Limits on what is open: who is refused, when, and how; and that a refusal costs the client nothing but the answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from api_server import ApiServer
from websockets.sync.client import connect

# Larger than what is read in any case.
PROMPT = {"prompt": "x", "user": "u" * 300}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "user": "u" * 300}


@pytest.fixture
def full(server: ApiServer) -> ApiServer:
    server.engine.max_open = 0
    return server


def rejections(server: ApiServer) -> dict[str, float]:
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("vllm:admission_rejections_total")]
    counts = {line.partition('reason="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}
    return {reason: count for reason, count in counts.items() if count}


@contextmanager
def connected(server: ApiServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as raw:
        yield raw


def read_answer(raw: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += raw.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += raw.recv(65536)
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT), ("/v1/responses", {"input": "x"}), ("/invocations", CHAT)],
)
def test_a_full_server_says_when_to_come_back(full: ApiServer, path: str, body: dict[str, Any]) -> None:
    answer = full.post(path, body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["type"] == "ServiceUnavailableError"
    assert rejections(full) == {"max_num_queued_reqs": 1}


def test_the_openai_client_takes_it_for_a_server_error(full: ApiServer) -> None:
    with full.openai() as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", **CHAT)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("framing", [b"content-length: 1000000\r\n", b"transfer-encoding: chunked\r\n"])
def test_it_answers_before_the_body_and_the_connection_goes_on(full: ApiServer, framing: bytes) -> None:
    with connected(full) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + framing + b"\r\n")
        status, headers, body = read_answer(raw)
        assert (status, headers["retry-after"]) == (503, "3")
        assert "queue is full" in json.loads(body)["error"]["message"]
        # The client goes on with its body, as most do, and then with another request.
        piece = b"x" * 100_000
        raw.sendall(piece * 10 if b"length" in framing else (b"186a0\r\n" + piece + b"\r\n") * 10 + b"0\r\n\r\n")
        raw.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_answer(raw)[0] == 200


def test_a_client_that_asks_first_is_not_told_to_go_on(full: ApiServer) -> None:
    with connected(full) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n")
        assert read_answer(raw)[0] == 503


def test_probes_and_management_are_never_refused(full: ApiServer) -> None:
    for path in ("/ping", "/health", "/metrics", "/load", "/version", "/v1/models"):
        assert full.client.get(path).status_code == 200
    assert full.post("/tokenize", {"prompt": "x" * 300}).status_code == 200
    assert full.post("/adapters", {"name": "x" * 300, "src": "y"}).status_code == 400  # adapters are off


def test_other_methods_are_told_so(full: ApiServer) -> None:
    assert full.client.get("/v1/completions").status_code == 405
    assert rejections(full) == {}


def test_the_key_comes_first() -> None:
    with ApiServer(security={"api_key": ["a-key"]}) as server:
        server.engine.max_open = 0
        assert server.post("/v1/completions", PROMPT).status_code == 401
        assert rejections(server) == {}


def test_sessions_can_be_closed() -> None:
    with ApiServer(sagemaker={"enable_stateful_sessions": True}) as server:
        opened = server.post("/invocations", {"requestType": "NEW_SESSION"}).json()["session_id"]
        server.engine.max_open = 0
        header = {"X-Amzn-SageMaker-Session-Id": opened}
        assert server.post("/invocations", CHAT, headers=header).status_code == 503
        assert server.post("/invocations", {"requestType": "CLOSE"}, headers=header).status_code == 200


def test_what_a_small_body_asks_for_is_refused_all_the_same(full: ApiServer) -> None:
    for path in ("/invocations", "/v1/completions"):
        assert full.post(path, {"prompt": "x"}).status_code == 503
    assert rejections(full) == {"max_num_queued_reqs": 2}


@pytest.mark.parametrize("body", [{"prompt": "x", "n": 3}, {"prompt": ["x", "y", "z"]}])
def test_choices_and_prompts_are_admitted_together_or_not_at_all(server: ApiServer, body: dict[str, Any]) -> None:
    server.engine.max_open = 2
    assert server.post("/v1/completions", body).status_code == 503
    assert server.engine.requests == []
    assert server.engine.aborted_ids == []
    assert rejections(server) == {"max_num_queued_reqs": 1}
    server.engine.max_open = 3
    assert len(server.post("/v1/completions", body).json()["choices"]) == 3


def test_messages_of_a_websocket(full: ApiServer) -> None:
    with connect(full.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream") as socket:
        socket.send(json.dumps(PROMPT))
        assert json.loads(socket.recv(timeout=60))["error"]["code"] == 503
        full.engine.max_open = 1
        socket.send(json.dumps(PROMPT))
        assert "choices" in json.loads(socket.recv(timeout=60))


def test_lines_of_a_batch_wait_for_room(full: ApiServer) -> None:
    full.engine.gate.clear()
    full.engine.max_open = 1
    with full.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
        full.on_loop(lambda: full.engine.gate.set())
        batch = full.client.post("/invocations", content=b'{"prompt": "x"}\n' * 2, headers={"content-type": "application/jsonlines"})
        answer.read()
    assert [json.loads(line)["object"] for line in batch.text.splitlines()] == ["text_completion"] * 2


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations"])
@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_compressed_bodies_are_refused_by_name(server: ApiServer, path: str, encoding: str) -> None:
    answer = server.client.post(path, content=b"\x1f\x8b", headers={"content-type": "application/json", "content-encoding": encoding})
    assert answer.status_code == 415
    assert f"Content-Encoding: '{encoding}'" in answer.json()["error"]["message"]
    plain = server.post(path, {"prompt": "x"}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


def test_a_body_longer_than_its_length_says_is_not_read_as_one(server: ApiServer) -> None:
    body = b'{"prompt": "x"}'
    with connected(server) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body + b"GARBAGE\r\n\r\n")
        assert read_answer(raw)[0] in (200, 400)  # the rest is no request, and may be noticed first
        while raw.recv(65536):
            pass  # and then the connection ends
    with connected(server) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")
