"""Connections to copies: what of them is lost is told, and what the caller's own body ends in is raised as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from local_runtime import Script, serving

from headway.container.local.runtime.container import Container, ContainerLost
from headway.server.errors import HeadwayError


class Broken(HeadwayError):
    """The source of a body."""


async def half_a_body() -> AsyncIterator[bytes]:
    yield b"half"
    raise Broken("the rest can't be read")


def test_a_body_that_can_not_be_read_to_its_end() -> None:
    async def post(url: str) -> None:
        async with Container() as container, container.post(f"{url}/invocations", {"Content-Length": "8"}, half_a_body()):
            pass

    with serving(Script().app()) as url, pytest.raises(Broken):
        asyncio.run(post(url))


def test_an_answer_to_get_is_bounded_in_length_and_time() -> None:
    async def get(url: str, most_bytes: int, timeout_s: float) -> tuple[int, bytes]:
        async with Container() as container:
            return await container.get(url, most_bytes, timeout_s)

    with serving(Script(metrics="x" * 100).app()) as url:
        assert asyncio.run(get(f"{url}/metrics", 100, 5.0)) == (200, b"x" * 100)
        with pytest.raises(ContainerLost, match="more than 99 bytes"):
            asyncio.run(get(f"{url}/metrics", 99, 5.0))
        with pytest.raises(ContainerLost, match="within 0 s"):
            asyncio.run(get(f"{url}/metrics", 100, 0.0))
