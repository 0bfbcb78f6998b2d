"""The scheduler's requests whose KV comes from outside or is kept for others. Where there is no connector, none does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from headway.server.engine.kv.manager import CachedPrefix, KVCacheManager
from headway.server.engine.kv.transfer.connector import Arrival, SchedulerSide
from headway.server.engine.request import Request
from headway.server.types import KVSource


class Transfers:
    """Which requests are FETCHING: those on whose blocks a transfer works, and those whose KV is there and that wait for a step."""

    def __init__(self, kv: KVCacheManager, connector: SchedulerSide | None) -> None:
        self._kv = kv
        self._connector = connector
        self._fetching: dict[str, Request] = {}
        self._arrived: deque[Arrival] = deque()

    def __len__(self) -> int:
        return len(self._fetching)

    @property
    def recomputes(self) -> bool:
        """Whether a request whose KV does not come computes it; else it fails."""
        return self._connector is not None and self._connector.recomputes

    def num_external_tokens(self, request: Request, prefix: CachedPrefix) -> int:
        """Tokens behind the prefix whose KV can be fetched."""
        return 0 if self._connector is None else self._connector.num_external_tokens(request, prefix.num_tokens)

    def begin(self, request: Request, block_ids: list[int], prefix: CachedPrefix, num_external: int) -> None:
        assert self._connector is not None, "nothing comes from nowhere"
        self._fetching[request.request_id] = request
        self._connector.begin_fetch(request, block_ids, prefix.num_tokens, num_external)

    def decline(self, request: Request) -> None:
        """It computes what it needs, or has it."""
        if self._connector is not None:
            self._connector.decline(request)

    def next_arrival(self) -> Arrival | None:
        """The request whose KV has come, or will not, longest ago; it stays FETCHING until ``take``."""
        if self._connector is not None:
            self._arrived += self._connector.take_arrivals()
        return self._arrived[0] if self._arrived else None

    def take(self, arrival: Arrival) -> None:
        first = self._arrived.popleft()
        assert first is arrival, "arrivals are taken in their order"
        del self._fetching[arrival.request.request_id]

    def forget(self, request: Request) -> None:
        """A request that is FETCHING ends."""
        del self._fetching[request.request_id]
        if self._connector is not None:
            self._connector.forget(request)
        self._arrived = deque(arrival for arrival in self._arrived if arrival.request is not request)

    def offer_computed(self, request: Request) -> None:
        """A request that runs may have computed more: whoever reads its KV meanwhile hears of it."""
        if self._connector is not None and request.kv_transfer is not None and request.kv_transfer.announces:
            self._connector.offer_computed(request, self._kv.block_ids(request))

    def offer_computing(self, requests: Iterable[Request]) -> None:
        """A plan was made that computes more of these."""
        if self._connector is None:
            return
        for request in requests:
            if request.kv_transfer is not None and request.kv_transfer.announces:
                self._connector.offer_computing(request, self._kv.block_ids(request))

    def break_off(self, request: Request) -> None:
        """It gives its blocks back before they are whole."""
        if self._connector is not None and request.kv_transfer is not None:
            self._connector.break_off(request)

    def keep(self, request: Request) -> KVSource | None:
        """Before the blocks of a request are freed that ends with an answer."""
        return None if self._connector is None else self._connector.keep(request, self._kv.block_ids(request))

    def check(self) -> None:
        """Asserts what must hold when no request is open."""
        assert not self._fetching, f"{len(self._fetching)} requests are fetched for that are not open"
        if self._connector is not None:
            self._connector.check()
