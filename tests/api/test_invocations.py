"""/invocations: shapes, routes by attribute, forms of the answer, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import ApiServer

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
STREAM = {"prompt": "x", "stream": True}
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> Iterator[ApiServer]:
    yield shared
    shared.engine.requests.clear()
    shared.engine.fail_after = None


def invoke(server: ApiServer, body: Any, **headers: str) -> httpx.Response:
    return server.post("/invocations", body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] in (status, "previous_response_not_found")
    assert len(error["message"]) < 500
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "member", "value"),
    [
        (CHAT, "object", "chat.completion"),
        ({**CHAT, "model": ""}, "model", "tiny"),
        ({**CHAT, "model": None, "prompt": None}, "model", "tiny"),
        ({"prompt": "x"}, "object", "text_completion"),
        ({"prompt": "hell", "return_token_strs": True}, "token_strs", ["hell"]),
        ({**CHAT, "return_token_strs": False}, "token_strs", None),
        ({"tokens": [104, 105]}, "prompt", "hi"),
    ],
)
def test_the_body_tells_what_is_asked_for(server: ApiServer, body: dict[str, Any], member: str, value: Any) -> None:
    answer = invoke(server, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()[member] == value
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("body", "api"),
    [
        ({"input": "x"}, "Embeddings"),
        ({"text_1": "a", "text_2": "b"}, "Score"),
        ({"data_1": "a", "data_2": "b"}, "Score"),
        ({"queries": "a", "documents": ["b"]}, "Score"),
        ({"queries": "a", "items": ["b"]}, "Score"),
        ({"query": "a", "documents": ["b"]}, "Rerank"),
        ({"input": "a", "task": "embed"}, "Pooling"),
    ],
)
def test_what_generative_models_lack_is_said_so(server: ApiServer, body: dict[str, Any], api: str) -> None:
    message = refused(invoke(server, {"model": "", **body}))
    assert message.startswith(f"The model does not support {api}")
    assert "messages" in message
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({**CHAT, "prompt": "x"}, ["messages", "prompt"]),
        ({**CHAT, "tokens": [1]}, ["messages", "tokens"]),
        ({"prompt": "x", "input": "y"}, ["prompt", "input"]),
        ({"text_1": "a"}, ["text_1"]),
        ({"documents": []}, ["documents"]),
        ({"return_token_strs": True}, ["return_token_strs"]),
        ({"temperature": 1}, ["messages", "prompt"]),
        ({}, ["messages", "prompt"]),
    ],
)
def test_a_body_of_no_one_shape_is_refused(server: ApiServer, body: dict[str, Any], names: list[str]) -> None:
    answer = invoke(server, body)
    assert all(name in refused(answer) for name in names)
    assert answer.json()["error"]["param"] == names[0]
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ("route=/v1/completions", "text_completion"),
        ("trace=7,route=/v1/completions", "text_completion"),
        ("trace=7; route = /v1/completions ;x", "text_completion"),
        ("route=/tokenize", None),
        ("see route=/tokenize", "text_completion"),
        ("plain words", "text_completion"),
    ],
)
def test_an_attribute_selects_the_route_and_comes_back(server: ApiServer, attributes: str, kind: str | None) -> None:
    answer = server.post("/invocations", {"prompt": "hell"}, headers={ATTRIBUTES: attributes})
    assert answer.json().get("object") == kind
    assert ("tokens" in answer.json()) == (kind is None)
    assert answer.headers[ATTRIBUTES] == attributes


@pytest.mark.parametrize(("attributes", "status"), [(b"caf\xe9", 200), (b"a" * 1025, 400)])
def test_attributes_that_sagemaker_would_not_send_do_not_come_back(server: ApiServer, attributes: bytes, status: int) -> None:
    answer = server.client.post("/invocations", json={"prompt": "x"}, headers=[(ATTRIBUTES.encode(), attributes)])
    assert answer.status_code == status
    assert ATTRIBUTES not in answer.headers


@pytest.mark.parametrize(
    "route",
    ["/metrics", "/adapters", "/v1/models", "/ping", "", "v1/completions", "/v1/completions/", "//v1/completions",
     "/v1/completions,route=/tokenize", "/invocations", "http://x/v1/completions"],
)  # fmt: skip
def test_other_routes_can_not_be_reached(server: ApiServer, route: str) -> None:
    message = refused(server.post("/invocations", {"prompt": "x"}, headers={ATTRIBUTES: f"route={route}"}))
    assert "/v1/completions" in message or "more than one" in message
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("route", "body"),
    [
        *((route, {"input": "x"}) for route in ("/v1/embeddings", "/classify", "/pooling")),
        *((route, {"text_1": "x", "text_2": "y"}) for route in ("/score", "/v1/score")),
        *((route, {"query": "x", "documents": ["y"]}) for route in ("/rerank", "/v1/rerank", "/v2/rerank")),
    ],
)
def test_routes_of_other_tasks_say_why_not(server: ApiServer, route: str, body: dict[str, Any]) -> None:
    message = refused(server.post("/invocations", body, headers={ATTRIBUTES: f"route={route}"}))
    assert message.startswith("The model does not support")


def test_responses_are_asked_for_by_route_and_remembered(server: ApiServer) -> None:
    headers = {ATTRIBUTES: "route=/v1/responses"}
    first = server.post("/invocations", {"input": "Ada"}, headers=headers).json()
    assert first["object"] == "response"
    body = {"input": "Who?", "previous_response_id": first["id"]}
    answer = server.post("/invocations", {**body, "stream": True}, headers=headers)
    assert "event: response.completed" in answer.text
    assert "[DONE]" not in answer.text
    counted = server.post("/invocations", body, headers={ATTRIBUTES: "route=/v1/responses/input_tokens"}).json()
    assert counted["input_tokens"] == len(server.engine.requests[1].prompt_token_ids)
    assert refused(server.post("/invocations", {**body, "previous_response_id": "resp_x"}, headers=headers), 404)


def test_a_route_s_own_rules_hold(server: ApiServer) -> None:
    answer = server.post("/invocations", CHAT, headers={ATTRIBUTES: "route=/v1/completions"})
    assert "messages" in refused(answer)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream", "text/html, */*;q=0.1", ""])
def test_streams_are_events_unless_lines_are_asked_for(server: ApiServer, accept: str) -> None:
    answer = invoke(server, STREAM, accept=accept)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "accept", ["application/jsonlines", "application/x-ndjson", "application/x-jsonlines;q=0.9, text/event-stream;q=0.1"]
)
def test_a_stream_of_lines(server: ApiServer, accept: str) -> None:
    answer = invoke(server, STREAM, accept=accept)
    assert answer.headers["content-type"] == accept.partition(";")[0]
    chunks = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello world"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("accept", ["text/event-stream", "application/jsonlines"])
def test_an_error_in_a_stream_is_its_last_chunk(server: ApiServer, accept: str) -> None:
    server.engine.fail_after = 2
    answer = invoke(server, {**CHAT, "stream": True}, accept=accept)
    assert answer.status_code == 200
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line and line != "data: [DONE]"]
    assert json.loads(lines[-1])["error"]["message"] == "something broke"
    assert answer.text.endswith("[DONE]\n\n") == (accept == "text/event-stream")


def test_whole_answers_are_json_in_any_of_its_names(server: ApiServer) -> None:
    for accept in ("application/json", "*/*", "application/jsonlines", "text/event-stream, application/json"):
        answer = invoke(server, CHAT, accept=accept)
        assert answer.headers["content-type"] in (accept, "application/json")
        assert answer.json()["object"] == "chat.completion"
        assert answer.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(("body", "accept"), [(CHAT, "text/event-stream"), (CHAT, "text/csv"), (STREAM, "text/csv"), (STREAM, "*/*;q=0")])
def test_what_can_not_be_accepted_is_not_begun(server: ApiServer, body: dict[str, Any], accept: str) -> None:
    assert "application/json" in refused(invoke(server, body, accept=accept), 406)
    assert server.engine.requests == []


@pytest.mark.parametrize("kind", ["text/plain", "text/csv", "application/x-www-form-urlencoded", "application/json;charset=utf-7", "x"])
def test_other_bodies_are_a_415(server: ApiServer, kind: str) -> None:
    answer = server.client.post("/invocations", content=b'{"prompt": "x"}', headers={"content-type": kind})
    assert "JSON" in refused(answer, 415) or "application/json" in refused(answer, 415)


@pytest.mark.parametrize("kind", [None, "application/json", "application/json; charset=UTF-8", "application/vnd.api+json"])
def test_json_bodies_with_a_byte_order_mark(server: ApiServer, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = server.client.post("/invocations", content=b'\xef\xbb\xbf{"prompt": "x"}', headers=headers)
    assert answer.status_code == 200, answer.text


def test_bodies_above_the_limit() -> None:
    with ApiServer(overload={"max_request_body_bytes": 2000}) as server:
        for kind in ("application/json", "application/jsonlines"):
            answer = server.client.post("/invocations", content=b"x" * 3000, headers={"content-type": kind})
            refused(answer, 413)
            refused(server.client.post("/invocations", content=(b"x" * 100 for _ in range(30)), headers={"content-type": kind}), 413)


@pytest.mark.parametrize(
    ("sagemaker", "body_limit", "expected"),
    [
        ({}, 16 * 2**20, (64, "MULTI_RECORD", 1)),
        ({"max_concurrent_transforms": 4}, 16 * 2**20, (4, "MULTI_RECORD", 16)),
        ({"max_concurrent_transforms": 8}, 2**30, (8, "MULTI_RECORD", 12)),
        ({"max_concurrent_transforms": 500, "batch_strategy": "SINGLE_RECORD"}, 1024, (100, "SINGLE_RECORD", 1)),
    ],
)
def test_execution_parameters(sagemaker: dict[str, Any], body_limit: int, expected: tuple[int, str, int]) -> None:
    with ApiServer(sagemaker=sagemaker, overload={"max_request_body_bytes": body_limit}) as server:
        names = ("MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB")
        assert server.client.get("/execution-parameters").json() == dict(zip(names, expected, strict=True))
        server.engine.phase = "loading weights"
        refused(server.client.get("/execution-parameters"), 503)
