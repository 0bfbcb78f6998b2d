"""Which headers go through, and which belong to one connection only (RFC 9110, 7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headway.server.router.load_report import FORMAT_HEADER, LOAD_HEADER

Pairs = Sequence[tuple[bytes, bytes]]

_OF_A_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Made anew by whoever writes the message: a length or a host that contradicts it is how requests are smuggled.
_MADE_ANEW = frozenset({b"host", b"content-length", b"expect"})
_FORWARDED_FOR, _FORWARDED_PROTO = b"x-forwarded-for", b"x-forwarded-proto"
_REPLACED = frozenset({b"x-request-id", _FORWARDED_PROTO, _FORWARDED_FOR})


def to_server(given: Pairs, request_id: str, client: str | None, scheme: str) -> list[tuple[str, str]]:
    """The headers of a request as the server gets them. It is asked for its load, whether or not the client asks."""
    dropped = _OF_A_CONNECTION | _MADE_ANEW | _REPLACED | _named_by_connection(given)
    passed = [(_text(name), _text(value)) for name, value in given if name not in dropped]
    if all(name != FORMAT_HEADER for name, _ in passed):
        passed.append((FORMAT_HEADER, "TEXT"))
    callers = [_text(value) for name, value in given if name == _FORWARDED_FOR]
    if client is not None:
        callers.append(client)
    if callers:
        passed.append((_text(_FORWARDED_FOR), ", ".join(callers)))
    return [*passed, (_text(_FORWARDED_PROTO), scheme), ("x-request-id", request_id)]


def to_client(answered: Iterable[tuple[bytes, bytes]], asked: Pairs, ours: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer as the client gets them. ``asked``: those of the request; ``ours``: what the router sends itself."""
    lowered = [(name.lower(), value) for name, value in answered]
    dropped = _OF_A_CONNECTION | {b"date", *ours} | _named_by_connection(lowered)
    if all(name != FORMAT_HEADER.encode() for name, _ in asked):
        dropped |= {LOAD_HEADER.encode()}
    return [(name, value) for name, value in lowered if name not in dropped]


def _named_by_connection(headers: Pairs) -> set[bytes]:
    return {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}


def _text(part: bytes) -> str:
    """aiohttp writes headers as UTF-8; a byte that is none would be two."""
    return part.decode("utf-8", "replace")
