"""A request's body as the fields of its JSON object."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect, Request

from headway.server.api.errors import ClientDisconnected, UnsupportedMediaType
from headway.server.api.media import JSON, decoded, is_json, kind_of
from headway.server.api.off_loop import in_parser
from headway.server.api.protocol.parse import parse_object, shortened


async def read_body(http: Request) -> bytes:
    """Raises BodyTooLarge, ClientDisconnected."""
    try:
        return await http.body()
    except ClientDisconnect as error:
        raise ClientDisconnected("The client left while it sent its request.") from error


async def read_fields(http: Request) -> dict[str, Any]:
    """The body's JSON object. Raises RequestError, UnsupportedMediaType, BodyTooLarge, ClientDisconnected."""
    content_type = http.headers.get("content-type")
    kind = kind_of(content_type)
    if not is_json(kind):
        raise UnsupportedMediaType(f"The body's content type is {shortened(kind)}; send it with `Content-Type: {JSON}`.")
    body = await read_body(http)
    return await in_parser(len(body), lambda: parse_object(decoded(body, content_type)))
