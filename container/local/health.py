"""What the platform asks of a copy with GET /ping, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from headway.container.local.faults import Faults


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds and counts; documented by the platform but for those between pings and before a new start, and the counts of pings."""

    start_ping_every_s: float = 1.0
    ping_every_s: float = 5.0
    ping_limit_s: float = 2.0
    start_window_s: float = 480.0  # where ContainerStartupHealthCheckTimeoutInSeconds says nothing
    num_good_pings: int = 2  # in a row, until a copy that starts is in service
    num_bad_pings: int = 3  # in a row, until a copy that serves is replaced
    stop_patience_s: float = 30.0
    drain_limit_s: float = 60.0  # how long requests that are open may go on before SIGTERM
    first_pause_s: float = 1.0  # before a copy is started anew; doubled each time
    longest_pause_s: float = 60.0


class Pinger:
    """Owns its connections; ``aclose`` it."""

    def __init__(self, limit_s: float, faults: Faults) -> None:
        self._limit_s = limit_s
        self._faults = faults
        self._session: aiohttp.ClientSession | None = None

    async def ping(self, url: str) -> str | None:
        """What is wrong with the answer; None for a 200 within the limit."""
        delay_s = self._faults.ping_delay_s()
        late = f"no answer within {self._limit_s:g} s"
        if delay_s >= self._limit_s:
            return f"{late} (a fault)"
        if self._session is None:
            self._session = new_session()
        # The platform has 0.25 s for the connection alone; this loop may be late by that without the copy's fault.
        limit = aiohttp.ClientTimeout(total=self._limit_s - delay_s)
        try:
            async with self._session.get(f"{url}/ping", timeout=limit, allow_redirects=False) as answer:
                return None if answer.status == 200 else f"status {answer.status}"
        except TimeoutError:
            return late
        except aiohttp.ClientError as error:
            return f"no connection ({type(error).__name__})"

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def new_session() -> aiohttp.ClientSession:
    """Each request on a connection of its own, straight to the copy."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False)
