"""The endpoint of `--url`: one server that runs, called by a name and in service at once. Nothing here starts or stops it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from headway.container.local.errors import NO_COMPONENTS, PlatformError, unknown_endpoint, validation_error
from headway.container.local.faults import Faults
from headway.container.local.health import Pace, Pinger
from headway.container.local.targets import AsyncInference, Target, Wish
from headway.server.say import say

VARIANT = "AllTraffic"
_PACE = Pace()


class OneEndpoint:
    """Implements Targets."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._target = Target(url, VARIANT)
        self._bad_pings = 0
        self._problem = ""

    @contextlib.contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        self._find(endpoint)
        if wish.variant not in (None, VARIANT):
            raise validation_error(f"Variant {wish.variant} of endpoint {endpoint} not found: there is {VARIANT}.")
        if wish.component is not None:
            raise validation_error(NO_COMPONENTS)
        if wish.hostname is not None:
            raise validation_error(f"Container {wish.hostname} not found: an endpoint of --url has one container, without a host name.")
        if self._bad_pings >= _PACE.num_bad_pings:
            raise PlatformError(503, "ServiceUnavailable", f"The container of endpoint {endpoint} fails its pings: {self._problem}.")
        yield self._target

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        self._find(endpoint)
        return None

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        """There is one copy, and it knows its sessions."""

    def close_session(self, endpoint: str, session: str) -> None:
        """As above."""

    def _find(self, endpoint: str) -> None:
        if endpoint != self.name:
            raise unknown_endpoint(endpoint, f"`headway local --url` serves {self.name}.")

    async def keep_pinging(self, faults: Faults, every_s: float = _PACE.ping_every_s) -> None:
        """Until it is cancelled. Says when the answers turn bad, and when they are good again."""
        async with contextlib.aclosing(Pinger(_PACE.ping_limit_s, faults)) as pinger:
            while True:
                self._record(await pinger.ping(self._target.url))
                await asyncio.sleep(every_s)

    def _record(self, problem: str | None) -> None:
        was_bad = self._bad_pings >= _PACE.num_bad_pings
        self._bad_pings = self._bad_pings + 1 if problem else 0
        if problem:
            self._problem = problem
        if not was_bad and self._bad_pings >= _PACE.num_bad_pings:
            say("warning", f"{self._target.url}/ping: {problem}; calls get ServiceUnavailable until it is 200 again")
        elif was_bad and not problem:
            say("warning", f"{self._target.url}/ping is 200 again")
