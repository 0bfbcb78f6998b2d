"""Middleware as users write it, for --middleware of a real server: by dotted path user_middleware.NAME."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_Next = Callable[[Request], Awaitable[Response]]

NUMBER = 7
seen: list[str] = []  # types of the scopes that Named has seen


async def first(request: Request, call_next: _Next) -> Response:
    response = await call_next(request)
    response.headers["x-order"] = response.headers.get("x-order", "") + "1"
    return response


async def second(request: Request, call_next: _Next) -> Response:
    response = await call_next(request)
    response.headers["x-order"] = response.headers.get("x-order", "") + "2"
    return response


async def shouting(request: Request, call_next: _Next) -> Response:
    """As scripts for other servers read an answer's body."""
    response: Any = await call_next(request)
    pieces = (piece.replace(b"hello", b"HELLO") async for piece in response.body_iterator)
    return StreamingResponse(pieces, response.status_code, media_type=response.media_type)


async def refusing(request: Request, call_next: _Next) -> Response:
    raise HTTPException(418, "no tea")


async def broken(request: Request, call_next: _Next) -> Response:
    raise ValueError("inside")


def not_async(request: Request, call_next: _Next) -> None:
    pass


async def takes_one(request: Request) -> None:
    pass


class Named:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-named", b"yes")]
            await send(message)

        await self.app(scope, receive, named)


class NotAsgi:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app


class TakesNothing:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


class BreaksWhenMade(Named):
    def __init__(self, app: ASGIApp) -> None:
        raise KeyError("database")
