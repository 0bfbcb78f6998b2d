"""The smallest things that stand for the rest of the local runtime: an ASGI server on loopback, a container with a script, endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
from aws_clients import client
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from headway.container.local.control.protocol import answer_call
from headway.container.local.control.shapes import check_input
from headway.container.local.errors import PlatformError
from headway.container.local.targets import AsyncInference, Target, Wish

_T = TypeVar("_T")
REGION = "us-east-1"
KEYS = {"region_name": REGION, "aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The URL of an application under a real uvicorn in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


def eventually(look: Callable[[], _T], within_s: float = 60.0) -> _T:
    """The first true result."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.02)
    return found


def aws(service: str, url: str) -> Any:
    return client(service, endpoint_url=url, **KEYS)


@dataclass
class Script:
    """A container: what it was asked, and how it answers. ``gate``: an answer waits until it is set."""

    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[bytes], Response] = lambda body: Response(body.upper(), media_type="application/json")
    execution_parameters: Mapping[str, Any] | None = None
    metrics: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    num_open: int = 0
    most_open: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/invocations")
        async def invocations(request: Request) -> Response:
            body = await request.body()
            self.requests.append((dict(request.headers), body))
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
            try:
                while not self.gate.is_set():
                    await asyncio.sleep(0.01)
                return self.answer(body)
            finally:
                self.num_open -= 1

        @app.get("/execution-parameters")
        async def execution_parameters() -> Response:
            return Response(status_code=404) if self.execution_parameters is None else JSONResponse(self.execution_parameters)

        @app.get("/metrics")
        async def metrics() -> Response:
            return Response(self.metrics, media_type="text/plain")

        return app


def chunked(body: bytes) -> Response:
    async def pieces() -> Any:
        yield body

    return StreamingResponse(pieces())


@dataclass
class FixedTargets:
    """One endpoint: the copies that are there now."""

    name: str
    urls: list[str]
    config: AsyncInference | None

    @contextlib.contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        self._require(endpoint)
        if not self.urls:
            raise PlatformError(503, "ServiceUnavailable", "no copy")
        yield Target(self.urls[0], "AllTraffic")

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        self._require(endpoint)
        return self.config

    def _require(self, endpoint: str) -> None:
        if endpoint != self.name:
            raise PlatformError(400, "ValidationError", f"Endpoint {endpoint} not found.")


def json_protocol(app: FastAPI, handle: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]], service: str) -> None:
    """AWS JSON 1.1 on POST /, each call's input held against botocore's model of ``service``."""

    async def checked(operation: str, body: dict[str, Any]) -> dict[str, Any]:
        check_input(operation, body, service)
        return await handle(operation, body)

    @app.post("/")
    async def call(request: Request) -> Response:
        return await answer_call(request, request.headers["x-amz-target"].partition(".")[2], checked)
