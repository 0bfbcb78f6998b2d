"""Which tokens of a sequence a rank keeps the keys and values of, where sequences are dealt out over ranks; and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LongArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SequenceShare:
    """Tokens go around the ranks, ``interleave`` to each::

        position   0 1 2 3 4 5 6 7 8 9 ..      of 2 ranks, interleave 2
        rank       0 0 1 1 0 0 1 1 0 0 ..
        place      0 1 0 1 2 3 2 3 4 5 ..      among those of its rank

    A block of the KV manager is one page of each rank: ``page_size * size`` tokens, and ``interleave`` divides a page.
    """

    rank: int = 0
    size: int = 1
    interleave: int = 1

    def owners(self, positions: LongArray) -> LongArray:
        """The rank that keeps each of the tokens at ``positions``."""
        owners: LongArray = positions // self.interleave % self.size
        return owners

    def slots(self, block_ids: LongArray, positions: LongArray, page_size: int) -> LongArray:
        """Where in this rank's pages tokens at ``positions`` [T] go, whose blocks are ``block_ids`` [T]; -1: nowhere."""
        slots: LongArray
        if self.size == 1:
            slots = block_ids * page_size + positions % page_size
            return slots
        turn, offset = np.divmod(positions % (page_size * self.size), self.interleave * self.size)
        owner, within = np.divmod(offset, self.interleave)
        slots = np.where(owner == self.rank, block_ids * page_size + turn * self.interleave + within, -1)
        return slots

    def num_kept(self, lengths: Tensor) -> Tensor:
        """How many of the first ``lengths`` tokens of sequences are kept here."""
        all_ranks = self.interleave * self.size
        last_turn = (lengths % all_ranks - self.rank * self.interleave).clamp(0, self.interleave)
        return lengths // all_ranks * self.interleave + last_turn


WHOLE = SequenceShare()
