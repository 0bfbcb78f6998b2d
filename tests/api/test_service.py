"""Keys, ids, documentation, SageMaker's headers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from api_server import ApiServer
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def test_the_key_guards_every_route_but_four() -> None:
    with ApiServer(security={"api_key": ["first-key", "second-key"]}) as server:
        paths = [route.path for route in server.app.routes if isinstance(route, Route)]
        assert {"/docs", "/openapi.json", "/invocations", "/v1/chat/completions", "/tokenize", "/load"} <= set(paths)
        for path in [*paths, "/nowhere", "//ping", "/ping/../v1/models", "/v1/ping"]:
            for method in ("GET", "POST"):
                status = server.client.request(method, path).status_code
                if path in ("/ping", "/health", "/metrics", "/metrics/", "/version"):
                    assert status in (200, 405), path
                else:
                    assert status == 401, path
        for header in ("first-key", "Basic first-key", "Bearer", "Bearer third", "Bearer first-key2", "Bearer first-kéy"):
            answer = server.client.get("/v1/models", headers={"authorization": header.encode()})
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "AuthenticationError"
            assert answer.headers["www-authenticate"] == "Bearer"
        for header in ("Bearer first-key", "bearer second-key"):
            assert server.client.get("/v1/models", headers={"authorization": header}).status_code == 200
        assert server.client.options("/v1/models").status_code == 401
        with server.openai(api_key="second-key") as client:
            assert client.chat.completions.create(model="tiny", **CHAT).choices


def test_a_root_path_does_not_open_the_door() -> None:
    with ApiServer(security={"api_key": ["a-key"]}, network={"root_path": "/models"}) as server:
        assert server.client.get("/ping").status_code == 200
        assert server.client.get("/v1/models").status_code == 401


def test_request_ids_come_back_when_asked() -> None:
    with ApiServer(http={"enable_request_id_headers": True}, security={"api_key": ["a-key"]}) as server:
        assert server.client.get("/ping", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        assert server.client.get("/nowhere", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        fresh = server.client.get("/ping", headers={"x-request-id": "a b"}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", fresh)
        url = server.url.replace("http", "ws") + "/invocations-bidirectional-stream"
        with connect(url, additional_headers={"authorization": "Bearer a-key", "x-request-id": "abc"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-request-id"] == "abc"
            for number in (0, 1):
                socket.send('{"prompt": "x"}')
                assert json.loads(socket.recv(timeout=60))["id"] == f"cmpl-abc-{number}"
        with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers={"x-request-id": "abc"}):
            pass
        assert refused.value.response.headers["x-request-id"] == "abc"
    with ApiServer() as server:
        assert "x-request-id" not in server.client.get("/ping").headers


def test_invocations_takes_chats_and_completions_and_echoes_attributes(server: ApiServer) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1"}
    chat = server.post("/invocations", CHAT, headers=headers)
    assert chat.json()["object"] == "chat.completion"
    assert chat.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert "content-length" in chat.headers
    plain = server.post("/invocations", {"prompt": "x", "model": ""})
    assert plain.json()["object"] == "text_completion"
    assert "x-amzn-sagemaker-custom-attributes" not in plain.headers
    stream = server.post("/invocations", {**CHAT, "stream": True}, headers=headers)
    assert stream.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert stream.text.endswith("data: [DONE]\n\n")


def test_several_names_for_one_model() -> None:
    with ApiServer(model={"model": "tiny", "served_model_name": ["main", "alias"]}) as server:
        assert [card["id"] for card in server.client.get("/v1/models").json()["data"]] == ["main", "alias"]
        assert server.post("/v1/completions", {"prompt": "x", "model": "alias"}).json()["model"] == "main"
        assert server.post("/v1/completions", {"prompt": "x", "model": "tiny"}).status_code == 404
