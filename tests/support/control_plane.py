"""The control plane behind a real HTTP server, for unmodified boto3."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import uvicorn
from aws_clients import client
from ports import claimed_port
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from headway.container.local.control.plane import ControlPlane
from headway.container.local.control.protocol import service
from headway.container.local.copies.base import Starter
from headway.container.local.copies.process import ProcessStarter
from headway.container.local.health import Pace

PRETEND = (sys.executable, str(Path(__file__).with_name("pretend_container.py")))
QUICK = Pace(
    start_ping_every_s=0.02,
    ping_every_s=0.05,
    start_window_s=60,
    num_bad_pings=2,
    stop_patience_s=5,
    drain_limit_s=10,
    first_pause_s=0.05,
    longest_pause_s=0.2,
)
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
WAIT = {"Delay": 0.05, "MaxAttempts": 600}
Result = TypeVar("Result")


class LiveControlPlane:
    """A context manager. ``said`` is what it printed for people, ``client`` is boto3's."""

    def __init__(self, starter: Starter | None = None, pace: Pace = QUICK, s3: Any = None, **more: Any) -> None:
        self.said: list[str] = []
        self._make = lambda: ControlPlane(
            starter or ProcessStarter(os.environ, PRETEND), "us-east-1", s3, self.said.append, pace=pace, **more
        )
        port = claimed_port()
        app = Starlette(routes=[Mount("/", self._answer)], lifespan=self._life)
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="on"))
        self._thread = threading.Thread(target=self._server.run)
        self._up = threading.Event()
        self.client = client(
            "sagemaker",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def __enter__(self) -> LiveControlPlane:
        self._thread.start()
        assert self._up.wait(60)
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.client.close()

    def run(self, work: Callable[[ControlPlane], Awaitable[Result]]) -> Result:
        """``work`` on the loop that owns the plane."""

        async def done() -> Result:
            return await work(self.plane)

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(60)

    def make_model(self, name: str, environ: dict[str, str] | None = None, **container: Any) -> None:
        definition = {"Image": "pretend", "Environment": environ or {}, **container}
        self.client.create_model(ModelName=name, PrimaryContainer=definition, ExecutionRoleArn=ROLE)

    def make_config(self, name: str, model: str | None = None, num: int = 1, **more: Any) -> None:
        variant = {"VariantName": "AllTraffic", "InstanceType": "ml.g6.12xlarge", "InitialInstanceCount": num, **more}
        own: dict[str, Any] = {"ExecutionRoleArn": ROLE} if model is None else {}
        model_name = {"ModelName": model} if model else {}
        self.client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[{**variant, **model_name}], **own)

    def make_endpoint(self, name: str, environ: dict[str, str] | None = None, num: int = 1, **container: Any) -> None:
        """Model, configuration and endpoint of that name; returns at once."""
        self.make_model(name, environ, **container)
        self.make_config(name, name, num)
        self.client.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def wait_in_service(self, name: str) -> dict[str, Any]:
        self.client.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=WAIT)
        described: dict[str, Any] = self.client.describe_endpoint(EndpointName=name)
        return described

    def wait_deleted(self, name: str) -> None:
        self.client.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig=WAIT)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = Headers(scope=scope)["x-amz-target"].removeprefix("SageMaker.")
        await service(self.plane.handle)(operation, scope, receive, send)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        async with self._make() as self.plane:
            self._up.set()
            yield
