"""Readers of event streams, as clients are built: each takes pieces of bytes and gives (event's name, data) of each event."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator

import anthropic._streaming
import httpx
import openai._streaming

Event = tuple[str, str]
Reader = Callable[[Iterable[bytes]], list[Event]]

_LINE_END = re.compile("\r\n|\n|\r")


def standard(pieces: Iterable[bytes]) -> list[Event]:
    """What the HTML standard says, as browsers do it; bytes that are not UTF-8, and fields that it does not know, fail the test."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    text = "".join(decoder.decode(piece) for piece in pieces) + decoder.decode(b"", final=True)
    events: list[Event] = []
    name, data = "", list[str]()
    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    assert lines.pop() == "", "the last event is ended"
    for line in lines:
        if not line:
            if data:
                events.append((name, "\n".join(data)))
            name, data = "", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            assert field in ("event", "data"), f"a field that we do not send: {line[:80]!r}"
            if field == "data":
                data.append(value)
            else:
                name = value
    assert (name, data) == ("", []), "nothing stands behind the last event"
    return events


def of_openai(pieces: Iterable[bytes]) -> list[Event]:
    return [(event.event or "", event.data) for event in openai._streaming.SSEDecoder().iter_bytes(iter(pieces))]


def of_anthropic(pieces: Iterable[bytes]) -> list[Event]:
    return [(event.event or "", event.data) for event in anthropic._streaming.SSEDecoder().iter_bytes(iter(pieces))]


def by_httpx_lines(pieces: Iterable[bytes]) -> list[Event]:
    """The loop of a hundred small clients: each data line is an event."""
    return _by_lines(httpx.Response(200, content=iter(pieces), headers={"content-type": "text/event-stream; charset=utf-8"}).iter_lines())


def by_splitlines(pieces: Iterable[bytes]) -> list[Event]:
    return _by_lines(b"".join(pieces).decode().splitlines())


def _by_lines(lines: Iterable[str]) -> list[Event]:
    return list(_events_of(lines))


def _events_of(lines: Iterable[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        assert line == "" or line.startswith((":", "data: ", "event: ")), f"a line that such clients do not know: {line[:80]!r}"
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, line.removeprefix("data: ")
            name = ""


READERS: dict[str, Reader] = {
    "standard": standard,
    "openai": of_openai,
    "anthropic": of_anthropic,
    "httpx lines": by_httpx_lines,
    "splitlines": by_splitlines,
}
