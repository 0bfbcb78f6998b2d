"""Calls of GLM: a name, then keys and values as elements."""

from __future__ import annotations

import re

from headway.server.text.output import OutputParser
from headway.server.text.tools.parser import ToolParser, Tools, Writer, attempt
from headway.server.text.tools.reader import Broken, Marks, Reader, Steps
from headway.server.text.tools.typed_call import TypedCall

_BEGIN, _END = "<tool_call>", "</tool_call>"
_KEY_BEGIN, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE_BEGIN, _VALUE_END = "<arg_value>", "</arg_value>"
_START = Marks(_BEGIN)
_INSIDE = Marks(_KEY_BEGIN, _END, _BEGIN)
_KEY = re.compile(r"[^<]*")
_VALUE_ENDS = Marks(_VALUE_END, _KEY_BEGIN, _END)


def glm45(tools: Tools) -> OutputParser:
    """GLM 4.5 to 4.7: `<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>`"""

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        while (yield from reader.read_until(_START, writer.content)) is not None:
            yield from attempt(reader, writer, _read_call(reader, writer, tools))

    return ToolParser(reading)


def _read_call(reader: Reader, writer: Writer, tools: Tools) -> Steps[None]:
    """Raises Broken before the call is begun. In a call, what is no argument is content."""
    yield from reader.expect(_BEGIN)
    yield from reader.skip_space()
    name = yield from reader.read_name()
    yield from reader.skip_space()
    mark = yield from reader.next_mark(_INSIDE)
    if mark is None:
        raise Broken
    reader.forget()
    call = TypedCall(reader, writer, tools, name)
    while mark == _KEY_BEGIN:
        yield from attempt(reader, writer, _read_argument(reader, call))
        mark = yield from reader.read_until(_INSIDE, writer.content)
    if mark is not None:
        yield from reader.skips(_END)
        call.end()


def _read_argument(reader: Reader, call: TypedCall) -> Steps[None]:
    yield from reader.expect(_KEY_BEGIN)
    key: list[str] = []
    yield from reader.read_run(_KEY, key.append)
    yield from reader.expect(_KEY_END)
    yield from reader.skip_space()
    yield from reader.expect(_VALUE_BEGIN)
    reader.forget()
    yield from call.read_argument("".join(key).strip(), _VALUE_ENDS, in_lines=False)
    yield from reader.skips(_VALUE_END)
