"""A request's body: read, parsed, and understood as the caller says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from headway.server.api.deadline import deadline_of
from headway.server.api.errors import ClientDisconnected, UnsupportedMediaType
from headway.server.api.media import JSON, decoded, is_json, kind_of
from headway.server.api.off_loop import in_parser
from headway.server.api.protocol.parse import parse_object, shortened

_T = TypeVar("_T")


async def read_body(http: Request) -> bytes:
    """Raises BodyTooLarge, ClientDisconnected, RequestTimedOut, UnsupportedMediaType (compressed)."""
    encoding = http.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(f"The body is compressed (Content-Encoding: {shortened(encoding)}); send it as it is.")
    try:
        async with deadline_of(http).guard():
            return await http.body()
    except ClientDisconnect as error:
        raise ClientDisconnected("The client left while it sent its request.") from error


async def read_request(http: Request, understand: Callable[[dict[str, Any]], _T]) -> _T:
    """What ``understand`` makes of the body's JSON object.

    Raises its errors, RequestError, and what ``read_body`` raises.
    """
    content_type = http.headers.get("content-type")
    kind = kind_of(content_type)
    if not is_json(kind):
        raise UnsupportedMediaType(f"The body's content type is {shortened(kind)}; send it with `Content-Type: {JSON}`.")
    body = await read_body(http)
    # In one go: a large body that is refused is gone before the next one is parsed.
    return await in_parser(len(body), lambda: understand(parse_object(decoded(body, content_type))))
