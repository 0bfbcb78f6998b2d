"""What stands before /invocations and speaks SageMaker's protocol of stateful sessions: opens, closes, and lets through what is in one."""

from __future__ import annotations

import logging
from typing import NoReturn

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.deps import Handler, request_id_of, state_of
from headway.server.api.errors import SessionFailed
from headway.server.api.media import is_json, kind_of
from headway.server.api.protocol.parse import shortened
from headway.server.api.routes.body import read_body, read_request
from headway.server.api.sagemaker.sessions import NEW_SESSION, SESSION_ID, Session, Sessions
from headway.server.errors import RequestError

log = logging.getLogger(__name__)

NEW_SESSION_ID = "x-amzn-sagemaker-new-session-id"
CLOSED_SESSION_ID = "x-amzn-sagemaker-closed-session-id"
_REQUEST_TYPE = "requestType"
_CLOSE = "CLOSE"
# A request to open or close holds nothing else, so nothing larger has to be parsed here and again by the handler.
_MAX_CONTROL_BYTES = 256


def with_sessions(sessions: Sessions, handler: Handler) -> Handler:
    """``handler``, which finds the session of a request in ``request.state.session`` (None without one)."""

    async def invoke(http: Request) -> Response:
        kind = await _request_type(http)
        if kind == NEW_SESSION:
            return _open(http, sessions)
        if kind == _CLOSE:
            return _close(http, sessions)
        given = _given_id(http)
        if given is None:
            http.state.session = None
            return await handler(http)
        if given == NEW_SESSION:
            return await _call_in_new(http, sessions, handler)
        return await _call_in(sessions.find(given), http, handler)

    return invoke


def without_sessions(handler: Handler) -> Handler:
    """``handler``, for requests that ask for no session; others must not be taken for ordinary ones."""

    async def invoke(http: Request) -> Response:
        if _given_id(http) is not None:
            _refuse(f"The header {SESSION_ID} asks for a stateful session", SESSION_ID)
        if await _request_type(http) is not None:
            _refuse(f"{_REQUEST_TYPE} asks for a stateful session", _REQUEST_TYPE)
        return await handler(http)

    return invoke


def _refuse(what: str, param: str) -> NoReturn:
    raise RequestError(f"{what}, and these are not enabled on this server: start it with --enable-stateful-sessions.", param)


async def _request_type(http: Request) -> str | None:
    """NEW_SESSION or CLOSE, None for a request to the model. Raises RequestError for a body that is neither."""
    if not is_json(kind_of(http.headers.get("content-type"))):
        return None
    body = await read_body(http)
    if len(body) > _MAX_CONTROL_BYTES or b'"requestType"' not in body:
        return None
    fields = await read_request(http, lambda fields: fields)
    if _REQUEST_TYPE not in fields:
        return None
    kind, others = fields.pop(_REQUEST_TYPE), list(fields)
    if kind not in (NEW_SESSION, _CLOSE):
        raise RequestError(f"{_REQUEST_TYPE} must be {NEW_SESSION} or {_CLOSE}, got {shortened(kind)}.", _REQUEST_TYPE)
    if others:
        raise RequestError(f"Beside {_REQUEST_TYPE} the body must hold nothing, got {shortened(others[0])}.", others[0])
    return str(kind)


def _given_id(http: Request) -> str | None:
    """The header's id. What followed it in the header that announced the session may still be there."""
    value = http.headers.get(SESSION_ID)
    return None if value is None else value.partition(";")[0].strip()


def _open(http: Request, sessions: Sessions) -> Response:
    state_of(http).ready_model()  # a session of a server that starts or stops would be of no use
    session = sessions.open()
    _log_opening(session)
    body = {"session_id": session.id, "expires": session.expires}
    return JSONResponse(body, headers={NEW_SESSION_ID: _announcement(session)})


def _close(http: Request, sessions: Sessions) -> Response:
    given = _given_id(http)
    if not given or given == NEW_SESSION:
        raise SessionFailed(f"invalid session_id: {_CLOSE} needs the id of the session in the header {SESSION_ID}.")
    session = sessions.close(given)
    log.info("Session %s closed after %d requests", session.short_id, session.num_requests)
    return JSONResponse({"session_id": session.id, "num_requests": session.num_requests}, headers={CLOSED_SESSION_ID: session.id})


async def _call_in_new(http: Request, sessions: Sessions, handler: Handler) -> Response:
    """The handler's answer, with the new session's id on it. A call that fails leaves no session behind."""
    session = sessions.open()
    response: Response | None = None
    try:
        response = await _call_in(session, http, handler)
    finally:
        if response is None or response.status_code >= 400:
            sessions.forget(session)
    if response.status_code < 400:
        _log_opening(session)
        response.headers[NEW_SESSION_ID] = _announcement(session)
    return response


async def _call_in(session: Session, http: Request, handler: Handler) -> Response:
    session.num_requests += 1
    http.state.session = session
    request_id = request_id_of(http)
    log.info("Request %s is number %d of session %s", request_id, session.num_requests, session.short_id, extra={"request_id": request_id})
    return await handler(http)


def _log_opening(session: Session) -> None:
    log.info("Session %s opened, until %s", session.short_id, session.expires)


def _announcement(session: Session) -> str:
    return f"{session.id}; Expires={session.expires}"
