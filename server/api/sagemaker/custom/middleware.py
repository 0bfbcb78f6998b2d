"""Around every route: formatters, and a script's middleware, which also see the body of an answer that is no stream."""

from __future__ import annotations

from typing import Any, cast

from starlette.middleware import Middleware
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.routes.body import read_body
from headway.server.api.user_code.calls import Function, UserFunction, in_our_form
from headway.server.api.user_code.middleware import Around


def formatters(before: Function | None, behind: Function | None, options: tuple[str, str]) -> Middleware:
    """``before`` gets the request and ``behind`` the response; each may change it, and return it or nothing."""
    pre = UserFunction(before, "request", options[0]) if before else None
    post = UserFunction(behind, "response", options[1]) if behind else None

    async def wrapper(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if pre is not None:
            changed = await pre(request)
            if isinstance(changed, Request) and changed is not request:
                request._body = await changed.body()
        response = await call_next(request)
        if post is None:
            return response
        changed = await post(response)
        return changed if isinstance(changed, Response) else response

    return Middleware(WholeAround, wrapper=wrapper)


class WholeAround(Around):
    """Here the wrapper also sees the body of an answer that is no stream."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        async def call_whole(changed: Request) -> Response:
            await read_body(request)  # here, since out of call_next its errors would come in a group
            return await _whole(await call_next(changed))

        response = await in_our_form(self._wrapper(request, call_whole))
        if "content-length" in response.headers and isinstance(getattr(response, "body", None), bytes):
            response.headers["content-length"] = str(len(response.body))
        return response


async def _whole(response: Response) -> Response:
    """A response with its ``body``, if it is not streamed: streams have no length."""
    if "content-length" not in response.headers:
        return response
    pieces: list[bytes] = [piece async for piece in cast("Any", response).body_iterator]
    whole = Response(b"".join(pieces), response.status_code)
    whole.raw_headers = response.raw_headers
    return whole
