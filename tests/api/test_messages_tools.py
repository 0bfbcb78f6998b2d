"""Messages with tools, thinking and formats, as Anthropic's client reads them, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types import Message
from api_server import ApiServer
from pydantic import BaseModel

TOOLS = [
    {"name": name, "description": "d", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    for name in ("weather", "time")
]
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 200, "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer(chat={"reasoning_parser": "qwen3"}, max_model_len=4096) as server:
        yield server


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def is_streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def said(server: ApiServer, text: str, is_streamed: bool, **fields: Any) -> Message:
    server.engine.text = text
    with server.anthropic() as client:
        if not is_streamed:
            return client.messages.create(**BODY, **fields)
        with client.messages.stream(**BODY, **fields) as stream:
            return stream.get_final_message()


def content_of(message: Message) -> list[tuple[str, Any]]:
    told = {"thinking": "thinking", "text": "text", "tool_use": "input"}
    return [(block.type, getattr(block, told[block.type])) for block in message.content]


def test_the_model_may_call(server: ApiServer, is_streamed: bool) -> None:
    text = '<think>hm</think>Let me see.<tool_call>{"name": "weather", "arguments": {"city": "Köln\\u2028"}}</tool_call>'
    message = said(server, text, is_streamed, tools=TOOLS)
    assert content_of(message) == [("thinking", "hm"), ("text", "Let me see."), ("tool_use", {"city": "Köln\u2028"})]
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.type == "tool_use"
    assert call.name == "weather"
    results = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]}]
    with server.anthropic() as client:
        server.engine.text = "It rains."
        messages: Any = [*BODY["messages"], {"role": "assistant", "content": [block.to_dict() for block in message.content]}, *results]
        answer = client.messages.create(**{**BODY, "messages": messages}, tools=TOOLS)  # type: ignore[arg-type]
    assert content_of(answer) == [("text", "It rains.")]
    assert answer.stop_reason == "end_turn"


def test_the_model_must_call(server: ApiServer, is_streamed: bool) -> None:
    text = '[{"name": "weather", "parameters": {"city": "a"}}, {"name": "time", "parameters": {}}]'
    message = said(server, text, is_streamed, tools=TOOLS, tool_choice={"type": "any"})
    assert content_of(message) == [("tool_use", {"city": "a"}), ("tool_use", {})]
    one = said(server, text, is_streamed, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert content_of(one) == [("tool_use", {"city": "a"})]
    named = said(server, '{"city": "b"}', is_streamed, tools=TOOLS, tool_choice={"type": "tool", "name": "weather"})
    assert content_of(named) == [("tool_use", {"city": "b"})]
    assert named.stop_reason == one.stop_reason == message.stop_reason == "tool_use"
    assert server.engine.requests[-1].sampling.grammar is not None


def test_the_model_may_not_call(server: ApiServer, is_streamed: bool) -> None:
    message = said(server, "[1]", is_streamed, tools=TOOLS, tool_choice={"type": "none"})
    assert (content_of(message), message.stop_reason) == ([("text", "[1]")], "end_turn")


def test_a_call_that_is_cut(server: ApiServer, is_streamed: bool) -> None:
    text = '{"city": "' + "very " * 100
    message = said(server, text, is_streamed, tools=TOOLS, tool_choice={"type": "tool", "name": "weather"})
    assert message.stop_reason == "max_tokens"
    assert [kind for kind, _ in content_of(message)] == ["tool_use"]


def test_thinking(server: ApiServer, is_streamed: bool) -> None:
    text = "<think>hm</think>\n\nSo."
    message = said(server, text, is_streamed, thinking={"type": "enabled", "budget_tokens": 1024})
    assert content_of(message) == [("thinking", "hm"), ("text", "So.")]
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens > 0
    omitted = said(server, text, is_streamed, thinking={"type": "adaptive", "display": "omitted"})
    assert content_of(omitted) == [("thinking", ""), ("text", "So.")]
    disabled = said(server, text, is_streamed, thinking={"type": "disabled"})
    assert content_of(disabled) == [("text", "So.")]


class City(BaseModel):
    name: str
    size: int


def test_a_format(server: ApiServer, is_streamed: bool) -> None:
    server.engine.text = '{"name": "Köln", "size": 1}'
    with server.anthropic() as client:
        if is_streamed:
            with client.messages.stream(**BODY, output_format=City) as stream:
                parsed = stream.get_final_message().parsed_output
        else:
            parsed = client.messages.parse(**BODY, output_format=City).parsed_output
    assert parsed == City(name="Köln", size=1)
    grammar = server.engine.requests[-1].sampling.grammar
    assert grammar is not None
    assert '"size"' in grammar.source


def test_a_format_that_can_not_be_kept_to_is_named_in_anthropics_words(server: ApiServer) -> None:
    for fields in (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nonsense"}}}},
        {"output_format": {"type": "json_schema", "schema": {"type": "nonsense"}}},
    ):
        answer = server.post("/v1/messages", BODY | fields)
        assert answer.status_code == 400
        told = answer.json()["error"]
        assert (told["type"], told["param"]) == ("invalid_request_error", "output_config.format")
        assert "response_format" not in told["message"]
