"""A client that costs little: plain HTTP/1.1 over kept-alive connections, packets kept as they come and read once the clock has stopped.

Of 10 us an event that it costs (2 cores, 2026-11), 8 are the kernel's and the event loop's. Parsing events as they come, as bench/client.py
and front_end_load.py do, would double that, on the cores that the server needs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import psutil
from front_end_works import WrongAnswer

from headway.server.bench.machine import process_tree

_CHUNKS_END = b"0\r\n\r\n"
_PATIENCE_S = 120.0


@dataclass(slots=True)
class Exchange:
    """One request and its answer. Times are those of time.perf_counter()."""

    number: int
    started: float
    times: list[float] = field(default_factory=list)  # parallel to ``packets``
    packets: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """By process. ``api``: the one that was started, ``engine``: its children."""

    api: float
    engine: float
    client: float

    def __sub__(self, earlier: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.api - earlier.api, self.engine - earlier.engine, self.client - earlier.client)

    @classmethod
    def now(cls, server_pid: int) -> CpuSeconds:
        root, *children = process_tree(server_pid)
        return cls(_cpu_s(root), sum(map(_cpu_s, children)), time.process_time())


@dataclass(frozen=True, slots=True)
class Load:
    exchanges: list[Exchange]
    wall_s: float
    cpu: CpuSeconds


async def load(port: int, requests: list[bytes], num_requests: int, num_connections: int, server_pid: int) -> Load:
    """``num_connections`` clients, each with one request open, until ``num_requests`` are answered. ``requests`` are taken in turn.

    Raises WrongAnswer where the server closes a connection, ConnectionError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    numbers = iter(range(num_requests))
    exchanges: list[Exchange] = []
    connections = [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(num_connections)]

    async def client(connection: _Connection) -> None:
        for number in numbers:
            exchange = Exchange(number, time.perf_counter())
            await connection.exchange(requests[number % len(requests)], exchange)
            exchanges.append(exchange)

    try:
        before, started = CpuSeconds.now(server_pid), time.perf_counter()
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*map(client, connections))
        return Load(exchanges, time.perf_counter() - started, CpuSeconds.now(server_pid) - before)
    finally:
        for connection in connections:
            connection.close()


def post(port: int, path: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def body_of(exchange: Exchange) -> bytes:
    """The answer's body. Raises WrongAnswer for another status than 200."""
    head, _, body = b"".join(exchange.packets).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise WrongAnswer(f"request {exchange.number}: {head[:100]!r} {body[:200]!r}")
    return b"".join(_chunks(body)) if b"transfer-encoding: chunked" in head else body


def _chunks(body: bytes) -> list[bytes]:
    chunks, at = [], 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end], 16)
        if size == 0:
            return chunks
        chunks.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2


class _Connection(asyncio.Protocol):
    """One kept-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self._tail = b""
        self._num_owed: int | None = None  # bytes of an answer that is no stream

    async def exchange(self, request: bytes, exchange: Exchange) -> None:
        assert self._transport is not None
        self._exchange, self._tail, self._num_owed = exchange, b"", None
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        exchange, done = self._exchange, self._done
        assert exchange is not None, "the server speaks when spoken to"
        assert done is not None, "made with the exchange"
        exchange.times.append(time.perf_counter())
        exchange.packets.append(data)
        if len(exchange.packets) == 1:
            self._num_owed = _length_owed(data)
        elif self._num_owed is not None:
            self._num_owed -= len(data)
        self._tail = (self._tail + data)[-len(_CHUNKS_END) :]
        if not done.done() and (self._tail == _CHUNKS_END if self._num_owed is None else self._num_owed <= 0):
            done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(WrongAnswer("the server closed the connection in the middle of an answer"))


def _length_owed(data: bytes) -> int | None:
    """Bytes of the body that are still to come, of an answer whose head is in ``data``; None for a stream."""
    head, _, body = data.partition(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) - len(body) if found else None


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
