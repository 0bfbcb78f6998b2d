"""Reads JSON as it comes: where values end, not what they hold. The text is passed on as the model wrote it.

A library that parses unfinished JSON would have to begin anew with every piece, and gives values instead of the text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json

from headway.server.text.tools.reader import Broken, Reader, Sink, Steps

_IN_STRING = re.compile(r'[^"\\]*')
# `<` and "`" stand outside of strings in no JSON, but begin the marks that end a call whose brackets were forgotten.
_BETWEEN = re.compile(r'[^"{}\[\]<`]*')
_LITERAL = re.compile(r"[-+.\w]*")
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f]")
_DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


def read_string(reader: Reader, sink: Sink) -> Steps[None]:
    """The text of a string, quotes included, piece by piece to ``sink``. Models break lines in strings: JSON must escape that."""
    yield from reader.expect('"')
    sink('"')
    while True:
        yield from reader.read_run(_IN_STRING, lambda text: sink(_CONTROL.sub(_escaped, text)))
        if (yield from reader.skips('"')):
            sink('"')
            return
        yield from reader.expect("\\")
        if not (yield from reader.peek()):
            raise Broken
        sink("\\" + reader.take(1))


def read_value(reader: Reader, sink: Sink) -> Steps[None]:
    """The text of any value."""
    char = yield from reader.peek()
    if char == '"':
        yield from read_string(reader, sink)
    elif char in ("{", "["):
        yield from _read_nested(reader, sink)
    else:
        literal: list[str] = []
        yield from reader.read_run(_LITERAL, literal.append)
        if not any(literal):
            raise Broken
        sink("".join(literal))


def read_decoded_string(reader: Reader) -> Steps[str]:
    text: list[str] = []
    yield from read_string(reader, text.append)
    try:
        decoded: str = from_json("".join(text))
    except ValueError as error:  # an unknown escape, half of a surrogate pair, ..
        raise Broken from error
    return decoded


def json_text(value: Any) -> str:
    """A value as JSON. Raises ValueError for what JSON cannot say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair cannot leave as UTF-8, but as an escape.
    return text if text.isascii() or not _HALF_PAIR.search(text) else json.dumps(value, allow_nan=False)


def _escaped(control: re.Match[str]) -> str:
    return json.dumps(control[0])[1:-1]


def _read_nested(reader: Reader, sink: Sink) -> Steps[None]:
    depth = 0
    while True:
        yield from reader.read_run(_BETWEEN, sink)
        char = yield from reader.peek()
        if char == '"':
            yield from read_string(reader, sink)
            continue
        if char not in _DEPTH:
            raise Broken
        depth += _DEPTH[char]
        sink(reader.take(1))
        if depth == 0:
            return
