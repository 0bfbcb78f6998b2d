"""The scheduler's side of the OffloadingConnector: full blocks are copied out as they are computed, and come back on a prefix hit.

::

    published ─▶ pending ─▶ being saved (the block has a lease) ─▶ in a tier ─▶ loaded into the blocks of a request

A block is copied when it is full, not when it is evicted: eviction would have to wait for the copy. Only some of the cache is under
such a lease at a time. What is pending has none: it is lost if the cache needs the block before its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headway.server.engine.kv.manager import KVCacheManager, Lease
from headway.server.engine.kv.transfer.connector import Arrival
from headway.server.engine.kv.transfer.incoming import Incoming
from headway.server.engine.kv.transfer.offload.tier import Room, Tier
from headway.server.engine.kv.transfer.orders import (
    MAX_SAVED_BLOCKS,
    Copied,
    Discard,
    Found,
    Load,
    Loaded,
    LoadedBlock,
    Order,
    Report,
    Save,
    Saved,
    SavedBlock,
)
from headway.server.engine.request import Request
from headway.server.stats import OffloadStats, TransferStats
from headway.server.types import KVSource

_SAVED_SHARE = 4  # at most a quarter of the cache is being copied out at a time


@dataclass(slots=True)
class _Saving:
    blocks: list[SavedBlock]
    lease: Lease
    num_copying: int  # ranks that read the blocks
    num_saving: int  # ranks that are not done
    is_copied: bool = True
    is_filed: bool = True


@dataclass(slots=True)
class _Counts:
    num_queried_tokens: int = 0
    num_loaded_tokens: int = 0
    num_missed_blocks: int = 0
    num_failed_loads: int = 0
    num_failed_saves: int = 0
    num_loaded_bytes: int = 0
    num_saved_bytes: int = 0
    load_s: float = 0.0
    save_s: float = 0.0
    loads: list[int] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)


class OffloadPolicy:
    """See SchedulerSide and BlockWatcher. Owns what is in either tier, and in which order it goes: the workers do as they are told."""

    recomputes = True  # nobody but this server is to blame for what is not there any more

    def __init__(self, kv: KVCacheManager, *, memory: Tier | None, disk: Tier | None, num_ranks: int) -> None:
        self._kv = kv
        self._memory = memory
        self._disk = disk
        self._num_ranks = num_ranks
        self._max_saving = max(kv.num_blocks // _SAVED_SHARE, 1)
        self._num_under_copy = 0
        self._pending: dict[bytes, bool] = {}  # in the order in which they came; whether it may become a file
        self._saving: dict[int, _Saving] = {}
        self._incoming = Incoming(kv, num_ranks)
        self._num_orders = 0
        self._orders: list[Order] = []
        self._found: list[list[bytes]] = []  # of each rank, until all have told
        self._counts = _Counts()
        kv.watcher = self

    @property
    def is_fetching(self) -> bool:
        return self._incoming.is_fetching

    @property
    def has_leases(self) -> bool:
        return self._num_under_copy > 0 or self._incoming.has_leases

    # Blocks that come

    def num_external_tokens(self, request: Request, num_cached: int) -> int:
        if not self._kv.enable_prefix_caching or request.wants_prompt_logprobs:
            return 0
        size = self._kv.block_size
        num_blocks = 0
        for block_hash in self._kv.block_hashes(request, (request.num_tokens - 1) // size)[num_cached // size :]:
            if not any(block_hash in tier for tier in self._tiers):
                break
            num_blocks += 1
        return num_blocks * size

    @property
    def _tiers(self) -> list[Tier]:
        return [tier for tier in (self._memory, self._disk) if tier is not None]

    def begin_fetch(self, request: Request, block_ids: Sequence[int], num_cached: int, num_external: int) -> None:
        first, last = num_cached // self._kv.block_size, (num_cached + num_external) // self._kv.block_size
        hashes = self._kv.block_hashes(request, last)
        self._on_used(request, hashes, first)
        wanted = list(block_ids[first:last])
        found = zip(wanted, hashes[first:], strict=True)
        blocks = [LoadedBlock(block_id, block_hash, self._slot(block_hash)) for block_id, block_hash in found]
        load_id = self._next_id()
        self._orders.append(Load(load_id, blocks))
        self._incoming.begin(load_id, request, wanted, num_external)
        self._count_query(request, num_cached)

    def _slot(self, block_hash: bytes) -> int | None:
        """In the host's memory, if it is there."""
        return self._memory.slot(block_hash) if self._memory is not None and block_hash in self._memory else None

    def decline(self, request: Request) -> None:
        if request.scheduled_time is None:
            return  # it has never been looked up
        num_cached = request.num_computed_tokens
        num_blocks = num_cached // self._kv.block_size
        self._on_used(request, request.block_hashes[:num_blocks], num_blocks)
        self._count_query(request, num_cached)

    def _on_used(self, request: Request, block_hashes: Sequence[bytes], num_cached_blocks: int) -> None:
        """Of a prefix; its first blocks are in the cache, and are saved again if they were dropped here."""
        for tier in self._tiers:
            tier.touch(block_hashes)
        self.on_published(request, block_hashes[:num_cached_blocks])

    def _count_query(self, request: Request, num_cached: int) -> None:
        if request.num_preemptions == 0:
            self._counts.num_queried_tokens += request.num_tokens - num_cached

    def forget(self, request: Request) -> None:
        self._incoming.forget(request)

    def take_arrivals(self) -> list[Arrival]:
        return self._incoming.take_arrivals()

    # Blocks that go

    def keep(self, request: Request, block_ids: Sequence[int]) -> KVSource | None:
        """Nobody reads these blocks elsewhere."""
        return None

    def offer_computed(self, request: Request, block_ids: Sequence[int]) -> None:
        """See ``keep``."""

    def offer_computing(self, request: Request, block_ids: Sequence[int]) -> None:
        """See ``keep``."""

    def take_announced(self) -> list[tuple[str, KVSource]]:
        return []

    def break_off(self, request: Request) -> None:
        """See ``keep``."""

    def on_published(self, request: Request, block_hashes: Sequence[bytes]) -> None:
        """An adapter's id means another adapter after a restart: its blocks become no files.

        The end of a prefix is copied first, for what is copied last is dropped last, by the cache as by the tiers.
        """
        may_be_filed = request.adapter_id is None
        for block_hash in reversed(block_hashes):
            if self._is_missing(block_hash, self._memory) or (may_be_filed and self._is_missing(block_hash, self._disk)):
                self._pending.setdefault(block_hash, may_be_filed)

    def on_broken(self, block_hashes: Sequence[bytes]) -> None:
        for block_hash in block_hashes:
            self._pending.pop(block_hash, None)
        self._drop(block_hashes)

    def _drop(self, block_hashes: Iterable[bytes]) -> None:
        for block_hash in block_hashes:
            if self._memory is not None:
                self._memory.drop(block_hash)
            if self._disk is not None and self._disk.drop(block_hash):
                self._orders.append(Discard([block_hash]))

    @staticmethod
    def _is_missing(block_hash: bytes, tier: Tier | None) -> bool:
        return tier is not None and not tier.knows(block_hash)

    def take_orders(self) -> list[Order]:
        while self._pending and self._num_under_copy < self._max_saving:
            self._order_save()
        orders, self._orders = self._orders, []
        return orders

    def _order_save(self) -> None:
        """Of some of what is pending, behind the files that go for it."""
        blocks: list[SavedBlock] = []
        num_blocks = min(MAX_SAVED_BLOCKS, self._max_saving - self._num_under_copy)
        while self._pending and len(blocks) < num_blocks:
            block_hash = next(iter(self._pending))
            block = self._placed(block_hash, self._pending.pop(block_hash))
            if block is not None:
                blocks.append(block)
        if not blocks:
            return
        lease = self._kv.lease([block.block_id for block in reversed(blocks)])
        save_id = self._next_id()
        self._saving[save_id] = _Saving(blocks, lease, self._num_ranks, self._num_ranks)
        self._num_under_copy += len(blocks)
        self._orders.append(Save(save_id, blocks))

    def _placed(self, block_hash: bytes, may_be_filed: bool) -> SavedBlock | None:
        """None: it is gone from the cache, or there is no place for it."""
        block_id = self._kv.find_block(block_hash)
        if block_id is None:
            self._counts.num_missed_blocks += 1
            return None
        kept = self._begin(self._memory, block_hash)
        filed = self._begin(self._disk, block_hash) if may_be_filed else None
        if filed is not None and filed.evicted is not None:
            self._orders.append(Discard([filed.evicted]))
        if kept is None and filed is None:
            self._counts.num_missed_blocks += 1
            return None
        return SavedBlock(block_id, block_hash, kept.slot if kept is not None else None, filed is not None)

    def _begin(self, tier: Tier | None, block_hash: bytes) -> Room | None:
        """None: it has it, or no place for it."""
        return tier.begin(block_hash) if tier is not None and self._is_missing(block_hash, tier) else None

    def _next_id(self) -> int:
        self._num_orders += 1
        return self._num_orders

    # What the workers say

    def take_in(self, reports: Iterable[Report]) -> bool:
        has_changed = False
        for report in reports:
            has_changed = True
            match report:
                case Found(block_hashes=found):
                    self._on_found(found)
                case Copied(save_id=save_id):
                    self._on_copied(self._saving[save_id])
                case Saved():
                    self._on_saved(report)
                case Loaded():
                    self._on_loaded(report)
        return has_changed

    def _on_found(self, block_hashes: list[bytes]) -> None:
        """What every rank has is there; what some have is of no use."""
        assert self._disk is not None, "files are found where there are some"
        self._found.append(block_hashes)
        if len(self._found) < self._num_ranks:
            return
        everywhere = set(self._found[0]).intersection(*self._found[1:])
        useless = {block_hash for found in self._found for block_hash in found} - everywhere
        for block_hash in self._found[0]:
            if block_hash in everywhere and not self._disk.knows(block_hash) and (room := self._disk.begin(block_hash)) is not None:
                self._disk.finish(block_hash)
                if room.evicted is not None:
                    useless.add(room.evicted)
        if useless := {block_hash for block_hash in useless if not self._disk.knows(block_hash)}:
            self._orders.append(Discard(sorted(useless)))
        self._found = []

    def _on_copied(self, saving: _Saving) -> None:
        saving.num_copying -= 1
        if saving.num_copying == 0:
            self._kv.end_lease(saving.lease)
            self._num_under_copy -= len(saving.blocks)

    def _on_saved(self, report: Saved) -> None:
        saving, counts = self._saving[report.save_id], self._counts
        saving.num_saving -= 1
        saving.is_copied &= report.is_copied
        saving.is_filed &= report.is_filed
        counts.num_saved_bytes += report.num_bytes
        counts.save_s += report.seconds
        counts.saves.append(report.num_bytes)
        if saving.num_saving > 0:
            return
        del self._saving[report.save_id]
        counts.num_failed_saves += not (saving.is_copied and saving.is_filed)
        for block in saving.blocks:
            if block.slot is not None and self._memory is not None:
                self._memory.finish(block.block_hash, is_lost=not saving.is_copied)
            if block.is_filed and self._disk is not None and not self._disk.finish(block.block_hash, is_lost=not saving.is_filed):
                self._orders.append(Discard([block.block_hash]))

    def _on_loaded(self, report: Loaded) -> None:
        counts = self._counts
        counts.num_loaded_bytes += report.num_bytes
        counts.load_s += report.seconds
        counts.loads.append(report.num_bytes)
        self._drop(report.lost)
        if (ended := self._incoming.rank_done(report.load_id, report.error)) is not None:
            counts.num_failed_loads += ended.is_failed
            counts.num_loaded_tokens += ended.num_tokens
        self._incoming.rank_settled(report.load_id)

    def take_stats(self) -> TransferStats:
        counts = self._counts
        loads, counts.loads = tuple(counts.loads), []
        saves, counts.saves = tuple(counts.saves), []
        offload = OffloadStats(
            num_loaded_bytes=counts.num_loaded_bytes,
            num_saved_bytes=counts.num_saved_bytes,
            load_s=counts.load_s,
            save_s=counts.save_s,
            num_missed_blocks=counts.num_missed_blocks,
            num_failed_loads=counts.num_failed_loads,
            num_failed_saves=counts.num_failed_saves,
            memory_usage=self._memory.usage if self._memory is not None else 0.0,
            disk_usage=self._disk.usage if self._disk is not None else 0.0,
            loads=loads,
            saves=saves,
        )
        return TransferStats(
            num_fetching=self._incoming.num_awaited,
            num_arrived=self._incoming.num_arrived,
            num_queried_tokens=counts.num_queried_tokens,
            num_fetched_tokens=counts.num_loaded_tokens,
            offload=offload,
        )

    def check(self) -> None:
        self._incoming.check()
        for tier in self._tiers:
            tier.check()
