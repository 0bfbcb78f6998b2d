"""The parsers of calls by the names that vLLM has for them. A parser's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from headway.server.text.output import OutputParser
from headway.server.text.tools.parser import Tools

# name -> module of this package and its function: (tools) -> OutputParser
TOOL_PARSERS = {
    "deepseek_v3": "tokened:deepseek",
    "deepseek_v31": "tokened:deepseek",
    "glm45": "glm:glm45",
    "glm47": "glm:glm45",
    "granite": "marked:granite",
    "granite-20b-fc": "marked:granite_20b_fc",
    "granite4": "marked:hermes",
    "hermes": "marked:hermes",
    "hunyuan_a13b": "marked:jamba",
    "internlm": "marked:internlm",
    "jamba": "marked:jamba",
    "json": "bare:json",
    "kimi_k2": "tokened:kimi_k2",
    "lfm2": "pythonic:lfm2",
    "llama3_json": "bare:llama3_json",
    "llama4_json": "bare:llama3_json",
    "llama4_pythonic": "pythonic:llama4_pythonic",
    "longcat": "marked:longcat",
    "minimax_m2": "xml_calls:minimax_m2",
    "mistral": "tokened:mistral",
    "phi4_mini_json": "marked:phi4_mini_json",
    "pythonic": "pythonic:pythonic",
    "qwen3_coder": "xml_calls:qwen3_xml",
    "qwen3_json": "marked:hermes",
    "qwen3_xml": "xml_calls:qwen3_xml",
    "seed_oss": "xml_calls:seed_oss",
    "xlam": "bare:json",
}
# They read no marks, or could do without.
_NEED_NO_SPECIAL_TOKENS = {"json", "llama3_json", "llama4_json", "llama4_pythonic", "pythonic", "xlam"}
# What a template or the added tokens of a model hold that writes so; the first that fits counts.
_SIGNS = {
    "kimi_k2": ("<|tool_calls_section_begin|>",),
    "deepseek_v3": ("<｜tool▁calls▁begin｜>", "```json"),
    "deepseek_v31": ("<｜tool▁calls▁begin｜>",),
    "minimax_m2": ("<minimax:tool_call>",),
    "seed_oss": ("<seed:tool_call>",),
    "glm45": ("<arg_key>",),
    "qwen3_coder": ("<function=", "<parameter="),
    "longcat": ("<longcat_tool_call>",),
    "lfm2": ("<|tool_call_start|>",),
    "mistral": ("[TOOL_CALLS]",),
    "internlm": ("<|action_start|>", "<|plugin|>"),
    "jamba": ("<tool_calls>",),
    "granite-20b-fc": ("<function_call>",),
    "granite": ("<|start_of_role|>", "<|tool_call|>"),
    "phi4_mini_json": ("<|tool|>", "<|/tool|>"),
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama4_pythonic": ("<|header_start|>", "func_name1("),
    "llama4_json": ("<|header_start|>", '"parameters"'),
    "pythonic": ("func_name1(",),
    "llama3_json": ("<|start_header_id|>", '"parameters"'),
    "json": ('"name"', '"arguments"'),
}


def make_tool_parser(name: str, tools: Tools) -> OutputParser:
    """A parser for one choice. ``name`` is one of TOOL_PARSERS; ``tools`` are the request's."""
    module, function = TOOL_PARSERS[name].split(":")
    parser: OutputParser = getattr(importlib.import_module(f"{__package__}.{module}"), function)(tools)
    return parser


def keeps_special_tokens(name: str) -> bool:
    """Whether the parser has to see special tokens, as its marks may be such. It drops those that it knows."""
    return name not in _NEED_NO_SPECIAL_TOKENS


def detect_tool_parser(template_source: str, tokens: Collection[str]) -> str | None:
    """The parser for a model with this chat template and these added tokens; None where they don't tell how it writes calls."""
    if "tool" not in template_source:
        return None
    for name, signs in _SIGNS.items():
        if all(sign in template_source for sign in signs):
            return name
    # Tokens alone say less: a model may have those of a family that it was made from.
    for name, signs in _SIGNS.items():
        if all(sign in template_source or sign in tokens for sign in signs):
            return name
    return None
