"""Calls as a list in Python: ``[f(a=1), g(b="x")]``. A call is told once it is whole, when Python's own parser has read it."""

from __future__ import annotations

import re

from headway.server.text.output import OutputParser
from headway.server.text.tools.json_text import json_text
from headway.server.text.tools.parser import ToolParser, Tools, Writer, attempt
from headway.server.text.tools.python_values import python_call
from headway.server.text.tools.reader import Broken, Marks, Reader, Sink, Steps

_BETWEEN = re.compile(r"""[^"'()\[\]{}]*""")
_OPENING = {"(", "[", "{"}
_CLOSING = {")", "]", "}"}


def pythonic(tools: Tools) -> OutputParser:
    """Llama 3.2, ToolACE, and others: `[f(a=1), g(b="x")]` on a line of its own"""
    return _pythonic_parser("<|python_tag|>")


def llama4_pythonic(tools: Tools) -> OutputParser:
    """Llama 4: `[f(a=1), g(b="x")]` on a line of its own, or between `<|python_start|>` and `<|python_end|>`"""
    return _pythonic_parser("<|python_start|>", "<|python_end|>")


def lfm2(tools: Tools) -> OutputParser:
    """LFM 2: `<|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>`"""
    return _pythonic_parser("<|tool_call_start|>", "<|tool_call_end|>")


def _pythonic_parser(*dropped: str) -> ToolParser:
    """A list of calls may stand at the start of a line, or behind one of ``dropped``, which say nothing more."""
    marks = Marks("[", *dropped)

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        is_marked = False
        while (mark := (yield from reader.read_until(marks, writer.content))) is not None:
            if mark != "[":
                reader.take(len(mark))
                yield from reader.skip_space()
                is_marked = True
                continue
            if is_marked or writer.is_at_line_start:
                yield from attempt(reader, writer, _read_list(reader, writer))
            else:
                writer.content(reader.take(1))
            is_marked = False

    return ToolParser(reading)


def _read_list(reader: Reader, writer: Writer) -> Steps[None]:
    yield from reader.expect("[")
    yield from reader.skip_space()
    yield from _read_call(reader, writer)
    while True:
        reader.record()
        yield from reader.skip_space()
        if (yield from reader.skips("]")):
            return
        yield from reader.expect(",")
        yield from reader.skip_space()
        if (yield from reader.skips("]")):
            return
        yield from _read_call(reader, writer)


def _read_call(reader: Reader, writer: Writer) -> Steps[None]:
    name = yield from reader.read_name()
    if (yield from reader.peek()) != "(":
        raise Broken
    source: list[str] = [name]
    yield from _read_brackets(reader, source.append)
    try:
        arguments = json_text(python_call("".join(source)))
    except ValueError as error:
        raise Broken from error
    writer.begin_call(name)
    writer.add_arguments(arguments)


def _read_brackets(reader: Reader, sink: Sink) -> Steps[None]:
    """The text up to the bracket that closes the next one."""
    depth = 0
    while True:
        yield from reader.read_run(_BETWEEN, sink)
        char = yield from reader.peek()
        if char in ('"', "'"):
            yield from _read_string(reader, char, sink)
            continue
        if char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        else:
            raise Broken
        sink(reader.take(1))
        if depth == 0:
            return


def _read_string(reader: Reader, quote: str, sink: Sink) -> Steps[None]:
    is_long = yield from reader.skips(quote * 3)
    end = quote * 3 if is_long else reader.take(1)
    inside = re.compile(rf"[^\\{quote}]*")
    sink(end)
    while True:
        # Models break lines in strings, Python only in long ones.
        yield from reader.read_run(inside, sink if is_long else lambda text: sink(text.replace("\n", "\\n").replace("\r", "\\r")))
        if (yield from reader.skips(end)):
            sink(end)
            return
        char = yield from reader.peek()
        if not char:
            raise Broken
        sink(reader.take(1))
        if char == "\\" and (yield from reader.peek()):
            sink(reader.take(1))
