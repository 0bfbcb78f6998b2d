"""Calls as JSON between marks, with content before, between and behind."""

from __future__ import annotations

from collections.abc import Mapping

from headway.server.text.tools.json_calls import read_calls
from headway.server.text.tools.parser import ToolParser, Writer
from headway.server.text.tools.reader import Marks, Reader, Steps


def marked_parser(marks: Mapping[str, str]) -> ToolParser:
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
