"""Hermes, Qwen 2.5 and 3, SmolLM2 and 3, Granite 4: ``<tool_call>{"name": .., "arguments": ..}</tool_call>``, also with a list."""

from __future__ import annotations

from headway.server.text.output import OutputParser
from headway.server.text.tools.marked import marked_parser
from headway.server.text.tools.parser import Tools


def make_parser(tools: Tools) -> OutputParser:
    return marked_parser({"<tool_call>": "</tool_call>"})
