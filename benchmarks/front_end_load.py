"""Requests through kept-alive connections, and what they leave behind in the server."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from dataclasses import dataclass

import aiohttp
import psutil
from front_end_works import Work, WrongAnswer

from headway.server.bench.machine import process_tree, tree_cpu_s

_SETTLE_S = 10.0
_TIMEOUT_S = 60.0
_MAX_FAILURES = 20  # then a run ends: the rest would say the same


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load. ``tls`` None: plain HTTP."""

    url: str
    api_key: str
    tls: ssl.SSLContext | None
    pid: int


@dataclass(frozen=True, slots=True)
class Run:
    """``cpu_s`` and ``client_cpu_s`` are seconds of the server's processes and of this one."""

    work: str
    wall_s: float
    times_s: list[float]
    cpu_s: float
    client_cpu_s: float
    num_connections: int  # that were opened
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process of a server holds."""

    pid: int
    rss_bytes: int
    num_fds: int


async def load(target: Target, work: Work, num_requests: int, num_connections: int) -> Run:
    """``num_connections`` clients, each with one request open and one connection, until ``num_requests`` are answered."""
    times: list[float] = []
    failures: list[str] = []
    numbers = iter(range(num_requests))
    opened = itertools.count()

    async def count(*_: object) -> None:
        next(opened)

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if len(failures) >= _MAX_FAILURES:
                return
            started = time.perf_counter()
            try:
                await _ask(session, target.url, work, number)
            except (aiohttp.ClientError, TimeoutError, WrongAnswer) as error:
                failures.append(f"request {number}: {type(error).__name__}: {error}")
            else:
                times.append(time.perf_counter() - started)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    connector = aiohttp.TCPConnector(limit=num_connections, ssl=target.tls or False)
    headers = {"Authorization": f"Bearer {target.api_key}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, trace_configs=[trace]) as session:
        cpu, own_cpu, started = tree_cpu_s(target.pid), time.process_time(), time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(num_connections)))
        wall_s = time.perf_counter() - started
        cpu_s, own_cpu_s = tree_cpu_s(target.pid) - cpu, time.process_time() - own_cpu
    return Run(work.name, wall_s, times, cpu_s, own_cpu_s, next(opened), failures)


async def _ask(session: aiohttp.ClientSession, url: str, work: Work, number: int) -> None:
    """Raises WrongAnswer, ClientError, TimeoutError."""
    request_id = f"front-end-{number:08}"
    async with session.post(url + work.path, data=work.body(number), headers={"X-Request-Id": request_id}) as response:
        content = await response.read()
        if response.status != 200:
            raise WrongAnswer(f"HTTP {response.status}: {content[:200].decode(errors='replace')}")
    work.check(number, request_id, content)


async def settled(pid: int) -> list[Holding]:
    """What each process holds once that no longer falls: closed connections take a moment."""
    deadline = time.monotonic() + _SETTLE_S
    holdings = _holdings(pid)
    while time.monotonic() < deadline:
        await asyncio.sleep(1.0)
        before, holdings = holdings, _holdings(pid)
        if sum(h.num_fds for h in holdings) >= sum(h.num_fds for h in before):
            break
    return holdings


def _holdings(pid: int) -> list[Holding]:
    found = []
    for process in process_tree(pid):
        try:
            found.append(Holding(process.pid, process.memory_info().rss, process.num_fds()))
        except psutil.NoSuchProcess:
            continue
    return found
