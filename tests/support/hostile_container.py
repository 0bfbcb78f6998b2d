"""A container that does what its caller asks of it, good or bad, and remembers what reached it. Over a real uvicorn in a thread."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Arrived:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HostileContainer:
    """An ASGI application. The JSON body of a call says what to do, see ``_answer``; without one it is echoed."""

    arrived: list[Arrived] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # what callers did not wait for
    ping_status: int = 200

    def wait_for_gone(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while name not in self.gone:
            assert time.monotonic() < deadline, f"{name} was waited for"
            time.sleep(0.002)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/ping":
            await _whole(send, self.ping_status, b"")
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.arrived.append(Arrived(scope["path"], headers, body))
        try:
            wish = json.loads(body)
        except ValueError:
            wish = {}
        await self._answer(wish if isinstance(wish, dict) else {}, body, scope, receive, send)

    async def _answer(self, wish: dict[str, Any], body: bytes, scope: dict[str, Any], receive: Any, send: Any) -> None:
        abort = scope["extensions"]["headway.drop"]["abort"]
        extra = wish.get("headers", {})
        if wish.get("abort"):
            abort()
        elif wish.get("hang"):
            assert (await receive())["type"] == "http.disconnect"
            self.gone.append(wish["hang"])
        elif "parts" in wish:
            await _start(send, 200, {"content-type": "text/event-stream", **extra})
            for part in wish["parts"]:
                await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
                await asyncio.sleep(wish.get("pause_s", 0.01))
            if wish.get("then") == "abort":
                abort()
            elif wish.get("then") == "hang":
                assert (await receive())["type"] == "http.disconnect"
                self.gone.append("stream")
            else:
                await send({"type": "http.response.body", "body": b""})
        else:
            await _whole(send, wish.get("status", 200), wish["text"].encode() if "text" in wish else body, extra)


async def _start(send: Any, status: int, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _whole(send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    await _start(send, status, {"content-length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.body", "body": body})
