"""The schemas that forced calls are held to, as the grammar library takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.text.grammars.library import compiled, library_form
from headway.server.text.grammars.vocabulary import library_tokenizer

LINKED = {
    "type": "object",
    "properties": {"head": {"$ref": "#/$defs/node"}, "kind": {"enum": [{"$ref": "#/x"}]}},
    "required": ["head"],
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}},
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "list", "parameters": LINKED}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "loose", "parameters": {"properties": {"a": {"type": "integer"}}}, "strict": False}},
]
TOKENIZER = byte_level_tokenizer()
LIBRARY = library_tokenizer(TOKENIZER, TOKENIZER.vocab_size)


def takes(text: str, tool_choice: Any, **fields: Any) -> bool:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "tool_choice": tool_choice, **fields}
    grammar = parse_request(ChatCompletionRequest, body).asked_grammar()
    assert grammar is not None
    matcher = compiled(library_form(grammar, {}), LIBRARY)
    return all(matcher.consume_token(byte) for byte in TOKENIZER.encode(text, add_special_tokens=False)) and matcher.is_accepting()


def call(name: str, parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("calls", "is_taken"),
    [
        ([call("now", {})], True),
        ([call("now", {"x": 1})], False),
        ([call("later", {})], False),
        ([], False),
        ([call("now", {}), call("now", {})], True),
        ([call("list", {"head": {"next": {"next": {}}}})], True),
        ([call("list", {"head": {"next": {"other": {}}}})], False),
        ([call("list", {})], False),
        ([call("loose", {"a": "no number"})], True),
    ],
)
def test_required(calls: list[Any], is_taken: bool) -> None:
    assert takes(json.dumps(calls), "required") == is_taken


def test_one_call_at_most() -> None:
    assert takes(json.dumps([call("now", {})]), "required", parallel_tool_calls=False)
    assert not takes(json.dumps([call("now", {})] * 2), "required", parallel_tool_calls=False)


def test_a_named_function_has_its_arguments_alone() -> None:
    choice = {"type": "function", "function": {"name": "list"}}
    assert takes('{"head": {"next": {}}}', choice)
    assert not takes('{"tail": {}}', choice)
