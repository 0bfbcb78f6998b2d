"""All KV blocks by number: who counts on them, which are free, and what the cached ones contain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks 0 to ``num_blocks`` - 1, each held (reference count > 0) or in the free list. Every operation is O(1) a block.

    ::

        free list   [ nothing cached ...  | cached, oldest ... cached, newest ]
                      ^ the next to be given out                            ^ a cached block comes here when its last holder goes

    A cached block stays usable in the free list until it is given out for something else: the list's order is the eviction order.
    Blocks that nobody can find again stand in front, so no cached content goes while there is an empty block.
    """

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0, "a KV cache needs a block"
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._cached: dict[bytes, int] = {}
        # Not a plain dict: taking its first entry again and again walks over all that were taken before.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    def find(self, block_hash: bytes) -> int | None:
        """The block with that content, held or free; it stays what it is only once it is held."""
        return self._cached.get(block_hash)

    def num_free_among(self, block_ids: Iterable[int]) -> int:
        return sum(1 for block_id in block_ids if self._ref_counts[block_id] == 0)

    def hold(self, block_ids: Iterable[int]) -> None:
        """One more holder for each; free ones leave the free list."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._free[block_id]
            self._ref_counts[block_id] += 1

    def allocate(self, num_blocks: int) -> list[int]:
        """``num_blocks`` blocks with one holder, the first of the free list; what they cached is forgotten. They must be there."""
        taken = []
        for _ in range(num_blocks):
            block_id, _ = self._free.popitem(last=False)
            self._forget(block_id)
            self._ref_counts[block_id] = 1
            taken.append(block_id)
        return taken

    def release(self, block_ids: Sequence[int]) -> None:
        """One holder less for each block of a sequence, given in the sequence's order.

        Of those that become free the sequence's last is evicted first: a prefix is of use without its tail, not the reverse.
        """
        for block_id in reversed(block_ids):
            assert self._ref_counts[block_id] > 0, f"block {block_id} is freed twice"
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._free[block_id] = None
                if self._hashes[block_id] is None:
                    self._free.move_to_end(block_id, last=False)

    def publish(self, block_id: int, block_hash: bytes) -> None:
        """Lets others find a held, fully written block by its content. If another block has that content already, nothing changes."""
        assert self._ref_counts[block_id] > 0, f"block {block_id} is published by nobody"
        if self._hashes[block_id] is None and block_hash not in self._cached:
            self._hashes[block_id] = block_hash
            self._cached[block_hash] = block_id

    def forget(self, block_ids: Iterable[int]) -> None:
        """Nobody finds these held blocks by content any more; their holders keep them."""
        for block_id in block_ids:
            assert self._ref_counts[block_id] > 0, f"block {block_id} is not held"
            self._forget(block_id)

    def forget_all(self) -> None:
        self._cached.clear()
        self._hashes = [None] * self.num_blocks

    def _forget(self, block_id: int) -> None:
        block_hash = self._hashes[block_id]
        if block_hash is not None:
            del self._cached[block_hash]
            self._hashes[block_id] = None

    def check(self, holders: Iterable[Sequence[int]]) -> None:
        """Asserts every invariant, given the block lists of all holders. O(blocks): for idle moments and tests."""
        expected = [0] * self.num_blocks
        for block_ids in holders:
            assert len(set(block_ids)) == len(block_ids), f"one holder has a block twice: {block_ids}"
            for block_id in block_ids:
                expected[block_id] += 1
        for block_id, (counted, held) in enumerate(zip(self._ref_counts, expected, strict=True)):
            assert counted == held, f"block {block_id} counts {counted} holders and has {held}"
            assert (counted == 0) == (block_id in self._free), f"block {block_id} has {counted} holders, free: {block_id in self._free}"
            block_hash = self._hashes[block_id]
            assert block_hash is None or self._cached.get(block_hash) == block_id, f"block {block_id} can't be found by its hash"
        num_hashes = sum(block_hash is not None for block_hash in self._hashes)
        assert num_hashes == len(self._cached), f"{len(self._cached)} cached contents in {num_hashes} blocks"
        assert len(self._free) <= self.num_blocks, "the free list holds blocks that do not exist"
