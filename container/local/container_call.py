"""One POST /invocations that is not anybody's open connection: of asynchronous inference, of a batch transform job."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import IO

from headway.container.local.runtime.container import Container, ContainerLost
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


async def invoke(
    container: Container,
    url: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterator[bytes],
    timeout_s: float,
    num_bytes: int | None = None,
) -> Reply:
    """``num_bytes``: of a ``content`` that arrives in pieces; without it that goes out chunked. Raises NoReply."""
    sent = dict(headers) if num_bytes is None else {**headers, "Content-Length": str(num_bytes)}
    received = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 - the reply's
    try:
        async with asyncio.timeout(timeout_s), container.post(f"{url}/invocations", sent, content) as answer:
            async for piece in answer.content.iter_any():
                received.write(piece)
    except BaseException as error:
        received.close()
        if isinstance(error, TimeoutError):
            raise NoReply(
                f"Your invocation timed out while waiting for a response from the container, for {timeout_s:g} seconds."
            ) from error
        if isinstance(error, ContainerLost):
            raise NoReply(f"The container ended the connection without an answer ({type(error.__cause__).__name__}).") from error
        raise
    is_chunked = "Transfer-Encoding" in answer.headers
    return Reply(answer.status, answer.headers.get("Content-Type", _DEFAULT_TYPE), received, is_chunked)
