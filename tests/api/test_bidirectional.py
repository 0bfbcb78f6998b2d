"""The WebSocket /invocations-bidirectional-stream, with a real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from api_server import ApiServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from headway.server.api.sagemaker import bidirectional
from headway.server.api.websocket_protocol import MAX_FRAMES

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
STREAM = {"prompt": "x", "stream": True}
END = {"object": "stream.end"}
TIMEOUT_S = 10


@contextmanager
def connected(server: ApiServer, **headers: str) -> Iterator[ClientConnection]:
    url = server.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream"
    with connect(url, additional_headers={name.replace("_", "-"): value for name, value in headers.items()}, max_size=None) as socket:
        yield socket


def receive(socket: ClientConnection) -> dict[str, Any]:
    frame = socket.recv(timeout=TIMEOUT_S)
    assert isinstance(frame, str), "answers are text frames"
    answer: dict[str, Any] = json.loads(frame)
    return answer


def ask(socket: ClientConnection, body: Any) -> dict[str, Any]:
    socket.send(json.dumps(body))
    return receive(socket)


def receive_stream(socket: ClientConnection) -> str:
    text = ""
    while (chunk := receive(socket)) != END:
        text += chunk["choices"][0]["text"]
    return text


def close_code(socket: ClientConnection) -> int:
    """Reads what is left, until the server closes."""
    with suppress(ConnectionClosed):
        for _ in socket:
            pass
    assert socket.close_code is not None
    return socket.close_code


def test_responses_are_kept_for_the_key_of_the_handshake() -> None:
    key = {"Authorization": "Bearer secret"}
    with ApiServer(security={"api_key": ["secret"]}) as server:
        headers = {**key, "X_Amzn_SageMaker_Custom_Attributes": "route=/v1/responses"}
        with connected(server, **headers) as socket:
            first = ask(socket, {"input": "Ada"})
            socket.send(json.dumps({"input": "Who?", "previous_response_id": first["id"], "stream": True}))
            types = [receive(socket).get("type")]
            while types[-1] is not None:
                types.append(receive(socket).get("type"))
        assert types[-2] == "response.completed"
        assert server.client.get(f"/v1/responses/{first['id']}", headers=key).status_code == 200


def test_messages_are_requests_of_any_shape(server: ApiServer) -> None:
    with connected(server) as socket:
        assert ask(socket, CHAT)["object"] == "chat.completion"
        assert ask(socket, {"prompt": "x", "model": ""})["choices"][0]["text"] == "hello world"
        assert ask(socket, {"tokens": [104, 105]}) == {"prompt": "hi"}
        socket.send(b'\xef\xbb\xbf{"prompt": "x"}')  # binary, with a byte order mark
        assert receive(socket)["object"] == "text_completion"
        socket.send(['{"prom', 'pt": "x"}'])  # one message in two frames
        assert receive(socket)["object"] == "text_completion"


def test_streams_end_with_a_frame_that_says_so(server: ApiServer) -> None:
    with connected(server) as socket:
        for _ in range(2):
            socket.send(json.dumps(STREAM))
            assert receive_stream(socket) == "hello world"
        chunk = ask(socket, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
        assert chunk["choices"][0]["delta"]["role"] == "assistant"
        last: dict[str, Any] = {}
        while (chunk := receive(socket)) != END:
            last = chunk
        assert last["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", 400), ("{", 400), ("[]", 400), ("{}", 400), (b"\xff\xfe", 400), ('{"input": "x"}', 400), ('{"prompt": "x", "n": 0}', 400),
        ('{"prompt": "x", "model": "gpt-7"}', 404),
    ],
)  # fmt: skip
def test_errors_are_frames_and_the_connection_lives(server: ApiServer, message: str | bytes, code: int) -> None:
    with connected(server) as socket:
        socket.send(message)
        assert receive(socket)["error"]["code"] == code
        assert "choices" in ask(socket, CHAT)


def test_failures_of_the_engine_and_bugs_too(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(server) as socket:
        server.engine.fail_after = 1
        assert "choices" in ask(socket, STREAM)
        assert receive(socket)["error"]["message"] == "something broke"
        server.engine.fail_after = None
        with monkeypatch.context() as patch:
            patch.setattr(server.tokenizer, "encode_batch", None)
            message = ask(socket, STREAM)["error"]["message"]
        assert "NoneType" not in message
        assert "request id" in message
        server.engine.max_open = 0
        assert ask(socket, STREAM)["error"]["code"] == 503
        server.engine.max_open = None
        assert "choices" in ask(socket, CHAT)
    server.wait_for(lambda: server.engine.num_open_requests == 0)


def test_messages_wait_their_turn(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as socket:
        for number in range(5):
            socket.send(json.dumps({**CHAT, "request_id": f"r{number}"}))
        server.wait_for(lambda: len(server.engine.requests) == 1)
        server.on_loop(server.engine.gate.set)
        assert [receive(socket)["id"] for _ in range(5)] == [f"chatcmpl-r{number}" for number in range(5)]


def test_too_many_that_wait_end_the_connection(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as socket:
        for _ in range(bidirectional.MAX_WAITING + 2):
            socket.send(json.dumps(CHAT))
        assert close_code(socket) == 1013
    server.wait_for(lambda: server.engine.num_open_requests == 0)
    assert len(server.engine.aborted_ids) == 1


def test_too_many_bytes_that_wait_do_too() -> None:
    with ApiServer(overload={"max_request_body_bytes": 10_000}) as server:
        server.engine.gate.clear()
        with connected(server) as socket:
            socket.send(json.dumps(CHAT))
            for _ in range(3):
                socket.send(json.dumps({**CHAT, "user": "u" * 6000}))
            assert close_code(socket) == 1013


@pytest.mark.parametrize("is_fragmented", [False, True])
def test_a_message_above_the_body_limit_ends_the_connection(is_fragmented: bool) -> None:
    with ApiServer(overload={"max_request_body_bytes": 10_000}) as server, connected(server) as socket:
        for _ in range(2):  # what has been answered counts no more
            assert "choices" in ask(socket, {**CHAT, "user": "u" * 9000})
        large = " " * 6000
        socket.send([large, large] if is_fragmented else large + large)
        assert close_code(socket) == 1009


def test_a_message_of_endless_frames_ends_the_connection(server: ApiServer) -> None:
    text = json.dumps(CHAT)
    with connected(server) as socket:
        socket.send([text, *[""] * (MAX_FRAMES - 2)])  # the client adds a last one
        assert "choices" in receive(socket)
        with suppress(ConnectionClosed):
            # No more behind the one too many: what the server leaves unread would reset the connection before the code is read.
            socket.send([text, *[""] * (MAX_FRAMES - 1)])
        assert close_code(socket) == 1009


def test_a_client_that_leaves_ends_the_work(server: ApiServer) -> None:
    server.engine.is_endless = True
    with connected(server) as socket:
        ask(socket, {**STREAM, "max_tokens": 250})
        socket.send(json.dumps(CHAT))
    server.wait_for(lambda: server.engine.num_open_requests == 0 and server.drain.num_held == 0)
    assert len(server.engine.aborted_ids) == len(server.engine.requests) == 1


def test_a_connection_that_breaks_ends_the_work(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as socket:
        socket.send(json.dumps(CHAT))
        server.wait_for(lambda: server.engine.num_open_requests == 1)
        socket.socket.shutdown(2)
        server.wait_for(lambda: server.engine.num_open_requests == 0)


def test_a_drain_closes_idle_connections_at_once(server: ApiServer) -> None:
    with connected(server) as socket:
        ask(socket, CHAT)
        assert server.drain.num_held == 1
        server.on_loop(server.drain.begin)
        assert close_code(socket) == 1001
    server.wait_for(lambda: server.drain.num_held == 0)
    with connected(server) as late:
        assert close_code(late) == 1001


def test_a_drain_finishes_the_answer_under_way(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as socket:
        socket.send(json.dumps(STREAM))
        socket.send(json.dumps(CHAT))
        server.wait_for(lambda: server.engine.num_open_requests == 1)
        server.on_loop(server.drain.begin)
        assert server.drain.num_held == 1
        server.on_loop(server.engine.gate.set)
        assert receive_stream(socket) == "hello world"
        assert close_code(socket) == 1001
    assert len(server.engine.requests) == 1


def test_before_the_model_is_ready() -> None:
    with ApiServer(is_ready=False) as server, connected(server) as socket:
        server.engine.phase = "loading weights"
        assert "loading weights" in ask(socket, CHAT)["error"]["message"]


def test_the_key_guards_it() -> None:
    with ApiServer(security={"api_key": ["a-key"]}) as server:
        for headers in ({}, {"authorization": "Bearer b-key"}):
            with pytest.raises(InvalidStatus) as caught, connected(server, **headers):
                pass
            assert caught.value.response.status_code == 401
            assert caught.value.response.body is not None
            assert json.loads(caught.value.response.body)["error"]["type"] == "AuthenticationError"
        with connected(server, authorization="Bearer a-key") as socket:
            assert "choices" in ask(socket, CHAT)


def test_the_handshake_s_attributes_hold_for_every_message(server: ApiServer) -> None:
    with connected(server, X_Amzn_SageMaker_Custom_Attributes="route=/tokenize") as socket:
        assert "tokens" in ask(socket, {"prompt": "x"})
    with connected(server, X_Amzn_SageMaker_Custom_Attributes="route=/metrics") as socket:
        assert ask(socket, {"prompt": "x"})["error"]["code"] == 400


def test_pings_are_answered_while_an_answer_is_under_way(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as socket:
        socket.send(json.dumps(CHAT))
        server.wait_for(lambda: server.engine.num_open_requests == 1)
        assert socket.ping().wait(TIMEOUT_S)
        server.on_loop(server.engine.gate.set)
        assert "choices" in receive(socket)
