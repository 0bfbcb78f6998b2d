"""A local runtime's data plane in a thread, and boto3 clients for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aws_clients import client
from botocore.config import Config
from hostile_container import HostileContainer
from threaded_server import ThreadedServer

from headway.container.local.app import App
from headway.container.local.faults import Faults
from headway.container.local.one_endpoint import OneEndpoint
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.model_error import Place
from headway.container.local.runtime.parts import PartForm
from headway.container.local.runtime.runtime import Limits, Runtime
from headway.container.local.targets import Targets

ENDPOINT = "chat"


def boto(url: str, attempts: int = 1, service: str = "sagemaker-runtime") -> Any:
    config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, read_timeout=20)
    return client(
        service,
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id="AKIDLOCAL",
        aws_secret_access_key="not-a-secret",
        config=config,
    )


@dataclass
class Local:
    """A runtime that runs. ``client`` is boto3's, which does not try again; ``container`` takes its calls."""

    url: str
    client: Any
    container: HostileContainer


@dataclass
class Starter:
    """Starts runtimes in front of one container, each with what a test wants otherwise."""

    stack: contextlib.ExitStack
    container: HostileContainer
    container_url: str

    def __call__(
        self, faults: Faults | None = None, parts: PartForm | None = None, limits: Limits | None = None, targets: Targets | None = None
    ) -> Local:
        known = targets or OneEndpoint(ENDPOINT, self.container_url)

        @contextlib.asynccontextmanager
        async def made() -> AsyncIterator[App]:
            async with Container() as connections:
                yield App(Runtime(known, connections, faults or Faults(), Place("us-west-2"), parts or PartForm(), limits or Limits()))

        server = self.stack.enter_context(ThreadedServer(made=made))
        return Local(server.url, boto(server.url), self.container)
