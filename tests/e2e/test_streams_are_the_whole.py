"""What the demo model streams adds up to what it answers whole, on every route that generates, at temperature 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from event_readers import standard
from live_server import LiveServer

pytestmark = pytest.mark.e2e
ASK = "What is the weather in Paris, in celsius?"
MESSAGES = [{"role": "user", "content": ASK}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather in a city.", "parameters": WEATHER}
CHAT: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 60}
CHAT_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required", "parallel_tool_calls": False}
RESPONSE: dict[str, Any] = {"input": ASK, "temperature": 0, "max_output_tokens": 60}
RESPONSE_TOOLS = {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required", "parallel_tool_calls": False}
MESSAGE_TOOLS = {
    "tools": [{"name": "get_weather", "input_schema": WEATHER}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT | {"n": 2}),
    "chat, logprobs": ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}),
    "chat, cut": ("/v1/chat/completions", CHAT | {"max_tokens": 7}),
    "chat, tools": ("/v1/chat/completions", CHAT | CHAT_TOOLS),
    "chat, schema": ("/v1/chat/completions", CHAT | {"response_format": FORMAT}),
    "completion": ("/v1/completions", {"prompt": ["Paris is", "é"], "temperature": 0, "echo": True, "max_tokens": 20}),
    "response": ("/v1/responses", RESPONSE),
    "response, tools": ("/v1/responses", RESPONSE | RESPONSE_TOOLS),
    "response, schema": ("/v1/responses", RESPONSE | {"text": {"format": {"type": "json_schema", "name": "w", "schema": WEATHER}}}),
    "messages": ("/v1/messages", CHAT),
    "messages, tools": ("/v1/messages", CHAT | MESSAGE_TOOLS),
    "messages, schema": ("/v1/messages", CHAT | {"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("demo", "--dtype", "float32", "--max-model-len", "1024") as live:
        yield live.wait_ready()


@pytest.mark.parametrize("case", CASES)
def test_streamed_is_whole(server: LiveServer, case: str) -> None:
    path, body = CASES[case]
    # Without a cached prefix both requests take the same steps, and each log-probability has the same digits.
    whole_body, body = ({**body, "cache_salt": salt} if "logprobs" in body else body for salt in ("whole", "streamed"))
    whole = httpx.post(server.url + path, json=whole_body, timeout=60).raise_for_status().json()
    usage = {} if path in ("/v1/messages", "/v1/responses") else {"stream_options": {"include_usage": True}}
    streamed = httpx.post(server.url + path, json={**body, "stream": True, **usage}, timeout=60).raise_for_status()
    events = [json.loads(data) for _, data in standard([streamed.content]) if data != "[DONE]"]
    join = {"/v1/messages": _joined_message, "/v1/responses": _joined_response}.get(path, _joined_choices)
    content = _content(whole)
    assert _content(join(events)) == content
    if "tools" in body:
        jsonschema.validate(_first_call(content), WEATHER)
    elif case.endswith("schema"):
        jsonschema.validate(json.loads(_first_text(content)), WEATHER)


def _content(whole: dict[str, Any]) -> Any:
    """What must be equal: not ids and times, nor how much of a prompt was cached."""
    if "choices" in whole:
        usage = {name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        return [[_plain(choice) for choice in whole["choices"]], usage]
    if whole["object" if "object" in whole else "type"] == "response":
        return [_plain(whole["output"]), whole["status"], whole["incomplete_details"], whole["usage"]["output_tokens"]]
    return [_plain(whole["content"]), whole["stop_reason"], whole["stop_sequence"], whole["usage"]["output_tokens"]]


def _plain(value: Any) -> Any:
    """Without what is drawn at random, and without what is null: a stream leaves it out."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if name not in ("id", "call_id") and inner not in (None, [])}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _first_call(content: Any) -> Any:
    for found in _all(content):
        if found.get("name") == "get_weather":
            given = found.get("arguments", found.get("input"))
            return json.loads(given) if isinstance(given, str) else given
    raise AssertionError(content)


def _first_text(content: Any) -> str:
    for found in _all(content):
        text = found.get("text", found.get("content"))
        if isinstance(text, str):
            return text
    raise AssertionError(content)


def _all(value: Any) -> Iterator[dict[str, Any]]:
    """Each object, outermost first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _all(inner)


def _joined_choices(events: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[int, dict[str, Any]] = {}
    for event in events:
        for choice in event["choices"]:
            index = choice["index"]
            if "text" in choice:
                told = made.setdefault(index, {"index": index, "text": ""})
                told["text"] += choice["text"]
            else:
                told = made.setdefault(index, {"index": index, "message": {"role": "assistant"}, "logprobs": {"content": []}})
                _add_delta(told["message"], choice["delta"])
                told["logprobs"]["content"] += (choice.get("logprobs") or {}).get("content") or []
            for name in ("finish_reason", "stop_reason"):
                if choice.get(name) is not None:
                    told[name] = choice[name]
    for told in made.values():
        if not (told.get("logprobs") or {}).get("content"):
            told.pop("logprobs", None)
    return {"choices": [made[index] for index in sorted(made)], "usage": events[-1]["usage"]}


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    if delta.get("content"):
        message["content"] = message.get("content", "") + delta["content"]
    for part in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        if part["index"] == len(calls):
            calls.append({"type": "function", "function": {"name": part["function"]["name"], "arguments": ""}})
        calls[part["index"]]["function"]["arguments"] += part["function"].get("arguments") or ""


def _joined_response(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The last event's response, whose texts are those of the deltas."""
    whole: dict[str, Any] = events[-1]["response"]
    for at, item in enumerate(whole["output"]):
        kind = "response.output_text.delta" if item["type"] == "message" else "response.function_call_arguments.delta"
        text = "".join(event["delta"] for event in events if event["type"] == kind and event["output_index"] == at)
        if item["type"] == "message":
            assert text == item["content"][0]["text"]
        elif item["type"] == "function_call":
            assert text == item["arguments"]
    return whole


def _joined_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    written: list[str] = []
    end: dict[str, Any] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            written.append("")
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                blocks[-1]["text"] += delta["text"]
            else:
                written[-1] += delta["partial_json"]
        elif event["type"] == "message_delta":
            end = {**event["delta"], "usage": event["usage"]}
    for block, text in zip(blocks, written, strict=True):
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    return {"type": "message", "content": blocks, **end}
