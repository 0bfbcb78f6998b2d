"""All servers of the router, or those of one half: which there are, which can be asked, which one is chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from headway.server.errors import NoServerAvailable
from headway.server.router.health import Health
from headway.server.router.load_report import read_report
from headway.server.router.metrics import RouterMetrics
from headway.server.router.policies.base import Policy
from headway.server.router.servers import Server
from headway.server.words import first_few

log = logging.getLogger(__name__)

_TELL_EVERY_S = 10.0
# A server that is full seldom says for how long; others are asked meanwhile. Nor is one let off for longer than the second.
_REST_S, _LONGEST_REST_S = 1.0, 30.0


class Fleet:
    """Owns the servers' states. Of the event loop's thread only."""

    def __init__(self, policy: Policy, metrics: RouterMetrics, eject_after: int = 3, clock: Callable[[], float] = time.monotonic) -> None:
        self.servers: tuple[Server, ...] = ()
        self._policy = policy
        self._metrics = metrics
        self._eject_after = eject_after
        self._now = clock
        self._told_at = -_TELL_EVERY_S
        self._candidates: tuple[Server, ...] = ()  # of a first try, while nobody rests; empty: to be found anew
        metrics.watch(lambda: self.servers)

    def update(self, urls: Sequence[str]) -> None:
        """These are the servers now. What is open at one that is gone goes on."""
        known = {server.url: server for server in self.servers}
        self.servers = tuple(known.pop(url) if url in known else Server(url, Health(self._eject_after)) for url in urls)
        self._candidates = ()
        self._policy.update(urls)
        self._metrics.forget_the_gone()
        for server in self.servers:
            self._metrics.show(server)

    @property
    def num_healthy(self) -> int:
        return sum(server.health.is_healthy for server in self.servers)

    def choose(self, key: bytes | None, tried: Collection[Server] = ()) -> Server | None:
        """A healthy server that is not among ``tried``, one that rests only if there is no other; None where there is none at all."""
        now = self._now()
        candidates = self._candidates if self._candidates and not tried else self._find_candidates(tried, now)
        return self._policy.choose(candidates, key, now) if candidates else None

    def _find_candidates(self, tried: Collection[Server], now: float) -> tuple[Server, ...]:
        healthy = tuple(server for server in self.servers if server.health.is_healthy and server not in tried)
        rested = tuple(server for server in healthy if not server.health.is_resting(now))
        if not tried and len(rested) == len(healthy):
            self._candidates = rested
        return rested or healthy

    @contextmanager
    def taking(self, server: Server) -> Iterator[None]:
        """Around a request's whole time there."""
        server.num_open += 1
        self._metrics.show_open(server)
        try:
            yield
        finally:
            server.num_open -= 1
            self._metrics.show_open(server)

    def has_another(self, tried: Collection[Server]) -> bool:
        """Whether ``choose`` would find one."""
        return any(server.health.is_healthy and server not in tried for server in self.servers)

    def none_available(self) -> NoServerAvailable:
        """For a request that no server takes. The log says which are there and why they get nothing; a client must not know them."""
        now = self._now()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            states = [f"{server.url}: {server.health.cause or 'it is healthy, and has just failed'}" for server in self.servers]
            log.error("No server takes requests: %s", first_few(states, 20))
        return NoServerAvailable("None of the servers behind this router takes requests now; try again soon.")

    def is_well(self, server: Server) -> None:
        if server.health.is_well():
            self._candidates = ()
            self._metrics.show(server)
            log.info("%s is healthy and gets requests", server.url)

    def refused(self, server: Server, cause: str) -> None:
        cause_before = server.health.cause
        if server.health.refused(cause):
            self._eject(server)
        elif cause_before != cause:
            log.info("%s still gets no requests: %s", server.url, cause)

    def was_late(self, server: Server, cause: str) -> None:
        if server.health.was_late(cause):
            self._eject(server)

    def broke(self, server: Server, cause: str) -> None:
        if server.health.broke(cause):
            self._eject(server)

    def rest(self, server: Server, retry_after: str | None) -> None:
        """It answered 503, and asks for as many seconds of peace."""
        asked = float(retry_after) if retry_after is not None and retry_after.isdecimal() else _REST_S
        self._candidates = ()
        server.health.rest(self._now() + min(asked, _LONGEST_REST_S))

    def heard(self, server: Server, load_header: str | None) -> None:
        if load_header is not None and (report := read_report(load_header, self._now())) is not None:
            server.report = report

    def _eject(self, server: Server) -> None:
        self._candidates = ()
        self._metrics.show(server)
        self._metrics.count_ejection(server.url)
        log.warning(
            "%s gets no requests: %s; %d of %d servers are healthy", server.url, server.health.cause, self.num_healthy, len(self.servers)
        )
