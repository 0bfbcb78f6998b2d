"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's own client sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from api_server import ApiServer

from headway.server.api.paths import GENERATION_PATHS, INFERENCE_PATHS, is_generation

USER = {"role": "user", "content": "x"}
CACHED_TEXT = {"type": "text", "text": "y", "cache_control": {"type": "ephemeral"}}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cch=1"}
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 50, "messages": [USER]}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    """One for all tests here: they change nothing but the engine's text."""
    shared.engine.text, shared.engine.is_endless, shared.engine.fail_after = "hello world", False, None
    shared.engine.requests.clear()
    return shared


def prompt_of(server: ApiServer) -> str:
    return server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Each with the name that its ``event:`` line gives."""
    events = []
    for text in response.text.split("\n\n")[:-1]:
        name, data = text.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def test_a_message_whole_and_streamed(server: ApiServer) -> None:
    client = server.anthropic()
    whole = client.messages.create(**BODY)
    assert [block.to_dict() for block in whole.content] == [{"text": "hello world", "type": "text"}]
    assert whole.id.startswith("msg_")
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", "tiny")
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    with client.messages.stream(**BODY) as stream:
        assert "".join(stream.text_stream) == "hello world"
        streamed = stream.get_final_message()
    for told in ("model", "role", "stop_reason", "stop_sequence", "usage"):
        assert getattr(streamed, told) == getattr(whole, told)
    assert [block.text for block in streamed.content if block.type == "text"] == ["hello world"]


def test_the_events_are_framed_and_ordered_as_anthropics(server: ApiServer) -> None:
    response = server.post("/v1/messages", {**BODY, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["stop_reason"] is None
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert "[DONE]" not in response.text


def test_usage_counts_cached_tokens_apart(server: ApiServer) -> None:
    usage = server.anthropic().messages.create(**BODY).usage
    num_prompt = len(server.engine.requests[-1].prompt_token_ids)
    assert usage.cache_read_input_tokens == 4  # the engine says so
    assert usage.input_tokens == num_prompt - 4
    events = events_of(server.post("/v1/messages", {**BODY, "stream": True}))
    assert events[-2]["usage"] == {name: count for name, count in usage.to_dict().items() if count is not None}
    assert events[0]["message"]["usage"]["input_tokens"] == usage.input_tokens


def test_why_it_stopped(server: ApiServer) -> None:
    create = server.anthropic().messages.create
    cut = create(**{**BODY, "max_tokens": 2})
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)
    assert cut.usage.output_tokens == 2
    stopped = create(**BODY, stop_sequences=["zz", "o w"])
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].to_dict()["text"]) == ("stop_sequence", "o w", "hell")
    streamed = events_of(server.post("/v1/messages", {**BODY, "stop_sequences": ["o w"], "stream": True}))
    assert streamed[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "o w"}


def test_sampling_reaches_the_engine(server: ApiServer) -> None:
    sampled = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3}
    assert server.post("/v1/messages", BODY | sampled | {"priority": 2, "cache_salt": "s"}).status_code == 200
    request = server.engine.requests[-1]
    assert (request.priority, request.cache_salt) == (2, "s")
    assert {name: getattr(request.sampling, name) for name in sampled} == sampled
    assert request.sampling.max_tokens == 50


CONVERSATIONS: list[tuple[dict[str, Any], str]] = [
    ({"system": "S"}, "<system>S|<user>x|<assistant>"),
    (
        {"system": [BILLING, {"type": "text", "text": "S"}]},
        "<system>S|<user>x|<assistant>",
    ),
    (
        {"messages": [USER, {"role": "user", "content": [CACHED_TEXT]}]},
        "<user>x\ny|<assistant>",
    ),
    ({"messages": [USER, {"role": "assistant", "content": "The"}]}, "<user>x|<assistant>The"),
    ({"messages": [USER, {"role": "system", "content": "S"}, USER]}, "<user>x|<system>S|<user>x|<assistant>"),
]


@pytest.mark.parametrize(("fields", "prompt"), CONVERSATIONS)
def test_the_prompt_is_the_conversation(server: ApiServer, fields: dict[str, Any], prompt: str) -> None:
    assert server.post("/v1/messages", BODY | fields).status_code == 200
    assert prompt_of(server) == prompt
    counted = server.anthropic().messages.count_tokens(**({"model": "tiny", "messages": [USER]} | fields))
    assert counted.input_tokens == len(server.engine.requests[-1].prompt_token_ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "service_tier": "auto"},
        {"cache_control": {"type": "ephemeral"}, "betas": ["a-2025"]},
        {"anthropic_version": "bedrock-2023-05-31", "anthropic_beta": ["b"]},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"thinking": {"type": "disabled"}, "speed": "standard", "container": None},
    ],
)
def test_what_clients_send_beside_the_question(server: ApiServer, fields: dict[str, Any]) -> None:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x,y"}
    assert server.post("/v1/messages?beta=true", BODY | fields, headers=headers).status_code == 200


BLOCKS = "messages.0.content"
REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"max_tokens": None}, "max_tokens", "max_tokens is required."),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"stop_sequences": ["a"] * 20}, "stop_sequences", "stop_sequences holds 20 strings; at most 16"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools.0.type", "tools that the provider runs"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name", "tools.0.name must be"),
    ({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}, "tools.0.input_schema", "tools.0.input_schema must be a JSON schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice", "tool_choice needs tools"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "send both, or neither"),
    (
        {"tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "b"}},
        "tool_choice.name",
        "names 'b', which is none of tools",
    ),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens", "1024"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits.0", "edits no conversation"),
    ({"mcp_servers": [{}]}, "mcp_servers", "not supported"),
    ({"max_token": 5}, "max_token", "did you mean max_tokens?"),
    ({"system": [{"type": "image"}]}, "system.0", "only text can stand here"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "must be user, assistant or system, got 'tool'"),
    ({"messages": [{"role": "user", "content": 5}]}, BLOCKS, "a text or a list of blocks"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, f"{BLOCKS}.0", "an object with a type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, f"{BLOCKS}.0.text", "must be a text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        f"{BLOCKS}.0",
        "'image', which this model",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, f"{BLOCKS}.0", "no place in a message of the role user"),
    ({"messages": [{"role": "user", "content": []}]}, "messages", "send a message of the user"),
    (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]},
        "messages.1",
        "send what answers it",
    ),
]


@pytest.mark.parametrize(("fields", "param", "reason"), REFUSALS)
def test_refusals_name_the_field_in_anthropics_form(server: ApiServer, fields: dict[str, Any], param: str, reason: str) -> None:
    response = server.post("/v1/messages", BODY | fields)
    assert response.status_code == 400
    told = response.json()
    assert (told["type"], told["error"]["type"], told["error"]["param"]) == ("error", "invalid_request_error", param)
    assert reason in told["error"]["message"]
    assert told["request_id"] == response.headers["request-id"]
    assert not server.engine.requests


def test_a_template_that_refuses_names_no_field_of_a_chat(server: ApiServer) -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": float(5)}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]}
    body = BODY | {"messages": [USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]}
    told = server.post("/v1/messages", body).json()["error"]
    assert told["param"] == "messages.2.content.0.content.0"


def test_a_stream_that_fails_half_way(server: ApiServer) -> None:
    server.engine.fail_after = 2
    response = server.post("/v1/messages", {**BODY, "stream": True})
    last = events_of(response)[-1]
    assert (last["type"], last["error"]["type"], last["error"]["message"]) == ("error", "api_error", "something broke")
    with server.anthropic() as client, pytest.raises(anthropic.APIStatusError, match="something broke"):
        list(client.messages.create(**BODY, stream=True))


def test_a_silent_stream_pings() -> None:
    with ApiServer(http={"sse_keep_alive_interval": 0.02}) as server:
        server.engine.gate.clear()
        with server.client.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as response:
            lines = response.iter_lines()
            assert [next(lines) for _ in range(2)] == ["event: ping", 'data: {"type":"ping"}']
            server.on_loop(server.engine.gate.set)
            assert "event: message_stop" in list(lines)
        server.engine.gate.clear()
        with server.anthropic().messages.stream(**BODY) as stream:
            server.on_loop(server.engine.gate.set)
            assert stream.get_final_text() == "hello world"


def test_invocations_answer_them_by_route(server: ApiServer) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "route=/v1/messages"}
    assert server.post("/invocations", BODY, headers=headers).json()["content"] == [{"type": "text", "text": "hello world"}]
    assert events_of(server.post("/invocations", {**BODY, "stream": True}, headers=headers))[-1] == {"type": "message_stop"}


def test_metrics_are_told_where_they_are_asked_for() -> None:
    with ApiServer(http={"enable_per_request_metrics": True}) as server:
        assert server.post("/v1/messages", BODY).json()["metrics"]["time_to_first_token_ms"] > 0
        assert events_of(server.post("/v1/messages", {**BODY, "stream": True}))[-1]["metrics"]["time_to_first_token_ms"] > 0


def test_they_count_as_generation(server: ApiServer) -> None:
    """For the gate of overload, traces, the load and ORCA."""
    for path in GENERATION_PATHS:
        assert is_generation({"type": "http", "method": "POST", "path": path})
    assert {"/v1/messages", "/v1/messages/count_tokens"} <= INFERENCE_PATHS
    assert not is_generation({"type": "http", "method": "POST", "path": "/v1/messages/count_tokens"})
    answer = server.post("/v1/messages", BODY, headers={"endpoint-load-metrics-format": "TEXT"})
    assert answer.headers["endpoint-load-metrics"]
    assert server.post("/v1/messages/count_tokens", {"messages": [USER]}).status_code == 200
    metrics = server.client.get("/metrics").text
    assert 'handler="/v1/messages"' in metrics
    assert 'handler="/v1/messages/count_tokens"' in metrics
