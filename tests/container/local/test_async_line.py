"""The line of an asynchronous endpoint: a request goes to a copy with room, and waits only where there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from local_runtime import FixedTargets

from headway.container.local.async_line import Expired, Line
from headway.container.local.targets import AsyncInference, Target, Wish

URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2")


class _TwoCopies(FixedTargets):
    """Takes the first copy as long as nobody says that it is full."""

    def __init__(self) -> None:
        pass

    def async_inference(self, endpoint: str) -> AsyncInference:
        return AsyncInference("s3://bucket/out", None, None, None, 1)

    @contextlib.contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        yield Target(next((url for url in URLS if url not in wish.full), URLS[0]), "one")


def test_a_full_copy_is_passed_over() -> None:
    async def both() -> set[str]:
        line = Line(_TwoCopies(), "ep")
        async with line.place(5) as first, line.place(5) as second:
            with pytest.raises(Expired):
                async with line.place(0.01):
                    pass
            return {first.url, second.url}

    assert asyncio.run(both()) == set(URLS)
