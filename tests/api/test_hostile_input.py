"""Requests that were made to hurt: refused early, with little work, and never with a 500."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.api.errors import error_json
from headway.server.api.off_loop import in_parser, off_loop
from headway.server.api.paths import route_path
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.parse import MAX_CONTAINERS, parse_request, shortened
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.config.connections import ConnectionsConfig
from headway.server.errors import RequestError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
MANY = 5000
MAX_HEAD_BYTES = ConnectionsConfig().h11_max_incomplete_event_size


@pytest.fixture(scope="module")
def server() -> Any:
    with ApiServer() as server:
        yield server


def refused(answer: Any, param: str | None) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert len(error["message"]) < 400
    return str(error["message"])


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (ChatCompletionRequest, {"messages": [1] * MANY}, "messages.0"),
        (ChatCompletionRequest, {**CHAT, "tools": [1] * MANY}, "tools"),
        (ChatCompletionRequest, {**CHAT, "stop": [1] * MANY}, "stop"),
        (ChatCompletionRequest, {**CHAT, "stop_token_ids": ["x"] * MANY}, "stop_token_ids.0"),
        (ChatCompletionRequest, {**CHAT, "logit_bias": {f"x{i}": 1 for i in range(MANY)}}, "logit_bias"),
        (ChatCompletionRequest, {**CHAT, "stream_options": {f"x{i}": 1 for i in range(MANY)}}, "stream_options"),
        (ChatCompletionRequest, {**CHAT, "chat_template_kwargs": {f"x{i}": 1 for i in range(MANY)}}, "chat_template_kwargs"),
        (ChatCompletionRequest, {**CHAT, "metadata": {f"x{i}": 1 for i in range(MANY)}}, "metadata"),
        (TokenizeRequest, {"messages": [1] * MANY}, "messages.0"),
        (TokenizeRequest, {**CHAT, "tools": [1] * MANY}, "tools"),
        (DetokenizeRequest, {"tokens": ["x"] * MANY}, "tokens.0"),
    ],
)
def test_only_the_first_bad_item_is_reported(model: type, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(model, fields)
    assert caught.value.param == param
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.error_count() <= 2  # type: ignore[attr-defined]


def test_error_texts_look_at_the_beginning_of_a_value_only() -> None:
    class Unshown(dict[str, int]):
        shown = 0

        def __repr__(self) -> str:
            Unshown.shown += 1
            return "an item"

    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    for value in ([[Unshown() for _ in range(MANY)]], {"a": {i: Unshown() for i in range(MANY)}}, deep, "x" * 10**6, 10**4000):
        assert len(shortened(value)) <= 80
    assert Unshown.shown <= 100


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ("/tokenize", {"messages": [{"role": "user", "tool_calls": ["x"]}]}, "messages.0.tool_calls"),
        ("/tokenize", {"messages": [{"content": "x"}]}, "messages.0.role"),
        ("/tokenize", {"prompt": "x y" * 10_000}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x y" * 10_000}]}, "messages"),
        ("/detokenize", {"tokens": [2**32]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [1] * 257}, "tokens"),
        ("/v1/completions", {"prompt": [10**6] * 300}, "prompt"),
        ("/v1/completions", {"prompt": [10**4000]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": [["x"] * 1000] * 100}]}]}, "messages.0.content.0"),
    ],
)
def test_what_was_a_500_or_long_work_is_a_400(server: ApiServer, path: str, body: dict[str, Any], param: str) -> None:
    refused(server.post(path, body), param)
    assert server.engine.requests == []


def test_ids_are_counted_before_they_are_looked_at(server: ApiServer) -> None:
    assert "300 tokens" in refused(server.post("/v1/completions", {"prompt": [10**6] * 300}), "prompt")


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"x": ' * 100_000, '{"x": "\\ud800"}', '{"x": NaN}', "[1]"])
def test_arguments_of_tool_calls(server: ApiServer, arguments: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    for path in ("/v1/chat/completions", "/tokenize"):
        refused(server.post(path, body), "messages.0.tool_calls.0.function.arguments")


def test_more_containers_than_any_request_has(server: ApiServer) -> None:
    body = b'{"prompt": [' + b",".join([b"[]"] * (MAX_CONTAINERS + 1)) + b"]}"
    for path in ("/v1/completions", "/invocations"):
        assert "brackets" in refused(server.client.post(path, content=body), None)


def test_large_bodies_are_parsed_one_at_a_time_beside_the_loop() -> None:
    large = 10**6
    threads = set()

    def note_thread() -> None:
        threads.add(threading.get_ident())

    async def main() -> None:
        await asyncio.gather(*(in_parser(large, note_thread) for _ in range(8)))

    asyncio.run(main())
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    asyncio.run(in_parser(100, note_thread))
    assert threading.get_ident() in threads


def test_an_error_text_with_half_a_character_can_be_sent() -> None:
    assert json.loads(error_json(RequestError("bad \ud800.", "x\udfff")))["error"]["message"] == "bad ?."


@pytest.mark.parametrize(
    "body",
    [
        {"messages": CHAT["messages"], "tools": [{"type": "x" * 5000}]},
        {"messages": CHAT["messages"], "chat_template_kwargs": {"x" * 5000: 1}},
        {"messages": CHAT["messages"], "chat_template_kwargs": {"x": list(range(2000))}},
        {"prompt": [1] * 2000},
    ],
)
def test_long_requests_leave_the_loop_whatever_makes_them_long(body: dict[str, Any]) -> None:
    import anyio

    async def thread_of(body: dict[str, Any]) -> int:
        return await off_loop(len(json.dumps(body).encode()), threading.get_ident)

    assert anyio.run(thread_of, body) != threading.get_ident()
    assert anyio.run(thread_of, CHAT) == threading.get_ident()


@pytest.mark.parametrize(
    ("field", "value", "is_refused"),
    [
        ("guided_regex", "", False),
        ("allowed_token_ids", [], True),
        ("structured_outputs", {}, False),
        ("use_beam_search", False, False),
        ("kv_transfer_params", {}, False),
        ("length_penalty", 1, False),
        ("length_penalty", 0, True),
        ("truncate_prompt_tokens", 0, True),
        ("stream_interval", 0, True),
        ("spaces_between_special_tokens", True, False),
    ],
)
def test_values_that_ask_for_nothing(field: str, value: Any, is_refused: bool) -> None:
    fields = {**CHAT, field: value}
    if not is_refused:
        parse_request(ChatCompletionRequest, fields)
        return
    with pytest.raises(RequestError) as caught:
        parse_request(ChatCompletionRequest, fields)
    assert caught.value.param == field


def test_max_tokens_0_with_a_prompt_that_fills_the_context(server: ApiServer) -> None:
    answer = server.post("/v1/completions", {"prompt": [1] * 256, "max_tokens": 0, "echo": True})
    assert answer.status_code == 200, answer.text
    assert server.engine.requests[-1].sampling.max_tokens == 0
    assert answer.json()["usage"]["completion_tokens"] == 0
    server.engine.requests.clear()


def exchange(server: ApiServer, *pieces: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=60) as raw:
        for piece in pieces:
            try:
                raw.sendall(piece)
            except OSError:
                break  # closed: what it said before can still be read
        try:
            while data := raw.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    return received


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /" + b"x" * (MAX_HEAD_BYTES + 100)],
        [HEAD + b"a: " + b"x" * (MAX_HEAD_BYTES + 100)],
        [HEAD, *[b"a: " + b"x" * 8000 + b"\r\n"] * 10],
        [HEAD + b"a: b\r\n" * 12_000 + b"\r\n"],
        [HEAD + b"connection: upgrade\r\nupgrade: websocket\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"],
        [b"GET /version HTTP/1.1\r\nhost: x\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\nGET /version HTTP/1.1\r\nhost: x\r\n\r\n"],
    ],
)
def test_an_endless_head_is_cut(server: ApiServer, pieces: list[bytes]) -> None:
    head, _, body = exchange(server, *pieces).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == 431
    assert server.client.get("/version").status_code == 200


def test_the_limits_of_a_head_are_options() -> None:
    with ApiServer(connections={"h11_max_incomplete_event_size": 1024, "h11_max_header_count": 6}) as server:
        assert b"more than 1024 bytes" in exchange(server, b"GET /version HTTP/1.1\r\nhost: x\r\na: " + b"x" * 1100 + b"\r\n\r\n")
        answer = exchange(server, HEAD + b"content-length: 2\r\n" + b"a: b\r\n" * 5 + b"\r\n{}")
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"more than 6 headers" in answer
        upgrade = b"GET /invocations-bidirectional-stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        assert exchange(server, upgrade + b"a: b\r\n" * 4 + b"\r\n").startswith(b"HTTP/1.1 431 ")
        # Trailers count too, and cut an answer that has not begun, or one that has.
        trailers = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 5
        assert b"more than 6 headers" not in exchange(server, HEAD + trailers + b"\r\n")
        assert exchange(server, HEAD + b"connection: close\r\na: b\r\n\r\n").startswith(b"HTTP/1.1 4")
        assert server.client.get("/version").status_code == 200


def test_endless_trailers_are_cut(server: ApiServer) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n"
    exchange(server, chunked, *[b"a: " + b"x" * 8000 + b"\r\n"] * 20)
    assert server.client.get("/version").status_code == 200


def test_heads_below_the_limit_and_bodies_above_it_pass(server: ApiServer) -> None:
    headers = {"a": "x" * (MAX_HEAD_BYTES - 2000)}
    for _ in range(3):  # the count starts again with each request of a connection
        assert server.client.get("/version", headers=headers).status_code == 200
    answer = server.post("/v1/completions", {"prompt": "x", "user": "u" * 300_000})
    assert answer.status_code == 200, answer.text
    chunks = (b" " * 50 for _ in range(3000))
    refused(server.client.post("/v1/completions", content=chunks, headers={"content-type": "application/json"}), None)
    server.engine.requests.clear()


def test_an_empty_model_name_and_unknown_paths(server: ApiServer) -> None:
    assert server.client.get("/v1/models/").status_code == 404
    assert "/docs" in server.client.get("/nowhere").json()["error"]["message"]
    with ApiServer(http={"disable_fastapi_docs": True}, network={"root_path": "/pre/"}, security={"api_key": ["k"]}) as quiet:
        answer = quiet.client.get("/nowhere", headers={"authorization": "Bearer k"})
        assert answer.status_code == 404
        assert "/docs" not in answer.text
        assert "/nowhere" in answer.text
        assert quiet.client.get("/ping").status_code == 200
        assert quiet.client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", "/ping", "/ping"),
        ("/x", "/x/ping", "/ping"),
        ("/x", "/x", "/"),
        ("/x/", "/x//ping", "/ping"),
        ("/", "//ping", "/ping"),
        ("/x", "/xping", "/xping"),
        ("/x", "/y/ping", "/y/ping"),
    ],
)
def test_the_path_below_the_root(root: str, path: str, expected: str) -> None:
    assert route_path({"type": "http", "path": path, "root_path": root}) == expected
