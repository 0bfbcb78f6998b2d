"""AWS JSON 1.1 on the wire: a call is a POST whose X-Amz-Target names the operation, an answer is JSON, an error has a __type."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headway.container.local.errors import PlatformError

_MAX_BODY_BYTES = 4 * 1024 * 1024
Handle = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def answer_call(request: Request, operation: str, handle: Handle) -> Response:
    """``operation`` is what stands in X-Amz-Target behind the service's name and the dot."""
    try:
        return _response(200, await handle(operation, _read(await _body(request))))
    except PlatformError as problem:
        return _response(problem.status, {"__type": problem.code, "message": str(problem), **problem.fields})


def service(handle: Handle) -> Callable[[str, Scope, Receive, Send], Awaitable[None]]:
    """``answer_call`` as ASGI, with the operation's name before it."""

    async def answer(operation: str, scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer_call(Request(scope, receive), operation, handle)
        await response(scope, receive, send)

    return answer


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise PlatformError(413, "RequestEntityTooLargeException", f"A call's body has at most {_MAX_BODY_BYTES} bytes.")
    return body


def _read(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError) as problem:
        raise PlatformError(400, "SerializationException", "The body is not JSON.") from problem
    if not isinstance(fields, dict):
        raise PlatformError(400, "SerializationException", "The body must be a JSON object.")
    return fields


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def seconds_of(moment: datetime) -> float:
    """Since 1970, to the millisecond: what answers tell, and calls ask for."""
    return round(moment.timestamp(), 3)


def _response(status: int, fields: dict[str, Any]) -> Response:
    headers = {"x-amzn-RequestId": str(uuid.uuid4())}
    text = json.dumps(fields, default=_seconds)
    return Response(text, status, headers, media_type="application/x-amz-json-1.1")


def _seconds(value: object) -> float:
    """Moments are seconds since 1970; nothing else that isn't JSON stands in answers."""
    assert isinstance(value, datetime), f"{type(value)} in an answer"
    return seconds_of(value)
