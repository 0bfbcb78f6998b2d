"""One POST /invocations that is not anybody's open connection: of asynchronous inference, of a batch transform job."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import IO

import httpx2

from headway.server.errors import HeadwayError

# Answers up to this length stay in memory.
_SPOOL_BYTES = 4 << 20
_SHOWN_BYTES = 2_000
_DEFAULT_TYPE = "application/octet-stream"


class NoReply(HeadwayError):
    """The container was not reached, broke off, or took too long: what it did, as a sentence."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``content`` is closed by whoever gets it."""

    status: int
    content_type: str
    content: IO[bytes]
    is_chunked: bool

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def side(self) -> str:
        """Whose fault the platform calls it."""
        return "client" if 400 <= self.status < 500 else "server"

    def problem(self, variant: str) -> str:
        """What the platform says of an answer that is no success."""
        self.content.seek(0)
        body = self.content.read(_SHOWN_BYTES).decode(errors="replace")
        return f'Received {self.side} error ({self.status}) from {variant} with message "{body}".'


def new_client() -> httpx2.AsyncClient:
    """For copies on this machine: a proxy of the environment is not for them, and the callers limit time and numbers."""
    return httpx2.AsyncClient(trust_env=False, timeout=None, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64))


async def invoke(
    client: httpx2.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterator[bytes],
    timeout_s: float,
    num_bytes: int | None = None,
) -> Reply:
    """``num_bytes``: of a ``content`` that arrives in pieces; without it that goes out chunked. Raises NoReply."""
    sent = {"Accept-Encoding": "identity", **headers}
    if num_bytes is not None:
        sent["Content-Length"] = str(num_bytes)
    received = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 - the reply's
    try:
        async with asyncio.timeout(timeout_s), client.stream("POST", f"{url}/invocations", headers=sent, content=content) as answer:
            async for piece in answer.aiter_raw():
                received.write(piece)
    except BaseException as error:
        received.close()
        if isinstance(error, TimeoutError):
            raise NoReply(
                f"Your invocation timed out while waiting for a response from the container, for {timeout_s:g} seconds."
            ) from error
        if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
            raise NoReply(f"The container ended the connection without an answer ({type(error).__name__}).") from error
        raise
    is_chunked = "transfer-encoding" in answer.headers
    return Reply(answer.status_code, answer.headers.get("Content-Type", _DEFAULT_TYPE), received, is_chunked)
