"""The requests of one asynchronous endpoint: first come, first served, and each copy with so many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from headway.container.local.errors import PlatformError
from headway.container.local.targets import Target, Targets, Wish

# Copies come and go without telling the line.
_LOOK_AGAIN_S = 0.25


class Expired(Exception):
    """No copy was free in time."""


class Line:
    """``num_waiting``: requests that no copy has taken yet."""

    def __init__(self, targets: Targets, endpoint: str) -> None:
        self._targets = targets
        self._endpoint = endpoint
        self._turn = asyncio.Lock()  # its waiters are woken in the order in which they came
        self._freed = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self.num_waiting = 0

    @contextlib.asynccontextmanager
    async def place(self, ttl_s: float) -> AsyncIterator[Target]:
        """A copy with room for one more. Raises Expired, and PlatformError once the endpoint is gone."""
        with contextlib.ExitStack() as lease:
            self.num_waiting += 1
            try:
                async with asyncio.timeout(ttl_s), self._turn:
                    target = await self._free_copy(lease)
                    self._busy[target.url] += 1
            except TimeoutError as error:
                raise Expired from error
            finally:
                self.num_waiting -= 1
            try:
                yield target
            finally:
                self._busy[target.url] -= 1
                self._freed.set()

    async def _free_copy(self, lease: contextlib.ExitStack) -> Target:
        while True:
            self._freed.clear()
            config = self._targets.async_inference(self._endpoint)
            # There may be no copy now: an endpoint that is scaled to none lets its requests wait.
            with contextlib.suppress(PlatformError), contextlib.ExitStack() as attempt:
                full = frozenset(url for url, num in self._busy.items() if config and num >= config.max_concurrent_per_copy)
                target = attempt.enter_context(self._targets.lease(self._endpoint, Wish(full=full)))
                if target.url not in full:
                    lease.push(attempt.pop_all())
                    return target
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _LOOK_AGAIN_S)
