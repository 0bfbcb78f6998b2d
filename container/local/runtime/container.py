"""POST to a copy of the container, on connections that are kept."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer's head; its content is there to be read inside of the block, where a lost connection is a ContainerLost too."""
        data = body if len(body) <= _ONE_WRITE_BYTES else io.BytesIO(body)
        try:
            async with self._session.post(URL(url, encoded=True), headers=headers, data=data, allow_redirects=False) as answer:
                yield answer
        except (aiohttp.ClientError, aiohttp.ConnectionTimeoutError, OSError) as error:
            raise ContainerLost(f"the container at {url} broke off: {type(error).__name__}") from error
