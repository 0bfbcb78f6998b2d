"""A local runtime in front of a container that does what it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from aws_clients import close_connections
from data_plane import Local, Starter
from hostile_container import HostileContainer
from threaded_server import ThreadedServer


@pytest.fixture(scope="module")
def start() -> Iterator[Starter]:
    container = HostileContainer()
    with ThreadedServer(container) as server, contextlib.ExitStack() as stack:
        yield Starter(stack, container, server.url)


@pytest.fixture(scope="module")
def runtime(start: Starter) -> Local:
    return start()


@pytest.fixture(autouse=True)
def no_connection_left() -> Iterator[None]:
    yield
    close_connections()
