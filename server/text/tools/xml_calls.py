"""Calls as elements, the arguments as plain text in them: ``<function=f><parameter=a>1</parameter></function>`` and its like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headway.server.text.output import OutputParser
from headway.server.text.tools.parser import ToolParser, Tools, Writer, attempt
from headway.server.text.tools.reader import Broken, Marks, Reader, Steps
from headway.server.text.tools.typed_call import TypedCall

_KEY = re.compile(r"[^<>\"\n]*")


def qwen3_xml(tools: Tools) -> OutputParser:
    """Qwen 3 Coder: `<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`"""
    return _xml_parser(_Form("<tool_call>", "</tool_call>"), tools)


def seed_oss(tools: Tools) -> OutputParser:
    """Seed OSS: `<seed:tool_call><function=f><parameter=a>1</parameter></function></seed:tool_call>`"""
    return _xml_parser(_Form("<seed:tool_call>", "</seed:tool_call>"), tools)


def minimax_m2(tools: Tools) -> OutputParser:
    """MiniMax M2: `<minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke></minimax:tool_call>`"""
    form = _Form("<minimax:tool_call>", "</minimax:tool_call>", '<invoke name="', "</invoke>", '<parameter name="', '">')
    return _xml_parser(form, tools)


@dataclass(frozen=True)
class _Form:
    """How a family writes its elements. Calls stand also without the outer element, and an end that was not written is not missed."""

    begin: str
    end: str
    function_begin: str = "<function="
    function_end: str = "</function>"
    parameter_begin: str = "<parameter="
    name_end: str = ">"
    parameter_end: str = "</parameter>"


def _xml_parser(form: _Form, tools: Tools) -> ToolParser:
    marks = Marks(form.begin, form.end, form.function_begin)

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        call = _CallReading(form, tools, reader, writer)
        awaits_end = False
        while (mark := (yield from reader.read_until(marks, writer.content))) is not None:
            if mark != form.end:
                awaits_end = yield from attempt(reader, writer, call.read())
            elif awaits_end:
                reader.take(len(mark))
                awaits_end = False
            else:
                writer.content(reader.take(len(mark)))

    return ToolParser(reading)


class _CallReading:
    """Reads one call after the other."""

    def __init__(self, form: _Form, tools: Tools, reader: Reader, writer: Writer) -> None:
        self._form = form
        self._tools = tools
        self._reader = reader
        self._writer = writer
        self._inside = Marks(form.parameter_begin, form.function_end, form.end, form.begin, form.function_begin)
        self._value_ends = Marks(form.parameter_end, form.parameter_begin, form.function_end)

    def read(self) -> Steps[None]:
        """Raises Broken before the call is begun. In a call, what is no parameter is content."""
        form, reader = self._form, self._reader
        yield from reader.skips(form.begin)
        yield from reader.skip_space()
        yield from reader.expect(form.function_begin)
        name = yield from reader.read_name()
        yield from reader.expect(form.name_end)
        yield from reader.skip_space()
        mark = yield from reader.next_mark(self._inside)
        if mark is None:
            raise Broken
        reader.forget()
        call = TypedCall(reader, self._writer, self._tools, name)
        while mark == form.parameter_begin:
            yield from attempt(reader, self._writer, self._read_parameter(call))
            mark = yield from reader.read_until(self._inside, self._writer.content)
        if mark is not None:
            yield from reader.skips(form.function_end)
            call.end()

    def _read_parameter(self, call: TypedCall) -> Steps[None]:
        form, reader = self._form, self._reader
        yield from reader.expect(form.parameter_begin)
        key: list[str] = []
        yield from reader.read_run(_KEY, key.append)
        yield from reader.expect(form.name_end)
        reader.forget()
        yield from call.read_argument("".join(key).strip(), self._value_ends, in_lines=True)
        yield from reader.skips(form.parameter_end)
