"""Calls as JSON that no mark tells from content: anywhere in the text, perhaps in a fence (```json)."""

from __future__ import annotations

import re

from headway.server.text.output import OutputParser
from headway.server.text.tools.json_calls import read_calls
from headway.server.text.tools.parser import ToolParser, Tools, Writer
from headway.server.text.tools.reader import Marks, Reader, Steps, drop

_FENCE = "```"
_LANGUAGE = re.compile(r"\w*")


def json(tools: Tools) -> OutputParser:
    """Any model that was told to answer so: `{"name": .., "arguments": {..}}` or a list of these, also `parameters`, also in a fence"""
    return _bare_parser()


def llama3_json(tools: Tools) -> OutputParser:
    """Llama 3.1 to 3.3 and 4: `{"name": .., "parameters": {..}}`, several with `;` between, perhaps behind `<|python_tag|>`"""
    return _bare_parser("<|python_tag|>")


def _bare_parser(*tags: str) -> ToolParser:
    """``tags`` may stand before calls, and are then dropped."""
    starts = Marks("{", "[", _FENCE, *tags)

    def reading(reader: Reader, writer: Writer) -> Steps[None]:
        while (mark := (yield from reader.read_until(starts, writer.content))) is not None:
            has_calls = yield from read_calls(reader, writer, is_marked=False, opening=_open(reader, mark))
            if has_calls and mark == _FENCE:
                yield from reader.skips(_FENCE)

    return ToolParser(reading)


def _open(reader: Reader, mark: str) -> Steps[None]:
    if mark in ("{", "["):
        return
    yield from reader.expect(mark)
    if mark == _FENCE:
        yield from reader.read_run(_LANGUAGE, drop)
    yield from reader.skip_space()
