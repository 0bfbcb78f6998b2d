"""Which blocks a place of bounded size has, and which goes when another comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """A slot for a block, and whose it was."""

    slot: int
    evicted: bytes | None


class Tier:
    """Blocks by the hash of their content in ``num_slots`` slots: there, or coming. The least recently used of those that are there
    goes first."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._there: OrderedDict[bytes, int] = OrderedDict()
        self._coming: dict[bytes, int] = {}
        self._unwanted: set[bytes] = set()  # coming

    def __contains__(self, block_hash: bytes) -> bool:
        """Whether it is there."""
        return block_hash in self._there

    def knows(self, block_hash: bytes) -> bool:
        """Whether it is there or coming."""
        return block_hash in self._there or block_hash in self._coming

    @property
    def usage(self) -> float:
        """0 to 1."""
        return 1 - len(self._free) / self.num_slots

    def slot(self, block_hash: bytes) -> int:
        """Of one that is there."""
        return self._there[block_hash]

    def touch(self, block_hashes: Iterable[bytes]) -> None:
        """They are used, each behind the one before it: of a prefix the end goes first."""
        for block_hash in reversed(list(block_hashes)):
            if block_hash in self._there:
                self._there.move_to_end(block_hash)

    def begin(self, block_hash: bytes) -> Room | None:
        """A slot for a block that is not known; it is there after ``finish``. None: other blocks are coming to all of them."""
        evicted = None
        if not self._free:
            if not self._there:
                return None
            evicted, slot = self._there.popitem(last=False)
            self._free.append(slot)
        slot = self._coming[block_hash] = self._free.pop()
        return Room(slot, evicted)

    def finish(self, block_hash: bytes, *, is_lost: bool = False) -> bool:
        """Of one that was coming: whether it is there. Not if it is lost, or was dropped meanwhile."""
        slot = self._coming.pop(block_hash)
        if block_hash in self._unwanted or is_lost:
            self._unwanted.discard(block_hash)
            self._free.append(slot)
            return False
        self._there[block_hash] = slot
        return True

    def drop(self, block_hash: bytes) -> bool:
        """Nobody finds it any more. Whether it was there; its slot is free at once, and that of one that is coming when it has come."""
        if block_hash in self._coming:
            self._unwanted.add(block_hash)
        slot = self._there.pop(block_hash, None)
        if slot is None:
            return False
        self._free.append(slot)
        return True

    def check(self) -> None:
        """Asserts every invariant. O(slots)."""
        slots = sorted([*self._free, *self._there.values(), *self._coming.values()])
        assert slots == list(range(self.num_slots)), "a slot is nobody's, or two blocks'"
        assert not self._there.keys() & self._coming.keys(), "a block is there and coming"
        assert self._unwanted <= self._coming.keys(), "what is not coming is dropped while it comes"
