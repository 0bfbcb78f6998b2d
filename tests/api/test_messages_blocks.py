"""Anthropic's blocks: those of a request as a chat's messages, and an answer's reasoning, text and calls as blocks and events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from headway.server.api.protocol.anthropic import CountTokensRequest, MessagesRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.serving.anthropic.blocks import BlockStream, whole_blocks
from headway.server.api.serving.anthropic.translation import Translation
from headway.server.text.output import ToolCallPiece

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
START = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


RAIN_AND_WIND = [{"type": "text", "text": "rain"}, {"type": "text", "text": "wind"}]


def chat_of(*, limits_thinking: bool = False, **fields: Any) -> Any:
    request = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8, **fields}
    return Translation(parse_request(MessagesRequest, request), limits_thinking=limits_thinking).chat


def test_a_round_of_tools_becomes_calls_and_answers() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I need ", "signature": "s"},
                {"type": "thinking", "thinking": "both.", "signature": "s"},
                {"type": "redacted_thinking", "data": "opaque"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": RAIN_AND_WIND,
                },
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no city", "is_error": True},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    calls = [
        {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Köln"}'}},
        {"id": "toolu_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]
    assert chat_of(messages=messages).messages == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "Let me see.", "reasoning": "I need both.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain\nwind"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no city"},
        {"role": "user", "content": "so?"},
    ]


def test_a_message_of_the_assistant_at_the_end_is_continued() -> None:
    chat = chat_of(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "The"}])
    assert (chat.continue_final_message, chat.add_generation_prompt) == (True, False)
    assert not chat_of().continue_final_message


TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "type": "custom", "cache_control": {"type": "ephemeral"}}


def test_tools_are_functions() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert chat_of(tools=[TOOL]).tools == [{"type": "function", "function": function}]


@pytest.mark.parametrize(
    ("choice", "mode", "is_parallel"),
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "f"}, "named", True),
        ({"type": "none"}, "none", True),
    ],
)
def test_the_choice_of_tools(choice: dict[str, Any], mode: str, is_parallel: bool) -> None:
    chat = chat_of(tools=[TOOL], tool_choice=choice)
    assert (chat.wanted_tools.mode, chat.parallel_tool_calls) == (mode, is_parallel)


@pytest.mark.parametrize(("limits", "budget"), [(True, 1024), (False, None)])
def test_a_budget_counts_where_it_can_be_kept(limits: bool, budget: int | None) -> None:
    chat = chat_of(thinking={"type": "enabled", "budget_tokens": 1024}, limits_thinking=limits)
    assert chat.thinking_token_budget == budget


def test_thinking_is_a_variable_of_the_template() -> None:
    on = {"enable_thinking": True, "thinking": True}
    assert chat_of(thinking={"type": "enabled", "budget_tokens": 1024}).chat_template_kwargs == on
    off = chat_of(thinking={"type": "disabled"}, chat_template_kwargs={"thinking": "a bit"})
    assert off.chat_template_kwargs == {"enable_thinking": False, "thinking": "a bit"}
    assert (off.include_reasoning, chat_of().include_reasoning) == (False, True)
    adaptive = chat_of(thinking={"type": "adaptive"}, output_config={"effort": "low"})
    assert (adaptive.chat_template_kwargs, adaptive.reasoning_effort) == ({}, "low")


def test_counting_needs_no_limit() -> None:
    Translation(parse_request(CountTokensRequest, {"messages": [{"role": "user", "content": "x"}]}), limits_thinking=False)


# Pieces of an answer in order: (reasoning, text, calls).
Piece = tuple[str, str, Sequence[ToolCallPiece]]
ANSWERS: dict[str, list[Piece]] = {
    "text": [("", "hel", ()), ("", "lo", ())],
    "text that begins blank": [("", "\n", ()), ("", "\n", ()), ("", "hello", ())],
    "nothing": [("", "", ())],
    "blanks": [("", "\n", ())],
    "thinking": [("I ", "", ()), ("think", "", ()), ("", "\n", ()), ("", "so", ())],
    "all at once": [("think", "text", (ToolCallPiece(0, "f", '{"a":'), ToolCallPiece(0, None, "1}")))],
    "calls": [
        ("", "", (ToolCallPiece(0, "f"),)),
        ("", "", (ToolCallPiece(0, None, '{"a":'),)),
        ("", "", (ToolCallPiece(0, None, '"\u2028"}'),)),
        ("", "", (ToolCallPiece(1, "g", "{}"), ToolCallPiece(2, "h"))),
    ],
    "a call cut short": [("", "", (ToolCallPiece(0, "f", '{"a": [1, "tw'),))],
}


def new_id(index: int, name: str) -> str:
    return f"{name}-{index}"


def accumulated(pieces: list[Piece], shows_thinking: bool) -> list[dict[str, Any]]:
    """By the client's own accumulator. One block is open at a time, and none at the end."""
    blocks = BlockStream(new_id, shows_thinking=shows_thinking)
    events = [b'{"type":"message_start","message":' + json.dumps(START).encode() + b"}"]
    for reasoning, text, calls in pieces:
        events += blocks.feed(reasoning, text, calls)
    events += blocks.close()
    snapshot, buffers, is_open = None, dict[int, bytes](), False
    for number, event in enumerate(events):
        assert event.startswith(b'{"type":"')
        told = json.loads(event)
        snapshot = accumulate_event(event=EVENT.validate_python(told), current_snapshot=snapshot, json_bufs=buffers)
        if number:
            assert is_open == (told["type"] != "content_block_start")
            is_open = told["type"] != "content_block_stop"
            assert told["index"] == len(snapshot.content) - 1
    assert not is_open
    assert snapshot is not None
    return [block.to_dict() for block in snapshot.content]


@pytest.mark.parametrize("shows_thinking", [True, False])
@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
def test_a_stream_adds_up_to_the_whole(pieces: list[Piece], shows_thinking: bool) -> None:
    reasoning, text = "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)
    calls = [call for piece in pieces for call in piece[2]]
    whole = whole_blocks(reasoning, text, calls, new_id, shows_thinking=shows_thinking)
    Message.model_validate({**START, "content": whole}, strict=True)
    streamed = accumulated(pieces, shows_thinking)
    for block in [*whole, *streamed]:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith(f"{block['name']}-")
        if block["type"] == "thinking":
            assert block["signature"], "clients drop thinking without one"
    assert streamed == whole


def test_blanks_between_calls_are_no_block() -> None:
    first, second = ToolCallPiece(0, "f", "{}"), ToolCallPiece(1, "g", "{}")
    pieces: list[Piece] = [("", "see", ()), ("", "", (first,)), ("", "\n", ()), ("", "", (second,))]
    assert [block["type"] for block in accumulated(pieces, True)] == ["text", "tool_use", "tool_use"]


def test_text_that_comes_with_the_rest_of_a_call_does_not_part_it() -> None:
    """A slow reader is told several pieces at once, and not in which order they came."""
    begun, rest, next_call = ToolCallPiece(0, "f", '{"a":'), ToolCallPiece(0, None, "1}"), ToolCallPiece(1, "g", "{}")
    blocks = accumulated([("", "", (begun,)), ("", "done", (rest, next_call))], True)
    assert [block["type"] for block in blocks] == ["tool_use", "text", "tool_use"]
    assert blocks[0]["input"] == {"a": 1}
