"""Requests to servers, on connections that are kept. aiohttp, which needs 14 us for an event of a stream where httpx2 needs 54
(2 cores, 200 streams, 2026-11)."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from weakref import WeakSet

import aiohttp
from yarl import URL

from headway.server.errors import ConfigError, HeadwayError, ServerDraining
from headway.server.router.config import UpstreamConfig

# Shorter than servers keep idle connections (uvicorn: 5 s): a request on one that the server is closing would fail.
_KEEP_IDLE_S = 2.0
# aiohttp writes bytes in one go, which blocks the loop for long ones.
_ONE_WRITE_BYTES = 1 << 20
# What aiohttp would add by itself.
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
# A machine that is gone says nothing, and without a word from it for a minute what is open there ends. Linux counts unanswered bytes,
# and unanswered questions on a silent connection, against TCP_USER_TIMEOUT (ms); other systems have their own limits.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 9, "TCP_USER_TIMEOUT": 60_000}
# Of an answer's line and of each of its headers.
_MOST_HEADER_BYTES = 64 * 1024
# aiohttp lets them through in headers, and uvicorn sends none that has one.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_NO_HTTP = "what came is no HTTP"


class ServerUnreached(HeadwayError):
    """The server took no connection: it has seen nothing of the request."""


class ServerBroke(HeadwayError):
    """The connection ended, or what came is no HTTP, before the answer was complete."""


class Answer:
    """An answer whose head is there. To be closed: what is not read to its end ends its connection, by which the server learns of it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.raw_headers
        self._is_cut = False
        self._peeked: bytes | None = None

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def next_piece(self) -> bytes:
        """What has come of the body, empty at its end. Nothing more is read meanwhile: the server waits then.

        Raises ServerBroke; ServerDraining after ``cut``.
        """
        if self._peeked is not None:
            piece, self._peeked = self._peeked, None
            return piece
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            if self._is_cut:
                raise ServerDraining("The router is shutting down and ended this answer before it was complete.") from None
            raise ServerBroke(f"it broke off in its answer ({_reason(error)})") from error

    async def peek(self) -> bytes:
        """What ``next_piece`` will return, and raises as that does."""
        if self._peeked is None:
            self._peeked = await self.next_piece()
        return self._peeked

    def cut(self) -> None:
        """``next_piece`` raises, now or when it goes on: the session's own close would let it wait for ever."""
        self._is_cut = True
        self._response.content.set_exception(aiohttp.ClientConnectionError("the router stops"))

    def connection_ended(self) -> None:
        """aiohttp has told the end of the body by now, or what is wrong with it, but for what came in its middle and is no HTTP."""
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientConnectionError(_NO_HTTP))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._response.content.at_eof() and error is None:
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """Connections to all servers. Entered on the loop that uses it. Raises ConfigError when made with a --ca that can't be used."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._connect_timeout_s = config.connect_timeout_s
        self._context = _trusting(config.ca)
        self._answers: WeakSet[Answer] = WeakSet()
        self._answer_on: dict[asyncio.Future[None], Answer] = {}  # by the ends of open connections; the last one of each
        self._patiences: set[asyncio.Timeout] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_IDLE_S, ssl=self._context, socket_factory=watched_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            skip_auto_headers=_NOT_ADDED,
            auto_decompress=False,
            trust_env=False,
            max_line_size=_MOST_HEADER_BYTES,
            max_field_size=_MOST_HEADER_BYTES,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every answer that is under way, and every request that has none yet, with ServerDraining."""
        self._is_closed = True
        now = asyncio.get_running_loop().time()
        for patience in self._patiences:
            patience.reschedule(now)
        for answer in self._answers:
            answer.cut()
        await self._session.close()

    async def ask(self, method: str, base: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> Answer:
        """Returns when the answer's head is there. ``target``: path and query as they stand in the request, beginning with a slash.

        Raises ServerUnreached, ServerBroke, ServerDraining.
        """
        if self._is_closed:
            raise _stopping()
        assert target.startswith("/"), "or it could change the host"
        data = io.BytesIO(body) if len(body) > _ONE_WRITE_BYTES else body or None
        try:
            async with self._patience():
                response = await self._session.request(
                    method, URL(base + target, encoded=True), headers=headers, data=data, allow_redirects=False
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise ServerUnreached(f"it took no connection within {self._connect_timeout_s:g} s") from error
        except TimeoutError:
            raise _stopping() from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerUnreached(f"its certificate can't be trusted ({_reason(error.certificate_error)}); see --ca") from error
        except aiohttp.ClientConnectorError as error:
            raise ServerUnreached(f"it takes no connection ({_reason(error.os_error)})") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            if self._is_closed:
                raise _stopping() from None
            raise ServerBroke(f"it broke off before it answered ({_reason(error)})") from error
        if not 200 <= response.status < 600 or any(_CONTROL.search(value) for _, value in response.raw_headers):
            response.close()
            raise ServerBroke(f"what it answered, with status {response.status}, is no HTTP that can be passed on")
        answer = Answer(response)
        self._answers.add(answer)
        self._watch(answer, response)
        return answer

    def _watch(self, answer: Answer, response: aiohttp.ClientResponse) -> None:
        connection = response.connection  # None: the whole answer is there
        if connection is not None and connection.protocol is not None and (end := connection.protocol.closed) is not None:
            if end not in self._answer_on:
                end.add_done_callback(self._connection_ended)
            self._answer_on[end] = answer

    def _connection_ended(self, end: asyncio.Future[None]) -> None:
        if not end.cancelled():
            end.exception()  # which asyncio would else complain of
        self._answer_on.pop(end).connection_ended()

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Without a limit, until ``close`` sets one."""
        async with asyncio.timeout(None) as patience:
            self._patiences.add(patience)
            try:
                yield
            finally:
                self._patiences.discard(patience)


def _stopping() -> ServerDraining:
    return ServerDraining("The router is shutting down and takes no new work.")


def watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _trusting(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ConfigError([f"--ca {ca}: holds no certificate that OpenSSL can read; it must be a PEM file"]) from None
    except OSError as problem:
        raise ConfigError([f"--ca {ca}: can't be read: {problem.strerror}"]) from None


def _reason(error: BaseException) -> str:
    """Without what came: aiohttp shows the bytes that it can't read, and a header's value may be among them."""
    if isinstance(error, aiohttp.ClientResponseError):
        return _NO_HTTP
    if isinstance(error, aiohttp.ClientPayloadError):
        return "it is not complete"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
