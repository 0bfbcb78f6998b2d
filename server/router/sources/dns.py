"""Servers by a name that has an address for each: a headless Service of Kubernetes, a service of ECS in Cloud Map."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from headway.server.router.addresses import url_at
from headway.server.router.sources.changes import Changes

RESOLVE_EVERY_S = 5.0


class DnsName:
    """See Addresses. Resolved again and again, by the system's own resolver, which may remember an answer for as long as it is good."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port

    async def run(self, tell: Callable[[list[str]], object]) -> None:
        """A name that can't be resolved changes nothing: of a name without addresses and of a resolver in trouble the answer is the same,
        and a server that has gone is ejected by its silence."""
        loop = asyncio.get_running_loop()
        changes = Changes(f"dns://{self._name}:{self._port}", tell)
        while True:
            try:
                found = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as problem:
                changes.failed(f"can't be resolved ({getattr(problem, 'strerror', None) or problem})")
            else:
                changes.found([url_at(host, self._port) for host in _of_one_family(found)])
            await asyncio.sleep(RESOLVE_EVERY_S)


def _of_one_family(found: Sequence[tuple[int, int, int, str, tuple[Any, ...]]]) -> set[str]:
    """A server of two families is one server: IPv4 if there is any."""
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    return by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or set()
