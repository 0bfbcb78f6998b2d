"""The only place that maps errors to HTTP: every failure is {"error": {message, type, param, code}}, with Anthropic's types and frame
on the routes of that API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headway.server.api.json_text import encode
from headway.server.api.paths import is_of_messages, route_path
from headway.server.errors import (
    AbortedBySleep,
    AdapterExists,
    AdaptersFull,
    EngineAsleep,
    EngineDead,
    EngineNotReady,
    HeadwayError,
    ModelNotFound,
    NoServerAvailable,
    QueueFull,
    RequestError,
    RequestTimedOut,
    ResponseNotFound,
    ServerDraining,
    ServerLost,
    SleepConflict,
)

log = logging.getLogger(__name__)

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",  # as 422 and 429, of code of the user's only
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    406: "NotAcceptableError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "UnprocessableEntityError",
    424: "FailedDependencyError",
    429: "RateLimitError",
    431: "RequestHeaderFieldsTooLargeError",
    499: "ClientDisconnected",
    500: "InternalServerError",
    501: "NotImplementedError",
    502: "BadGatewayError",  # as 501, of the router only
    503: "ServiceUnavailableError",
    504: "TimeoutError",
    507: "InsufficientStorageError",
}
# Those of Anthropic's API. Any other is a fault of the request.
_ANTHROPIC_TYPES = {
    "AuthenticationError": "authentication_error",
    "PermissionDeniedError": "permission_error",
    "NotFoundError": "not_found_error",
    "RequestTooLargeError": "request_too_large",
    "RateLimitError": "rate_limit_error",
    "InternalServerError": "api_error",
    "ServiceUnavailableError": "overloaded_error",
    "TimeoutError": "timeout_error",
    "InsufficientStorageError": "overloaded_error",
}
# A starting engine takes seconds to minutes, and so does one that wakes: a client that asks again soon is right to.
_RETRY_AFTER_STARTING_S = 5
_MAX_PATH_SHOWN = 200


class Unauthorized(HeadwayError):
    """No valid API key."""


class NotAcceptable(HeadwayError):
    """The Accept header leaves no form that the answer could have."""


class UnsupportedMediaType(HeadwayError):
    """The body's Content-Type is none that this route reads."""


class BodyTooLarge(HeadwayError):
    """The request's body is above --max-request-body-bytes."""


class BodiesTooLarge(HeadwayError):
    """The bodies of all open requests together are more than this process holds."""


class ClientDisconnected(HeadwayError):
    """The client has gone; nobody reads the answer."""


class GenerationFailed(HeadwayError):
    """The engine gave up on one request and lives on."""


class GenerationAborted(HeadwayError):
    """The engine ended one request before its time: the server stops, or was put to sleep."""


class SessionFailed(HeadwayError):
    """A stateful session could not be opened or closed."""


def status_of(error: HeadwayError) -> int:
    match error:
        case ModelNotFound() | ResponseNotFound():
            return 404
        case AdapterExists() | SleepConflict():
            return 409
        case AdaptersFull():
            return 507
        case RequestError():
            return 400
        case Unauthorized():
            return 401
        case NotAcceptable():
            return 406
        case UnsupportedMediaType():
            return 415
        case BodyTooLarge():
            return 413
        case SessionFailed():
            return 424
        case ClientDisconnected():
            return 499
        case QueueFull() | BodiesTooLarge() | EngineNotReady() | EngineAsleep() | AbortedBySleep() | EngineDead() | ServerDraining():
            return 503
        case NoServerAvailable():
            return 503
        case ServerLost():
            return 502
        case RequestTimedOut():
            return 504
        case _:
            return 500


def error_type(status: int) -> str:
    return _TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """``code``: a word in the place of the status, where OpenAI has one."""
    # Half of a surrogate pair has no place in UTF-8; a text with one comes from a template or a client's escapes.
    message = message.encode("utf-8", "replace").decode()
    param = param and param.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": error_type(status), "param": param, "code": code or status}}


def error_body_of(error: HeadwayError) -> dict[str, Any]:
    """The error object as it stands in an answer or in an event of a stream that has begun."""
    return error_body(status_of(error), str(error), getattr(error, "param", None), getattr(error, "code", None))


def anthropic_error(body: dict[str, Any], request_id: str | None = None) -> dict[str, Any]:
    """The same as ``body``, which is error_body's, in the form of Anthropic's API: its clients tell errors by the type."""
    error = body["error"]
    kind = _ANTHROPIC_TYPES.get(error["type"], "invalid_request_error")
    told: dict[str, Any] = {"type": "error", "error": {**error, "type": kind}}
    return told if request_id is None else {**told, "request_id": request_id}


def error_body_on(path: str, body: dict[str, Any], request_id: str | None = None) -> dict[str, Any]:
    """``body`` in the form of the API whose route has ``path``."""
    return anthropic_error(body, request_id) if is_of_messages(path) else body


def error_json(error: HeadwayError) -> bytes:
    return encode(error_body_of(error))


def failure_body(request_id: str, where: str) -> dict[str, Any]:
    """For the ``except`` of a process edge: logs the bug that it caught, and says what the client may know, which is where to look."""
    log.exception("Request %s failed%s", request_id, where, extra={"request_id": request_id})
    return error_body(500, f"The server failed on this request; its log says why, under request id {request_id}.")


def failure_json(request_id: str, where: str) -> bytes:
    return encode(failure_body(request_id, where))


class ErrorResponse(Response):
    """``body`` is error_body's. It goes out in the form of the API whose route was asked for, whoever it was that refused."""

    media_type = "application/json"

    def __init__(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._error = body
        super().__init__(encode(body), status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = encode(error_body_on(route_path(scope), self._error, scope["headway.request_id"]))
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def failure_response(scope: Scope) -> Response:
    """For the ``except`` of a process edge around a whole request; logs the bug that it caught."""
    return ErrorResponse(500, failure_body(scope["headway.request_id"], f": {scope.get('method', 'WebSocket')} {scope['path']}"))


def error_response(status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    return ErrorResponse(status, error_body(status, message, param), headers)


def response_to(error: HeadwayError) -> Response:
    headers: dict[str, str] = {}
    match error:
        case QueueFull(retry_after_s=seconds):
            headers["retry-after"] = str(seconds)
        case BodiesTooLarge() | EngineNotReady() | EngineAsleep() | AbortedBySleep() | ServerDraining() | NoServerAvailable():
            headers["retry-after"] = str(_RETRY_AFTER_STARTING_S)
        case RequestTimedOut():
            # The OpenAI client would send it twice more, to run into the same limit.
            headers["x-should-retry"] = "false"
        case Unauthorized():
            headers["www-authenticate"] = "Bearer"
    return ErrorResponse(status_of(error), error_body_of(error), headers)


def log_stack(scope: Scope, error: HeadwayError) -> None:
    """With --log-error-stack: where an error that was raised on purpose came from."""
    if scope["app"].state.headway.config.logs.log_error_stack:
        request_id = scope["headway.request_id"]
        log.error("Request %s is answered %d", request_id, status_of(error), exc_info=error, extra={"request_id": request_id})


async def on_headway_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for the errors that we raise on purpose."""
    assert isinstance(error, HeadwayError)
    log_stack(request.scope, error)
    return response_to(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"][:_MAX_PATH_SHOWN], request.method
    if error.status_code == 404:
        hint = "; see /docs for the routes" if getattr(request.app, "docs_url", None) else ""
        return error_response(404, f"There is no {method} {path} on this server{hint}.", headers=error.headers)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return error_response(405, f"{method} is not allowed on {path}; use {allowed}.", headers=error.headers)
    return error_response(error.status_code, str(error.detail), headers=error.headers)
