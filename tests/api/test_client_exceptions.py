"""Every error, as the official clients of OpenAI and Anthropic raise it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from api_server import ApiServer

from headway.server.api.errors import error_type

KEY = "secret-key"
BEARER = {"authorization": f"Bearer {KEY}"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
MESSAGE: dict[str, Any] = {**CHAT, "max_tokens": 8}
CHATS, COMPLETIONS, INVOCATIONS = "/v1/chat/completions", "/v1/completions", "/invocations"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
LARGE = {"X-Padding": "x" * 70_000}
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With one slot for adapters, which a pinned one has, and one more registered."""
    directory: Path = tmp_path_factory.mktemp("adapter")
    (directory / "adapter_config.json").write_text("{}")
    options: dict[str, dict[str, Any]] = {
        "security": {"api_key": [KEY]},
        "overload": {"max_request_body_bytes": 20_000},
        "lora": {"enable_lora": True, "max_loras": 1, "lora_allowed_prefixes": [str(directory)]},
        "sagemaker": {"enable_stateful_sessions": True},
    }
    with ApiServer(**options) as server:
        for name, pin in (("pinned", True), ("waiting", False)):
            adapter = {"name": name, "src": str(directory), "pin": pin, "preload": pin}
            server.post("/adapters", adapter, headers=BEARER).raise_for_status()
        yield server


@pytest.fixture
def server(shared: ApiServer) -> Iterator[ApiServer]:
    yield shared
    engine = shared.engine
    engine.max_open, engine.fail_after, engine.phase = None, None, "ready"
    shared.on_loop(engine.gate.set)


def is_well(server: ApiServer) -> None:
    pass


def fails(server: ApiServer) -> None:
    server.engine.fail_after = 0


def is_full(server: ApiServer) -> None:
    server.engine.max_open = 0


def starts(server: ApiServer) -> None:
    server.engine.phase = "loading weights"


def hangs(server: ApiServer) -> None:
    server.on_loop(server.engine.gate.clear)


State = Callable[[ApiServer], None]
Headers = dict[str, str]
# Status, exception, path, body, param, the server's state, headers.
OF_OPENAI: list[tuple[int, type[Exception], str, dict[str, Any], str | None, State, Headers]] = [
    (400, openai.BadRequestError, CHATS, CHAT | {"temperature": 9}, "temperature", is_well, {}),
    (400, openai.BadRequestError, COMPLETIONS, {"prompt": "x" * 500}, "prompt", is_well, {}),
    (401, openai.AuthenticationError, CHATS, CHAT, None, is_well, {"Authorization": "Bearer wrong"}),
    (404, openai.NotFoundError, CHATS, CHAT | {"model": "other"}, "model", is_well, {}),
    (404, openai.NotFoundError, "/v1/nowhere", CHAT, None, is_well, {}),
    (405, openai.APIStatusError, "/v1/models", CHAT, None, is_well, {}),
    (406, openai.APIStatusError, INVOCATIONS, CHAT, None, is_well, {"Accept": "text/csv"}),
    (409, openai.ConflictError, "/adapters", {"name": "pinned"}, "name", is_well, {}),
    (413, openai.APIStatusError, CHATS, CHAT | {"user": "x" * 20_000}, None, is_well, {}),
    (415, openai.APIStatusError, CHATS, CHAT, None, is_well, TEXT),
    (424, openai.APIStatusError, INVOCATIONS, {"requestType": "CLOSE"}, None, is_well, {}),
    (431, openai.APIStatusError, CHATS, CHAT, None, is_well, LARGE),
    (500, openai.InternalServerError, CHATS, CHAT, None, fails, {}),
    (500, openai.InternalServerError, COMPLETIONS, {"prompt": "x"}, None, fails, {}),
    (503, openai.InternalServerError, CHATS, CHAT, None, is_full, {}),
    (503, openai.InternalServerError, COMPLETIONS, {"prompt": "x"}, None, starts, {}),
    (504, openai.InternalServerError, CHATS, CHAT | {"timeout": 0.01}, None, hangs, {}),
    (507, openai.InternalServerError, CHATS, CHAT | {"model": "waiting"}, None, is_well, {}),
]
# Likewise, with the type of the error behind the exception.
OF_ANTHROPIC: list[tuple[int, type[Exception], str, str, dict[str, Any], str | None, State, Headers]] = [
    (400, anthropic.BadRequestError, "invalid_request_error", MESSAGES, CHAT, "max_tokens", is_well, {}),
    (400, anthropic.BadRequestError, "invalid_request_error", COUNT, {"messages": 1}, "messages", is_well, {}),
    (401, anthropic.AuthenticationError, "authentication_error", MESSAGES, MESSAGE, None, is_well, {}),
    (404, anthropic.NotFoundError, "not_found_error", COUNT, CHAT | {"model": "other"}, "model", is_well, {}),
    (404, anthropic.NotFoundError, "not_found_error", "/v1/messages/batches", {}, None, is_well, {}),
    (413, anthropic.ContentTooLargeError, "request_too_large", MESSAGES, MESSAGE | {"system": "x" * 20_000}, None, is_well, {}),
    (415, anthropic.APIStatusError, "invalid_request_error", MESSAGES, MESSAGE, None, is_well, TEXT),
    (431, anthropic.RequestHeaderFieldsTooLargeError, "invalid_request_error", MESSAGES, MESSAGE, None, is_well, LARGE),
    (500, anthropic.InternalServerError, "api_error", MESSAGES, MESSAGE, None, fails, {}),
    (503, anthropic.ServiceUnavailableError, "overloaded_error", MESSAGES, MESSAGE, None, is_full, {}),
    (503, anthropic.ServiceUnavailableError, "overloaded_error", MESSAGES, MESSAGE, None, starts, {}),
    (504, anthropic.GatewayTimeoutError, "timeout_error", MESSAGES, MESSAGE | {"timeout": 0.01}, None, hangs, {}),
    (507, anthropic.InternalServerError, "overloaded_error", MESSAGES, MESSAGE | {"model": "waiting"}, None, is_well, {}),
]


@pytest.mark.parametrize(("status", "exception", "path", "body", "param", "state", "headers"), OF_OPENAI)
def test_openais_client(
    server: ApiServer,
    status: int,
    exception: type[Exception],
    path: str,
    body: dict[str, Any],
    param: str | None,
    state: State,
    headers: Headers,
) -> None:
    state(server)
    if path == "/adapters":
        body = body | {"src": server.config.lora.lora_allowed_prefixes[0]}
    with server.openai(api_key=KEY) as client, pytest.raises(exception) as raised:
        client.post(f"{server.url}{path}", cast_to=object, body=body, options={"headers": headers})
    error = raised.value
    assert isinstance(error, openai.APIStatusError)
    assert type(error) is exception
    assert (error.status_code, error.code, error.type, error.param) == (status, str(status), error_type(status), param)
    assert isinstance(error.body, dict)
    assert error.body["message"].endswith((".", "broke"))


@pytest.mark.parametrize(("status", "exception", "kind", "path", "body", "param", "state", "headers"), OF_ANTHROPIC)
def test_anthropics_client(
    server: ApiServer,
    status: int,
    exception: type[Exception],
    kind: str,
    path: str,
    body: dict[str, Any],
    param: str | None,
    state: State,
    headers: Headers,
) -> None:
    state(server)
    with server.anthropic(api_key="wrong" if status == 401 else KEY) as client, pytest.raises(exception) as raised:
        client.post(path, cast_to=object, body=body, options={"headers": headers})
    error = raised.value
    assert isinstance(error, anthropic.APIStatusError)
    assert type(error) is exception
    assert (error.status_code, error.type) == (status, kind)
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    told = error.body["error"]
    assert (told["code"], told["param"], told["message"]) == (status, param, error.api_message)
    if status != 431:  # it never became a request
        assert error.body["request_id"] == error.request_id


@pytest.mark.parametrize("path", [CHATS, COMPLETIONS])
def test_openais_client_in_a_stream(server: ApiServer, path: str) -> None:
    server.engine.fail_after = 2
    body: dict[str, Any] = {"model": "tiny", "stream": True, **(CHAT if path == CHATS else {"prompt": "x"})}
    with server.openai(api_key=KEY) as client, pytest.raises(openai.APIError, match="something broke") as raised:
        list(client.chat.completions.create(**body) if path == CHATS else client.completions.create(**body))
    assert (raised.value.code, raised.value.type) == ("500", "InternalServerError")


def test_anthropics_client_in_a_stream(server: ApiServer) -> None:
    server.engine.fail_after = 2
    with server.anthropic(api_key=KEY) as client, pytest.raises(anthropic.APIStatusError, match="something broke") as raised:
        list(client.messages.create(model="tiny", stream=True, **MESSAGE))
    assert raised.value.type == "api_error"


def test_a_method_that_a_route_has_not(server: ApiServer) -> None:
    with server.anthropic(api_key=KEY) as client, pytest.raises(anthropic.APIStatusError) as raised:
        client.get(MESSAGES, cast_to=object)
    assert (raised.value.status_code, raised.value.type) == (405, "invalid_request_error")


def test_a_bug_has_the_familys_form(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_over() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.engine, "on_admit", fall_over)
    with server.anthropic(api_key=KEY) as client, pytest.raises(anthropic.InternalServerError, match="its log says why") as raised:
        client.messages.create(model="tiny", **MESSAGE)
    assert raised.value.type == "api_error"


def test_whether_clients_try_again(server: ApiServer) -> None:
    """At once they get the same answer; Retry-After, and x-should-retry where it is in vain, are what they go by."""
    is_full(server)
    for path in (CHATS, MESSAGES):
        assert server.post(path, MESSAGE, headers=BEARER).headers["retry-after"] == "3"
    server.engine.max_open = None
    hangs(server)
    for path in (CHATS, MESSAGES):
        assert server.post(path, MESSAGE | {"timeout": 0.01}, headers=BEARER).headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEY}, 200),
        (BEARER, 200),
        ({"x-api-key": "other", **BEARER}, 200),
        ({"x-api-key": KEY, "authorization": "Bearer other"}, 200),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        ({"x-api-key": f"Bearer {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({}, 401),
    ],
)
def test_keys_of_either_header(server: ApiServer, headers: Headers, status: int) -> None:
    for path in (MESSAGES, COUNT):
        answer = server.post(path, MESSAGE if path == MESSAGES else CHAT, headers=headers)
        assert answer.status_code == status
        assert KEY[:-1] not in answer.text
    if status == 401:
        assert "KEY`" in answer.json()["error"]["message"]


def test_that_header_is_no_key_elsewhere(server: ApiServer) -> None:
    for path in (CHATS, INVOCATIONS, "/v1/messagesx"):
        answer = server.post(path, CHAT, headers={"x-api-key": KEY})
        assert answer.status_code == 401
        assert "x-api-key" not in answer.text


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n",
]


@pytest.mark.parametrize("garbage", NO_HTTP)
def test_what_is_no_http_is_told_so_in_our_form(server: ApiServer, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(garbage)
        head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert json.loads(body)["error"] | {"message": ""} == {"message": "", "type": "BadRequestError", "param": None, "code": 400}
