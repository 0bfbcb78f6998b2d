"""The scheduler's side of the NixlConnector: a decode server reads a prompt's KV where a prefill server keeps it.

A kept prompt has a token that nobody can guess and a digest. Both are asked for before a block is told, so a request can have the KV
of no prompt but its own, whatever it says.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.prefix import root_hash
from headway.server.engine.kv.transfer.connector import Arrival
from headway.server.engine.kv.transfer.incoming import Incoming
from headway.server.engine.kv.transfer.nixl.kept import Kept
from headway.server.engine.kv.transfer.orders import Claimed, Fetch, Fetched, Order, Report, Sent, Settled
from headway.server.engine.request import Request
from headway.server.stats import TransferDone, TransferStats
from headway.server.types import KVSource


@dataclass(frozen=True, slots=True)
class Address:
    """Where this engine is found by others, and by what name. Its rank r listens at ``port`` + r; ``hosts`` are those of the ranks, if
    they are not all at ``host``."""

    engine_id: str
    host: str
    port: int
    hosts: tuple[str, ...] = ()


@dataclass(slots=True)
class _Counts:
    num_queried_tokens: int = 0
    num_fetched_tokens: int = 0
    num_failed: int = 0
    done: list[TransferDone] = field(default_factory=list)


class NixlPolicy:
    """See SchedulerSide."""

    def __init__(
        self,
        kv: KVCacheManager,
        address: Address,
        *,
        num_ranks: int,
        recomputes: bool,
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``keep_s``: how long a prompt is kept for a server that does not come."""
        self.recomputes = recomputes
        self._kv = kv
        self._address = address
        self._num_ranks = num_ranks
        self._orders: list[Order] = []
        self._kept = Kept(kv, num_ranks, keep_s, clock, self._orders.append)
        self._announced: list[tuple[str, KVSource]] = []
        self._incoming = Incoming(kv, num_ranks)
        self._num_fetches = 0
        self._counts = _Counts()

    @property
    def is_fetching(self) -> bool:
        return self._incoming.is_fetching

    @property
    def has_leases(self) -> bool:
        return len(self._kept) > 0 or self._incoming.has_leases

    # KV that comes

    def num_external_tokens(self, request: Request, num_cached: int) -> int:
        if _source_of(request) is None or request.wants_prompt_logprobs:
            return 0
        return max(request.num_prompt_tokens - 1 - num_cached, 0)

    def begin_fetch(self, request: Request, block_ids: Sequence[int], num_cached: int, num_external: int) -> None:
        first = num_cached // self._kv.block_size
        wanted = list(block_ids[first : -(-(num_cached + num_external) // self._kv.block_size)])
        fetch_id = self._order_fetch(request, first, wanted)
        self._incoming.begin(fetch_id, request, wanted, num_external)
        self._counts.num_queried_tokens += num_external

    def decline(self, request: Request) -> None:
        if _source_of(request) is not None:
            self._order_fetch(request, 0, [])

    def _order_fetch(self, request: Request, first_block: int, block_ids: list[int]) -> int:
        """The source is tried once: the other server keeps nothing for a second time."""
        asked = request.kv_transfer
        assert asked is not None, f"request {request.request_id} has nothing to fetch"
        assert asked.source is not None, f"request {request.request_id} only keeps"
        self._num_fetches += 1
        self._orders.append(Fetch(self._num_fetches, asked.source, prompt_digest(request), first_block, block_ids))
        request.kv_transfer = msgspec.structs.replace(asked, source=None)
        return self._num_fetches

    def forget(self, request: Request) -> None:
        self._incoming.forget(request)

    def take_arrivals(self) -> list[Arrival]:
        return self._incoming.take_arrivals()

    # KV that goes

    def offer_computed(self, request: Request, block_ids: Sequence[int]) -> None:
        if request.request_id not in self._kept:
            token = self._kept.begin(request, prompt_digest(request))
            self._announced.append((request.request_id, self._source(token, ())))
        num_full = min(request.num_computed_tokens, request.num_prompt_tokens) // self._kv.block_size
        self._kept.extend(request, block_ids[:num_full])

    def offer_computing(self, request: Request, block_ids: Sequence[int]) -> None:
        """The blocks that will be full; of the last tokens of the prompt, whatever block they are in."""
        if request.request_id in self._kept:
            num_tokens = request.num_scheduled_tokens
            is_whole = num_tokens >= request.num_prompt_tokens
            num_blocks = -(-request.num_prompt_tokens // self._kv.block_size) if is_whole else num_tokens // self._kv.block_size
            self._kept.computing(request, block_ids[:num_blocks])

    def take_announced(self) -> list[tuple[str, KVSource]]:
        announced, self._announced = self._announced, []
        return announced

    def break_off(self, request: Request) -> None:
        self._kept.break_off(request)

    def keep(self, request: Request, block_ids: Sequence[int]) -> KVSource | None:
        if request.kv_transfer is None or not request.kv_transfer.keeps:
            return None
        blocks = list(block_ids[: -(-request.num_prompt_tokens // self._kv.block_size)])
        kept = self._kept
        token = kept.complete(request, blocks) if request.request_id in kept else kept.add(prompt_digest(request), blocks)
        return self._source(token, blocks)

    def _source(self, token: str, block_ids: Sequence[int]) -> KVSource:
        address = self._address
        return KVSource(address.engine_id, token, address.host, address.port, self._num_ranks, tuple(block_ids), address.hosts)

    # What the workers say

    def take_in(self, reports: Iterable[Report]) -> bool:
        has_changed = self._kept.let_go_of_overdue()
        for report in reports:
            has_changed = True
            match report:
                case Claimed(token=token):
                    self._kept.claimed(token)
                case Sent(token=token, is_lost=is_lost):
                    self._kept.sent(token, is_lost)
                case Fetched():
                    self._on_fetched(report)
                case Settled(fetch_id=fetch_id):
                    self._incoming.rank_settled(fetch_id)
        return has_changed

    def _on_fetched(self, report: Fetched) -> None:
        if report.fetch_id not in self._incoming:
            return  # declined: nothing was asked for
        if report.error is None:
            self._counts.done.append(TransferDone(report.transfer_s, report.post_s, report.num_bytes, report.num_descriptors))
        if (ended := self._incoming.rank_done(report.fetch_id, report.error)) is not None:
            self._counts.num_failed += ended.is_failed
            self._counts.num_fetched_tokens += ended.num_tokens
        if report.is_settled:
            self._incoming.rank_settled(report.fetch_id)

    def take_orders(self) -> list[Order]:
        orders = self._orders.copy()
        self._orders.clear()
        return orders

    def take_stats(self) -> TransferStats:
        counts = self._counts
        done, counts.done = tuple(counts.done), []
        return TransferStats(
            num_fetching=self._incoming.num_awaited,
            num_arrived=self._incoming.num_arrived,
            num_kept=len(self._kept),
            num_queried_tokens=counts.num_queried_tokens,
            num_fetched_tokens=counts.num_fetched_tokens,
            num_failed=counts.num_failed,
            num_expired=self._kept.num_expired,
            done=done,
        )

    def check(self) -> None:
        self._incoming.check()
        self._kept.check()


def prompt_digest(request: Request) -> bytes:
    """Of the prompt's tokens and its tenant: what two servers compare before one reads from the other."""
    tokens = array("i", request.token_ids[: request.num_prompt_tokens])
    return sha256(b"prompt:" + root_hash(request.cache_salt, request.adapter_id) + tokens.tobytes()).digest()


def _source_of(request: Request) -> KVSource | None:
    return request.kv_transfer.source if request.kv_transfer is not None else None
