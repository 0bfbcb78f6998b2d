"""Requests that begin alike go to one server, as long as that has not more than its share to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headway.server.router.policies.least_load import NUM_OPEN, LeastLoad
from headway.server.router.policies.ring import Ring
from headway.server.router.servers import Server

# Of the mean: what a server may have open before its keys go on to the next one. Consistent Hashing with Bounded Loads (Mirrokni et
# al., 2016) shows that between 1 and 2 few keys move.
BOUND = 1.25


class PrefixHash:
    """See Policy. A request without a key goes where there is the least to do."""

    def __init__(self) -> None:
        self._ring = Ring([])
        self._keyless = LeastLoad()
        self._candidates: tuple[Server, ...] = ()  # the last ones
        self._by_url: dict[str, Server] = {}

    def update(self, urls: Sequence[str]) -> None:
        self._ring = Ring(urls)
        self._keyless.update(urls)

    def choose(self, candidates: tuple[Server, ...], key: bytes | None, now: float) -> Server:
        if key is None:
            return self._keyless.choose(candidates, key, now)
        most = bound_of(candidates)
        if candidates is not self._candidates:
            self._candidates, self._by_url = candidates, {server.url: server for server in candidates}
        for url in self._ring.from_key(key):
            server = self._by_url.get(url)
            if server is not None and server.num_open < most:
                return server
        return self._keyless.choose(candidates, key, now)


def bound_of(candidates: Sequence[Server]) -> int:
    """How many requests each may have open, with the new one. At least one candidate has fewer."""
    total: int = sum(map(NUM_OPEN, candidates)) + 1
    return math.ceil(BOUND * total / len(candidates))
