"""Hidden states of the large model that an EAGLE head has yet to read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.rows import LongArray, RowTable, StepInputs
from headway.server.engine.transfers import upload


class PendingFeatures:
    """Owns, of each row, the features of its newest tokens, which are read once it is known what follows them; and of each block that of
    its last token, with which a request goes on that has found the block.

        tokens    .. a b c d e      drafts behind c: d, e, of which d is right and then f was chosen
        kept           c d e        pending are c and d, which d and f follow
    """

    def __init__(self, rows: RowTable, kept: Tensor, ends: Tensor) -> None:
        """``kept`` [rows, K, H]: K is a token and the most drafts behind it. ``ends`` [blocks, H]."""
        self._rows = rows
        self._num_kept = kept.shape[1]
        self._kept = kept.flatten(0, 1)
        self._ends = ends
        self._starts = np.zeros(rows.max_rows, dtype=np.int64)  # place in its text of the first that is kept of a row
        self._tenants = np.zeros(rows.max_rows, dtype=np.int64)  # whose they are

    def pending(self, rows: LongArray) -> tuple[LongArray, LongArray]:
        """(place of the first, how many) of each row; none where it has computed nothing. Asking again gives the same until ``keep``."""
        computed, tenants = self._rows.num_computed(rows), self._rows.tenants_of(rows)
        is_new = self._tenants[rows] != tenants
        if is_new.any():
            self._tenants[rows] = tenants
            self._starts[rows[is_new]] = np.maximum(computed[is_new] - 1, 0)
            found = is_new & (computed > 0)
            if found.any():
                blocks = self._rows.blocks_at(rows[found], computed[found] - 1)
                self._kept[self._upload(rows[found] * self._num_kept)] = self._ends[self._upload(blocks)]
        starts = self._starts[rows]
        return starts, computed - starts

    def read(self, rows: LongArray, offsets: LongArray) -> Tensor:
        """[L, H]: of each row the one that stands ``offsets`` behind its first."""
        return self._kept[self._upload(rows * self._num_kept + offsets)]

    def keep(self, inputs: StepInputs, features: Tensor) -> None:
        """A step was computed, whose tokens have these features [T, H]; what was pending has been read."""
        last = inputs.query_start_loc[1:].astype(np.int64) - 1  # of each place's tokens
        self._kept[self._upload(inputs.rows * self._num_kept + inputs.offsets)] = features[self._upload(last)]
        is_known = inputs.offsets == 0
        self._starts[inputs.rows[is_known]] = inputs.positions[last[is_known]]
        ends = self._rows.block_ends(inputs.positions)
        if len(ends):
            rows = np.repeat(inputs.rows, inputs.query_lens)[ends]
            blocks = self._rows.blocks_at(rows, inputs.positions[ends])
            self._ends[self._upload(blocks)] = features[self._upload(ends)]

    def _upload(self, indices: LongArray) -> Tensor:
        return upload(torch.from_numpy(indices), self._kept.device)
