"""Which request has which KV blocks, and which computed prefixes it may share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headway.server.engine.kv.block_pool import BlockPool
from headway.server.engine.kv.prefix import extend_hashes
from headway.server.engine.request import Request


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Full blocks that hold the start of a request. Good until the next change of the manager."""

    block_ids: list[int] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(slots=True)
class _Holding:
    """A request's blocks in the sequence's order. The first ``num_published`` were offered to others (or came from them)."""

    block_ids: list[int]
    num_published: int = 0
    may_publish: bool = True  # False: computed before a reset of the cache


_NOTHING = CachedPrefix()


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """Blocks that a transfer reads or writes: they are nobody else's until it ends, whatever becomes of their request."""

    block_ids: tuple[int, ...]


class BlockWatcher(Protocol):
    """Hears of content, beside the manager."""

    def on_published(self, request: Request, block_hashes: Sequence[bytes]) -> None:
        """The request has these full blocks, which others may find from now on."""
        ...

    def on_broken(self, block_hashes: Sequence[bytes]) -> None:
        """Nobody is to find these any more."""
        ...


class KVCacheManager:
    """Owns blocks, hashes and counts. A request holds blocks from its first ``allocate`` to ``free``.

    A block is shared only after ``publish``, which is called when the step that wrote it has come back. So a block that others find
    was written by an earlier step, whatever the order of rows within one; the price is that requests with the same prompt that are
    admitted in the same step compute it once each.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self._pool = BlockPool(num_blocks)
        self._holdings: dict[str, _Holding] = {}
        self._leases: set[Lease] = set()
        self.watcher: BlockWatcher | None = None

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be given out, those with cached content included."""
        return self._pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self._pool.num_blocks - self._pool.num_free

    @property
    def capacity(self) -> int:
        """Tokens in the whole cache."""
        return self._pool.num_blocks * self.block_size

    def block_ids(self, request: Request) -> list[int]:
        """A copy of what the request holds, in the sequence's order."""
        holding = self._holdings.get(request.request_id)
        return list(holding.block_ids) if holding else []

    def find_prefix(self, request: Request) -> CachedPrefix:
        """The longest cached prefix of a request that holds no blocks; at least one token is left to compute.

        Empty for a request that wants prompt logprobs: they come from computing the prompt. Changes nothing.
        """
        if not self.enable_prefix_caching or request.wants_prompt_logprobs:
            return _NOTHING
        block_ids: list[int] = []
        for index in range((request.num_tokens - 1) // self.block_size):
            self._hash(request, index + 1)
            block_id = self._pool.find(request.block_hashes[index])
            if block_id is None:
                break
            block_ids.append(block_id)
        return CachedPrefix(block_ids, len(block_ids) * self.block_size)

    def find_block(self, block_hash: bytes) -> int | None:
        """The block with that content; it stays what it is only under a lease."""
        return self._pool.find(block_hash)

    def block_hashes(self, request: Request, num_blocks: int) -> list[bytes]:
        """Of its first full blocks, whether they are computed or not."""
        self._hash(request, num_blocks)
        return request.block_hashes[:num_blocks]

    def allocate(self, request: Request, num_tokens: int, prefix: CachedPrefix = _NOTHING, num_spare: int = 0) -> list[int] | None:
        """Makes the request hold blocks for its first ``num_tokens`` tokens. Returns the blocks appended, in order.

        All or nothing: None, and no change, if that would leave fewer than ``num_spare`` free blocks. ``prefix`` is what
        ``find_prefix`` just returned and only for a request that holds nothing; its blocks come first in the answer and are held
        before others are taken, so that none of them is evicted for the rest.
        """
        holding = self._holdings.get(request.request_id)
        assert holding is None or not prefix.block_ids, f"request {request.request_id} already has a prefix"
        num_held = len(holding.block_ids) if holding else len(prefix.block_ids)
        num_new = max(-(-num_tokens // self.block_size) - num_held, 0)
        if num_new == 0 and holding is not None:
            return []
        if num_new + self._pool.num_free_among(prefix.block_ids) + num_spare > self._pool.num_free:
            return None
        self._pool.hold(prefix.block_ids)
        taken = prefix.block_ids + self._pool.allocate(num_new)
        if holding is None:
            self._holdings[request.request_id] = _Holding(taken.copy(), num_published=len(prefix.block_ids))
        else:
            holding.block_ids += taken
        return taken

    def count_lookup(self, request: Request, prefix: CachedPrefix) -> None:
        """Counts a lookup in the statistics: once a request, when it first runs."""
        if self.enable_prefix_caching and not request.wants_prompt_logprobs:
            self.num_queried_tokens += request.num_tokens
            self.num_hit_tokens += prefix.num_tokens

    def publish(self, request: Request) -> None:
        """Lets others share the full blocks among the request's ``num_computed_tokens``, whose steps have come back."""
        holding = self._holdings[request.request_id]
        num_full = request.num_computed_tokens // self.block_size
        if num_full <= holding.num_published or not self.enable_prefix_caching or not holding.may_publish:
            return
        self._hash(request, num_full)
        for index in range(holding.num_published, num_full):
            self._pool.publish(holding.block_ids[index], request.block_hashes[index])
        if self.watcher is not None:
            self.watcher.on_published(request, request.block_hashes[holding.num_published : num_full])
        holding.num_published = num_full

    def free(self, request: Request, is_broken: bool = False) -> None:
        """Gives all blocks back; what was published can be found until it is evicted.

        ``is_broken``: nobody is to find what this request held, for it may be what broke it. A request without blocks is no error.
        """
        holding = self._holdings.pop(request.request_id, None)
        if holding is None:
            return
        if is_broken:
            self._pool.forget(holding.block_ids)
            if self.watcher is not None:
                self.watcher.on_broken(request.block_hashes[: holding.num_published])
        self._pool.release(holding.block_ids)

    @property
    def has_holders(self) -> bool:
        """Whether requests hold blocks."""
        return bool(self._holdings)

    @property
    def has_leases(self) -> bool:
        return bool(self._leases)

    def lease(self, block_ids: Sequence[int]) -> Lease:
        """Holds blocks that a request holds, beside it."""
        lease = Lease(tuple(block_ids))
        self._pool.hold(lease.block_ids)
        self._leases.add(lease)
        return lease

    def end_lease(self, lease: Lease) -> None:
        """Once each."""
        self._leases.remove(lease)
        self._pool.release(lease.block_ids)

    def reset_prefix_cache(self) -> None:
        """Forgets all cached content, and what running requests have computed so far never becomes cached."""
        self._pool.forget_all()
        for holding in self._holdings.values():
            holding.may_publish = False

    def check(self) -> None:
        """Asserts every invariant of blocks and counts. O(blocks): for idle moments and tests."""
        self._pool.check([*(holding.block_ids for holding in self._holdings.values()), *(lease.block_ids for lease in self._leases)])
        for request_id, holding in self._holdings.items():
            assert holding.num_published <= len(holding.block_ids), f"request {request_id} published blocks that it does not hold"

    def _hash(self, request: Request, num_blocks: int) -> None:
        extend_hashes(request.block_hashes, num_blocks, request.token_ids, self.block_size, request.cache_salt, request.adapter_id)
