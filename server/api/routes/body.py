"""A request's body as a validated model."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from headway.server.api.deps import state_of
from headway.server.api.errors import ClientDisconnected
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_object, parse_request
from headway.server.api.sagemaker.adapter_header import with_adapter

_Model = TypeVar("_Model", bound=RequestModel)


async def read_body(http: Request) -> bytes:
    """Raises BodyTooLarge, ClientDisconnected."""
    try:
        return await http.body()
    except ClientDisconnect as error:
        raise ClientDisconnected("The client left while it sent its request.") from error


async def read_fields(http: Request) -> dict[str, object]:
    """The body's JSON object, its model the adapter's that SageMaker's header may name. Raises RequestError, and as ``read_body`` does."""
    fields = parse_object(await read_body(http), http.headers.get("content-type"))
    return with_adapter(state_of(http), http.headers, fields)


async def read_request(http: Request, model: type[_Model]) -> _Model:
    return parse_request(model, await read_fields(http))
