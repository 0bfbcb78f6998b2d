"""Blocks that workers fill for requests, whichever connector they come by: each has a lease until nothing writes it any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from headway.server.engine.kv.manager import KVCacheManager, Lease
from headway.server.engine.kv.transfer.connector import Arrival
from headway.server.engine.request import Request


@dataclass(slots=True)
class _Transfer:
    """``request`` None: it has been told, or has ended, and the blocks wait until nothing writes them."""

    request: Request | None
    lease: Lease
    num_tokens: int
    num_ranks_left: int
    num_unsettled: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """``num_tokens``: that a request has got by it."""

    num_tokens: int
    is_failed: bool


class Incoming:
    """Transfers by their ids, and the arrivals that nobody has taken yet."""

    def __init__(self, kv: KVCacheManager, num_ranks: int) -> None:
        self._kv = kv
        self._num_ranks = num_ranks
        self._transfers: dict[int, _Transfer] = {}
        self._arrivals: deque[Arrival] = deque()

    def __contains__(self, transfer_id: int) -> bool:
        return transfer_id in self._transfers

    @property
    def is_fetching(self) -> bool:
        return bool(self._arrivals) or self.num_awaited > 0

    @property
    def num_awaited(self) -> int:
        return sum(transfer.request is not None for transfer in self._transfers.values())

    @property
    def num_arrived(self) -> int:
        return len(self._arrivals)

    @property
    def has_leases(self) -> bool:
        return bool(self._transfers)

    def begin(self, transfer_id: int, request: Request, block_ids: Sequence[int], num_tokens: int) -> None:
        self._transfers[transfer_id] = _Transfer(request, self._kv.lease(block_ids), num_tokens, self._num_ranks, self._num_ranks)

    def forget(self, request: Request) -> None:
        """It has ended, and hears no more."""
        for transfer in self._transfers.values():
            if transfer.request is request:
                transfer.request = None
        self._arrivals = deque(arrival for arrival in self._arrivals if arrival.request is not request)

    def take_arrivals(self) -> list[Arrival]:
        arrivals, self._arrivals = list(self._arrivals), deque()
        return arrivals

    def rank_done(self, transfer_id: int, error: str | None) -> Ended | None:
        """Returns how it went once all ranks are done."""
        transfer = self._transfers[transfer_id]
        transfer.num_ranks_left -= 1
        transfer.error = transfer.error or error
        if transfer.num_ranks_left > 0:
            return None
        request, transfer.request = transfer.request, None
        if request is not None:
            self._arrivals.append(Arrival(request, transfer.num_tokens, transfer.error))
        is_failed = transfer.error is not None
        return Ended(0 if is_failed or request is None else transfer.num_tokens, is_failed)

    def rank_settled(self, transfer_id: int) -> None:
        """Nothing writes the blocks on one rank more."""
        transfer = self._transfers[transfer_id]
        transfer.num_unsettled -= 1
        if transfer.num_unsettled == 0:
            self._kv.end_lease(self._transfers.pop(transfer_id).lease)

    def check(self) -> None:
        assert self.num_awaited == 0, "a request that has ended is fetched for"
