"""Calls to copies of the container, on connections that are kept."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from headway.server.errors import HeadwayError

# The platform has 0.25 s; a machine that also runs the model and the client is late without anybody's fault.
_CONNECT_LIMIT_S = 5.0
# Shorter than servers keep idle connections (uvicorn: 5 s): a request on one that the server is closing would fail.
_KEEP_IDLE_S = 2.0
# aiohttp writes bytes in one go, which blocks the loop for long ones.
_ONE_WRITE_BYTES = 1 << 20
# What aiohttp would add by itself; the platform passes on what the caller gave.
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class ContainerLost(HeadwayError):
    """The container took no connection, or broke it off before its answer was complete."""


class Container:
    """Connections to all copies. Entered on the loop that uses it."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_LIMIT_S),
            skip_auto_headers=_NOT_ADDED,
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    @asynccontextmanager
    async def post(self, url: str, headers: Mapping[str, str], body: bytes | AsyncIterator[bytes]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer's head; its content is there to be read inside of the block, where a lost connection is a ContainerLost too.

        A body in pieces goes out chunked, unless ``headers`` has its Content-Length; a HeadwayError that it ends in is raised here.
        """
        data = io.BytesIO(body) if isinstance(body, bytes) and len(body) > _ONE_WRITE_BYTES else body
        with _losses(url):
            async with self._session.post(URL(url, encoded=True), headers=headers, data=data, allow_redirects=False) as answer:
                yield answer

    async def get(self, url: str, most_bytes: int, timeout_s: float) -> tuple[int, bytes]:
        """Status and content. Raises ContainerLost, also for what comes late or is longer."""
        content = bytearray()
        try:
            with _losses(url):
                async with asyncio.timeout(timeout_s), self._session.get(URL(url, encoded=True), allow_redirects=False) as answer:
                    async for piece in answer.content.iter_any():
                        content += piece
                        if len(content) > most_bytes:
                            raise ContainerLost(f"{url} answers with more than {most_bytes} bytes")
        except TimeoutError as error:
            raise ContainerLost(f"{url} was not answered within {timeout_s:g} s") from error
        return answer.status, bytes(content)


@contextmanager
def _losses(url: str) -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ContainerLost(f"the container at {url} took no connection") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        if isinstance(error.__cause__, HeadwayError):  # of the body, which aiohttp sends in a task of its own
            raise error.__cause__ from None
        raise ContainerLost(f"the container at {url} broke off: {type(error).__name__}") from error
