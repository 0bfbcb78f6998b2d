"""Answers that a grammar holds to calls: those to ``tool_choice`` "required" or a named function."""

from __future__ import annotations

from headway.server.text.tools.json_calls import read_arguments, read_calls
from headway.server.text.tools.parser import ToolParser, Writer, attempt
from headway.server.text.tools.reader import Marks, Reader, Steps

_START = Marks("[")


class RequiredParser(ToolParser):
    """See OutputParser: a JSON list ``[{"name": .., "parameters": {..}}, ..]``. A call that is cut off before its arguments is dropped."""

    def __init__(self) -> None:
        super().__init__(_read_required)


class NamedParser(ToolParser):
    """See OutputParser: the arguments of the function ``name``, and nothing else."""

    def __init__(self, name: str) -> None:
        def call(reader: Reader, writer: Writer) -> Steps[None]:
            yield from reader.skip_space()
            yield from read_arguments(reader, writer, name)

        def reading(reader: Reader, writer: Writer) -> Steps[None]:
            yield from attempt(reader, writer, call(reader, writer))
            yield from reader.read_rest(writer.content)

        super().__init__(reading)


def _read_required(reader: Reader, writer: Writer) -> Steps[None]:
    yield from reader.read_until(_START, writer.content)
    yield from read_calls(reader, writer, is_marked=True, drops_cut=True)
    yield from reader.read_rest(writer.content)
