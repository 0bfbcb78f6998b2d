"""Calls as JSON between marks, with content before, between and behind."""

from __future__ import annotations

from collections.abc import Mapping

from headway.server.text.output import OutputParser
from headway.server.text.tools.json_calls import read_calls
from headway.server.text.tools.parser import ToolParser, Tools, Writer
from headway.server.text.tools.reader import Marks, Reader, Steps


def hermes(tools: Tools) -> OutputParser:
    """Hermes, Qwen 2.5 and 3, SmolLM, Granite 4: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, also with a list of calls"""
    return _marked_parser({"<tool_call>": "</tool_call>"})


def granite(tools: Tools) -> OutputParser:
    """Granite 3: `<|tool_call|>[{"name": .., "arguments": {..}}, ..]`, or in `<tool_call>`"""
    return _marked_parser({"<|tool_call|>": "", "<tool_call>": "</tool_call>"})


def granite_20b_fc(tools: Tools) -> OutputParser:
    """Granite 20B function calling: `<function_call> {"name": .., "arguments": {..}}`"""
    return _marked_parser({"<function_call>": ""})


def internlm(tools: Tools) -> OutputParser:
    """InternLM 2.5: `<|action_start|><|plugin|>{"name": .., "parameters": {..}}<|action_end|>`"""
    return _marked_parser({"<|action_start|><|plugin|>": "<|action_end|>"})


def jamba(tools: Tools) -> OutputParser:
    """Jamba, Hunyuan: `<tool_calls>[{"name": .., "arguments": {..}}, ..]</tool_calls>`"""
    return _marked_parser({"<tool_calls>": "</tool_calls>"})


def longcat(tools: Tools) -> OutputParser:
    """LongCat: `<longcat_tool_call>{"name": .., "arguments": {..}}</longcat_tool_call>`"""
    return _marked_parser({"<longcat_tool_call>": "</longcat_tool_call>"})


def phi4_mini_json(tools: Tools) -> OutputParser:
    """Phi-4 mini: `functools[{"name": .., "arguments": {..}}, ..]`, or in `<|tool_call|>`"""
    return _marked_parser({"functools": "", "<|tool_call|>": "<|/tool_call|>"})


def _marked_parser(marks: Mapping[str, str]) -> ToolParser:
    """``marks``: what opens calls -> what closes them, empty where nothing does. An end that was not written is not missed."""
    all_marks = Marks(*marks, *filter(None, marks.values()))

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        awaited = ""
        while (mark := (yield from reader.read_until(all_marks, writer.content))) is not None:
            if mark not in marks:
                taken = reader.take(len(mark))
                if mark == awaited:
                    awaited = ""
                else:
                    writer.content(taken)
            elif (yield from read_calls(reader, writer, is_marked=True, opening=_open(reader, mark))):
                awaited = marks[mark]

    return ToolParser(reading)


def _open(reader: Reader, mark: str) -> Steps[None]:
    yield from reader.expect(mark)
    yield from reader.skip_space()
