"""The parsers of calls by the names that vLLM has for them. A parser's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from headway.server.text.output import OutputParser
from headway.server.text.tools.parser import Tools

_HERMES = "headway.server.text.tools.hermes"
_LLAMA3_JSON = "headway.server.text.tools.llama3_json"

TOOL_PARSERS = {
    "granite4": _HERMES,
    "hermes": _HERMES,
    "json": "headway.server.text.tools.generic_json",
    "llama3_json": _LLAMA3_JSON,
    "llama4_json": _LLAMA3_JSON,
    "qwen3_json": _HERMES,
}
# Their marks are no special tokens in any model that writes so, or there are none.
_NEED_NO_SPECIAL_TOKENS = {"json", "llama3_json", "llama4_json"}
# What a template or the added tokens of a model hold that writes so; the first that fits counts.
_SIGNS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": ("<|start_header_id|>", "parameters"),
    "json": ('"name"', '"arguments"'),
}


def make_tool_parser(name: str, tools: Tools) -> OutputParser:
    """A parser for one choice. ``name`` is one of TOOL_PARSERS; ``tools`` are the request's."""
    parser: OutputParser = importlib.import_module(TOOL_PARSERS[name]).make_parser(tools)
    return parser


def keeps_special_tokens(name: str) -> bool:
    """Whether the parser has to see special tokens, as its marks may be such. It drops those that it knows."""
    return name not in _NEED_NO_SPECIAL_TOKENS


def detect_tool_parser(template_source: str, tokens: Collection[str]) -> str | None:
    """The parser for a model with this chat template and these added tokens; None where they don't tell how it writes calls."""
    if "tools" not in template_source:
        return None
    for name, signs in _SIGNS.items():
        if all(sign in template_source or sign in tokens for sign in signs):
            return name
    return None
