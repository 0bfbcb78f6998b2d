"""One HTTP call to the runtime, over plain ASGI: a framework's request and response objects would cost more than the forwarding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headway.container.local.errors import PlatformError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = Iterable[tuple[str, str]]
_DROP = "headway.drop"


class DroppableHttp(HttpToolsProtocol):
    """uvicorn's protocol, whose connection a fault may close without an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_DROP: {"abort": self.transport.abort}}


class CallerGone(Exception):
    """The connection of whoever made the call is closed: nobody waits for an answer."""


class Call:
    """``status`` is what was answered, 0 before; ``note`` is what the access log says beside it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.scope, self.receive, self.send = scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.status = 0
        self.note = ""
        self._has_ended = False

    async def body(self, most: int) -> bytes:
        """Raises PlatformError: it has more bytes than ``most``."""
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        parts, size = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            parts.append(message["body"])
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
            if not message["more_body"]:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        await self.begin(status, (*headers, ("content-length", str(len(body)))))
        self._has_ended = True
        await self.send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer of unknown length: ``write`` and ``end`` follow."""
        self.status = status
        # A container's values may hold anything but line ends: aiohttp reads them in this way, and they go out as they came.
        encoded = [(name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in headers]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, part: bytes) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        self._has_ended = True
        await self.send({"type": "http.response.body", "body": b""})

    async def send_and_note(self, message: Any) -> None:
        """``send``, for whoever answers in another way than with this object."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)

    async def drop(self) -> None:
        """Close the connection as it is."""
        self.scope["extensions"][_DROP]["abort"]()
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, or end it where it is when the caller goes. The body must have been read. Raises CallerGone."""
        task = asyncio.create_task(work)
        watcher = asyncio.ensure_future(self.receive())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self._has_ended:  # uvicorn says so of an answer's end too
                raise CallerGone
            await task
        finally:
            watcher.cancel()
            task.cancel()
            await asyncio.wait((task,))


def _too_large(most: int) -> PlatformError:
    # Code and words as users have reported them (aws/sagemaker-python-sdk#171, when the limit was 5 MB).
    return PlatformError(413, "413", f"HTTP content length exceeded {most} bytes.")
