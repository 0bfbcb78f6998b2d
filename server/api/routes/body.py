"""A request's body as a validated model."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from headway.server.api.errors import ClientDisconnected
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_object, parse_request

_Model = TypeVar("_Model", bound=RequestModel)


async def read_body(http: Request) -> bytes:
    """Raises BodyTooLarge, ClientDisconnected."""
    try:
        return await http.body()
    except ClientDisconnect as error:
        raise ClientDisconnected("The client left while it sent its request.") from error


async def read_fields(http: Request) -> dict[str, object]:
    """The body's JSON object. Raises RequestError, BodyTooLarge, ClientDisconnected."""
    return parse_object(await read_body(http), http.headers.get("content-type"))


async def read_request(http: Request, model: type[_Model]) -> _Model:
    return parse_request(model, await read_fields(http))
