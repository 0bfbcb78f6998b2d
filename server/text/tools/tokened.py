"""Calls whose name and arguments stand between special tokens, the arguments as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable

from headway.server.text.output import OutputParser
from headway.server.text.tools.json_calls import read_arguments, read_object_or_list
from headway.server.text.tools.parser import ToolParser, Tools, Writer, attempt
from headway.server.text.tools.reader import Marks, Reader, Steps, drop

_WORD = re.compile(r"\w*")
_DEEPSEEK_SEPARATOR = "<｜tool▁sep｜>"
_KIMI_ID = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?")


def mistral(tools: Tools) -> OutputParser:
    """Mistral: `[TOOL_CALLS] [{"name": .., "arguments": {..}}, ..]`, and since tokenizer v11 `[TOOL_CALLS]name{..}` for each"""
    return _tokened_parser("[TOOL_CALLS]", (), _read_mistral)


def deepseek(tools: Tools) -> OutputParser:
    """DeepSeek V3, V3.1, R1: `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{..}<｜tool▁call▁end｜>`, before V3.1 with a type and a fence"""
    ends = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
    return _tokened_parser("<｜tool▁call▁begin｜>", ends, _read_deepseek)


def kimi_k2(tools: Tools) -> OutputParser:
    """Kimi K2: `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{..}<|tool_call_end|>`"""
    ends = ("<|tool_calls_section_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>")
    return _tokened_parser("<|tool_call_begin|>", ends, _read_kimi)


def _tokened_parser(begin: str, dropped: tuple[str, ...], read_call: Callable[[Reader, Writer], Steps[None]]) -> ToolParser:
    """``begin``: the token before a call; ``dropped``: tokens that say nothing more; ``read_call`` reads what stands behind ``begin``."""
    marks = Marks(begin, *dropped)

    def call(reader: Reader, writer: Writer) -> Steps[None]:
        yield from reader.expect(begin)
        yield from reader.skip_space()
        yield from read_call(reader, writer)

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        while (mark := (yield from reader.read_until(marks, writer.content))) is not None:
            if mark == begin:
                yield from attempt(reader, writer, call(reader, writer))
            else:
                reader.take(len(mark))

    return ToolParser(reading)


def _read_mistral(reader: Reader, writer: Writer) -> Steps[None]:
    if (yield from reader.peek()) in ("[", "{"):
        yield from read_object_or_list(reader, writer, is_marked=True)
        return
    name = yield from reader.read_name()
    if (yield from reader.skips("[CALL_ID]")):
        yield from reader.read_run(_WORD, drop)
    yield from reader.skips("[ARGS]")
    yield from reader.skip_space()
    yield from read_arguments(reader, writer, name)


def _read_deepseek(reader: Reader, writer: Writer) -> Steps[None]:
    name = yield from reader.read_name()
    yield from reader.expect(_DEEPSEEK_SEPARATOR)
    yield from reader.skip_space()
    if (yield from reader.peek()) not in ("{", "`"):
        name = yield from reader.read_name()  # what stood before was the type, "function"
        yield from reader.skip_space()
    if is_fenced := (yield from reader.skips("```")):
        yield from reader.read_run(_WORD, drop)
        yield from reader.skip_space()
    yield from read_arguments(reader, writer, name)
    if is_fenced:
        yield from reader.skip_space()
        yield from reader.skips("```")


def _read_kimi(reader: Reader, writer: Writer) -> Steps[None]:
    call_id = yield from reader.read_name()
    yield from reader.skip_space()
    yield from reader.expect("<|tool_call_argument_begin|>")
    yield from reader.skip_space()
    match = _KIMI_ID.fullmatch(call_id)
    yield from read_arguments(reader, writer, match["name"] if match else call_id)
