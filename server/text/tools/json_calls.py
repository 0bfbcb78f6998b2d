"""Calls that are written as JSON: ``{"name": .., "arguments": {..}}``, one, several, or a list."""

from __future__ import annotations

import re

from headway.server.text.tools.json_text import read_decoded_string, read_value
from headway.server.text.tools.parser import Writer, attempt
from headway.server.text.tools.reader import Broken, Reader, Steps, drop

_ARGUMENTS = {"arguments", "parameters"}
# What calls have beside their name and arguments.
_OTHER_KEYS = {"type", "id", "index"}
_SEPARATORS = re.compile(r"[\s,;]*")


def read_calls(
    reader: Reader, writer: Writer, *, is_marked: bool, opening: Steps[None] | None = None, drops_cut: bool = False
) -> Steps[bool]:
    """Calls behind each other, as objects or lists of them; returns whether there was one. What is no call becomes content.

    - ``is_marked``: a mark before them says that these are calls. Otherwise an object is one only if it has arguments, and no key
      that calls don't have: an answer in JSON must stay an answer.
    - ``opening``: reads what stands before the first and belongs to it.
    - ``drops_cut``: see ``attempt``.
    """

    def first() -> Steps[None]:
        if opening is not None:
            yield from opening
        yield from read_object_or_list(reader, writer, is_marked=is_marked)

    def further() -> Steps[None]:
        yield from reader.read_run(_SEPARATORS, drop)
        yield from read_object_or_list(reader, writer, is_marked=is_marked)

    num_before = writer.num_calls
    reading = first()
    while (yield from attempt(reader, writer, reading, drops_cut=drops_cut)):
        reading = further()
    return writer.num_calls > num_before


def read_object_or_list(reader: Reader, writer: Writer, *, is_marked: bool) -> Steps[None]:
    """One call, or a list of calls. Raises Broken where there is none, or behind some; see ``attempt``."""
    if not (yield from reader.skips("[")):
        yield from _read_object(reader, writer, is_marked=is_marked)
        return
    yield from reader.skip_space()
    yield from _read_object(reader, writer, is_marked=is_marked)
    while True:
        reader.record()
        yield from reader.skip_space()
        if (yield from reader.skips("]")):
            return
        yield from reader.expect(",")
        yield from reader.skip_space()
        yield from _read_object(reader, writer, is_marked=is_marked)


def read_arguments(reader: Reader, writer: Writer, name: str) -> Steps[None]:
    """The arguments of the call of ``name``, which is begun with their first character. Broken: there are none.

    Arguments that break off stay as they are.
    """
    call = _Call(reader, writer, name)
    try:
        yield from _read_object_text(reader, call)
    except Broken:
        if not call.has_begun:
            raise


class _Call:
    """One call while it is read. It is begun in the answer once its name and the first of its arguments are known."""

    def __init__(self, reader: Reader, writer: Writer, name: str = "") -> None:
        self.has_begun = False
        self.has_other_keys = False
        self.name = name
        self._reader = reader
        self._writer = writer
        self._held: list[str] = []

    @property
    def has_arguments(self) -> bool:
        return self.has_begun or bool(self._held)

    def name_it(self, name: str) -> None:
        self.name = name
        held, self._held = self._held, []
        if held:
            self.add_arguments("".join(held))

    def add_arguments(self, text: str) -> None:
        if not self.name:
            self._held.append(text)
            return
        if not self.has_begun:
            self.has_begun = True
            self._reader.forget()
            self._writer.begin_call(self.name)
        self._writer.add_arguments(text)


def _read_object(reader: Reader, writer: Writer, *, is_marked: bool) -> Steps[None]:
    call = _Call(reader, writer)
    try:
        yield from _read_members(reader, call, is_marked=is_marked)
    except Broken:
        if not call.has_begun:
            raise
        return
    if is_marked and not (call.has_arguments or call.has_other_keys):
        call.add_arguments("{}")
    if not call.has_begun:
        raise Broken


def _read_members(reader: Reader, call: _Call, *, is_marked: bool, is_inner: bool = False) -> Steps[None]:
    """``is_inner``: of the object under "function", where some models put them as the API's messages do."""
    yield from reader.expect("{")
    while True:
        yield from reader.skip_space()
        key = yield from read_decoded_string(reader)
        yield from reader.skip_space()
        yield from reader.expect(":")
        yield from reader.skip_space()
        if key == "name" and not call.name:
            call.name_it((yield from read_decoded_string(reader)))
        elif key in _ARGUMENTS and not call.has_arguments:
            yield from _read_object_text(reader, call)
        elif key == "function" and not is_inner and (yield from reader.peek()) == "{":
            yield from _read_members(reader, call, is_marked=is_marked, is_inner=True)
        elif key in _OTHER_KEYS or is_marked:
            call.has_other_keys |= key not in _OTHER_KEYS
            yield from read_value(reader, drop)
        else:
            raise Broken
        yield from reader.skip_space()
        if (yield from reader.skips("}")):
            return
        yield from reader.expect(",")


def _read_object_text(reader: Reader, call: _Call) -> Steps[None]:
    """Arguments: an object; some models write it as a string, or null where there is nothing to say."""
    char = yield from reader.peek()
    if char == "{":
        yield from read_value(reader, call.add_arguments)
        return
    if char == '"':
        text = (yield from read_decoded_string(reader)).strip() or "{}"
        if not text.startswith("{"):
            raise Broken
    else:
        yield from reader.expect("null")
        text = "{}"
    call.add_arguments(text)
