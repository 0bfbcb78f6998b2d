"""A small real HTTP server that answers like an OpenAI-compatible one: words for tokens, and faults on demand.

Run as a script (``python pretend_openai_server.py PORT``) or with ``serving()``. The model's name steers it: "fails" answers 500,
"breaks" ends a stream with an error event, "cuts" closes the socket, "no-usage" sends no usage.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

MODELS = ("pretend", "fails", "breaks", "cuts", "no-usage")


class PretendServer:
    """Remembers what it was asked, and how many requests were open at once."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.num_open = 0
        self.max_open = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in MODELS]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.authorizations.append(request.headers.get("Authorization"))
        if body["model"] == "fails":
            return web.json_response({"error": {"message": "out of luck"}}, status=500)
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            return await self._answer(request, body)
        finally:
            self.num_open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_chat = request.path.endswith("chat/completions")
        prompt = body["messages"][0]["content"] if is_chat else body["prompt"]
        usage = {"prompt_tokens": 1 + len(prompt.split()), "completion_tokens": body["max_tokens"]}
        if not body.get("stream"):
            return web.json_response({"choices": [{"text": "x", "finish_reason": "length"}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(body["max_tokens"]):
            choice = {"delta": {"content": "word "}} if is_chat else {"text": "word "}
            await response.write(_event({"choices": [choice]}))
            await asyncio.sleep(0)
            if body["model"] == "breaks":
                await response.write(_event({"error": {"message": "the engine has stopped"}}))
                return response
            if body["model"] == "cuts":
                assert request.transport is not None
                request.transport.abort()
                return response
        await response.write(_event({"choices": [{"text": "", "delta": {}, "finish_reason": "length"}]}))
        if body["model"] != "no-usage":
            await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[PretendServer, str]]:
    """(the server, its URL) while the block runs."""
    server = PretendServer()
    runner = web.AppRunner(server.app())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield server, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


if __name__ == "__main__":
    web.run_app(PretendServer().app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
