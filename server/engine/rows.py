"""The runner's persistent rows: one a request, with its tokens and its block table, kept on the host as flat arrays.

A step's inputs are made from them by a handful of vectorised operations, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.server.distributed.sequence_share import WHOLE, SequenceShare
from headway.server.engine.batch import NewRow, ScheduledRow

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]

AWAITED = -1  # stands for a token that a step under way is about to choose


@dataclass(slots=True)
class StepInputs:
    """A step's inputs on the host. Rows with one query token come first; ``order`` maps them back to the plan.

    A place is the number of a row here. A token that is AWAITED is its row's only one. A request with drafts has a place for each of its
    tokens, one behind the other: as decodes of one sequence at several of its lengths, of which each sees the keys of those before it.
    """

    order: list[int]  # position in the plan's ``scheduled`` of each row here
    rows: LongArray  # [B] row numbers
    tenants: LongArray  # [B] who has the rows, see RowTable.have_stayed
    token_ids: LongArray  # [T]
    positions: LongArray  # [T]
    slot_mapping: LongArray  # [T], -1: the keys and values of this token are another rank's
    query_start_loc: IntArray  # [B + 1]
    query_lens: list[int]
    seq_lens: list[int]
    ends: LongArray  # [B] seq_lens, as an array: made once, looked at by every part of a step
    block_tables: IntArray  # [B, M], of a step that is not set going yet: the table's own, where its rows lie side by side
    num_decodes: int
    offsets: LongArray  # [B] how many places of the same request are before each
    has_drafts: bool = False  # an offset is above 0

    def last_tokens(self, places: LongArray) -> LongArray:
        """The index of the last token of each of these places."""
        if self.num_decodes == len(self.query_lens):
            return places
        return self.query_start_loc[places + 1].astype(np.int64) - 1

    def at_offset(self, offset: int) -> StepInputs:
        """Of a step of decodes: the places that have so many of their request before them, as a step of their own."""
        places = np.flatnonzero(self.offsets == offset)
        return StepInputs(
            order=[self.order[place] for place in places],
            rows=self.rows[places],
            tenants=self.tenants[places],
            token_ids=self.token_ids[places],
            positions=self.positions[places],
            slot_mapping=self.slot_mapping[places],
            query_start_loc=np.arange(len(places) + 1, dtype=np.int32),
            query_lens=[1] * len(places),
            seq_lens=[self.seq_lens[place] for place in places],
            ends=self.ends[places],
            block_tables=self.block_tables[places],
            num_decodes=len(places),
            offsets=self.offsets[places],
            has_drafts=offset > 0,
        )

    @property
    def has_awaited(self) -> bool:
        return bool((self.token_ids[: self.num_decodes] == AWAITED).any())


@dataclass(frozen=True, slots=True)
class _SameRows:
    """What all steps of the same requests share that compute one token of each. Each operation on an array that need not be is worth it:
    what was computed before has taken the caches, and it finds its code in memory."""

    numbers: list[int]
    rows: LongArray
    tenants: LongArray
    query_start_loc: IntArray
    offsets: LongArray
    span: slice | None  # None: they do not lie side by side

    @classmethod
    def of(cls, numbers: list[int], tenants: LongArray) -> _SameRows:
        """``tenants`` of all rows."""
        rows, first, count = np.array(numbers, dtype=np.int64), numbers[0], len(numbers)
        span = slice(first, first + count) if numbers == list(range(first, first + count)) else None
        return cls(numbers, rows, tenants[rows], np.arange(count + 1, dtype=np.int32), np.zeros(count, dtype=np.int64), span)


class RowTable:
    """Owns which row a request has, its tokens, block ids and how many tokens are computed.

    Of a step that is set going the tokens count at once (``commit``); what the new ones are is told later (``fill``).
    """

    def __init__(self, max_rows: int, max_model_len: int, page_size: int, share: SequenceShare = WHOLE) -> None:
        """A block is a page of ``page_size`` tokens on each rank of those that ``share`` sequences."""
        self.max_rows = max_rows
        self._page_size = page_size
        self._block_size = page_size * share.size
        self._share = share
        max_blocks = -(-max_model_len // self._block_size)
        # One column more than the context: the last sampled token is stored though it is never computed.
        self._tokens = np.zeros((max_rows, max_model_len + 1), dtype=np.int32)
        self._blocks = np.zeros((max_rows, max_blocks), dtype=np.int32)
        self._num_tokens = np.zeros(max_rows, dtype=np.int64)
        self._num_computed = np.zeros(max_rows, dtype=np.int64)
        self._num_blocks = [0] * max_rows
        self._tenants = np.zeros(max_rows, dtype=np.int64)  # a number for each request that had a row; 0: the row is free
        self._num_tenants = 0
        self._row_of: dict[str, int] = {}
        self._free = list(range(max_rows - 1, -1, -1))
        self._same: _SameRows | None = None  # of the newest step of one token each; None: a row has come or gone since

    def row_of(self, request_id: str) -> int:
        return self._row_of[request_id]

    def add(self, new: NewRow) -> int:
        row, self._same = self._free.pop(), None
        self._row_of[new.request_id] = row
        self._num_tenants += 1
        self._tenants[row] = self._num_tenants
        self._tokens[row, : len(new.token_ids)] = new.token_ids
        self._num_tokens[row] = len(new.token_ids)
        self._num_computed[row] = new.num_computed_tokens
        self._num_blocks[row] = 0
        self._append_blocks(row, new.block_ids)
        return row

    def remove(self, request_id: str) -> int:
        row = self._row_of.pop(request_id)
        self._free.append(row)
        self._tenants[row], self._same = 0, None
        return row

    def extend(self, scheduled: list[ScheduledRow]) -> None:
        """Takes in the blocks that this step brought, and tokens that another stage chose."""
        for item in scheduled:
            if item.new_block_ids:
                self._append_blocks(self._row_of[item.request_id], item.new_block_ids)
            if item.token_id is not None:
                row = self._row_of[item.request_id]
                self._tokens[row, self._num_computed[row]] = item.token_id

    def set_drafts(self, scheduled: list[ScheduledRow]) -> None:
        """They stand behind the known tokens, in the place of earlier ones."""
        for item in scheduled:
            if item.drafts:
                row = self._row_of[item.request_id]
                start = self._num_tokens[row]
                self._tokens[row, start : start + len(item.drafts)] = item.drafts

    def _append_blocks(self, row: int, block_ids: list[int]) -> None:
        start = self._num_blocks[row]
        self._blocks[row, start : start + len(block_ids)] = block_ids
        self._num_blocks[row] = start + len(block_ids)

    def inputs(self, scheduled: list[ScheduledRow]) -> StepInputs:
        if scheduled and all(item.num_tokens == 1 and not item.drafts for item in scheduled):
            return self._decodes(scheduled)
        order, offsets = _places(scheduled)
        rows = self.rows_of([scheduled[i] for i in order])
        lens = np.array([scheduled[i].num_tokens for i in order], dtype=np.int64)
        starts = self._num_computed[rows] if offsets is None else self._num_computed[rows] + offsets
        return self.spans(rows, starts, lens, order=order, offsets=offsets)

    def _decodes(self, scheduled: list[ScheduledRow]) -> StepInputs:
        """``spans`` of the one token of each that is not computed."""
        numbers, same = [self._row_of[item.request_id] for item in scheduled], self._same
        if same is None or same.numbers != numbers:
            same = self._same = _SameRows.of(numbers, self._tenants)
        rows, where = same.rows, same.rows if same.span is None else same.span
        ends = self._num_computed[where] + 1
        positions, seq_lens = ends - 1, ends.tolist()
        blocks = self._blocks[rows, positions // self._block_size].astype(np.int64)
        return StepInputs(
            order=list(range(len(numbers))),
            rows=rows,
            tenants=same.tenants,
            token_ids=self._tokens[rows, positions].astype(np.int64),
            positions=positions,
            slot_mapping=self._share.slots(blocks, positions, self._page_size),
            query_start_loc=same.query_start_loc,
            query_lens=[1] * len(numbers),
            seq_lens=seq_lens,
            ends=ends,
            block_tables=self._blocks[where, : -(-max(seq_lens) // self._block_size)],
            num_decodes=len(numbers),
            offsets=same.offsets,
        )

    def rows_of(self, scheduled: list[ScheduledRow]) -> LongArray:
        return np.array([self._row_of[item.request_id] for item in scheduled], dtype=np.int64)

    def spans(
        self,
        rows: LongArray,
        starts: LongArray,
        lens: LongArray,
        *,
        ahead: int = 0,
        order: list[int] | None = None,
        offsets: LongArray | None = None,
    ) -> StepInputs:
        """A step of ``lens`` places, at least one, of each row from ``starts`` on; spans of one come first. A place has the token that is
        ``ahead`` of it. ``order`` and ``offsets``: see StepInputs; without offsets there are no drafts."""
        if (num_tokens := int(lens.sum())) == len(rows):  # nothing but decodes
            bounds, row_of_token, positions = np.arange(len(rows) + 1), rows, starts
        else:
            bounds = np.zeros(len(rows) + 1, dtype=np.int64)
            np.cumsum(lens, out=bounds[1:])
            row_of_token = np.repeat(rows, lens)
            positions = np.arange(num_tokens, dtype=np.int64) + np.repeat(starts - bounds[:-1], lens)
        blocks = self._blocks[row_of_token, positions // self._block_size].astype(np.int64)
        seq_lens = starts + lens
        width = -(-int(seq_lens.max()) // self._block_size)
        return StepInputs(
            order=list(range(len(rows))) if order is None else order,
            rows=rows,
            tenants=self._tenants[rows],
            token_ids=self._tokens[row_of_token, positions + ahead].astype(np.int64),
            positions=positions,
            slot_mapping=self._share.slots(blocks, positions, self._page_size),
            query_start_loc=bounds.astype(np.int32),
            query_lens=lens.tolist(),
            seq_lens=seq_lens.tolist(),
            ends=seq_lens,
            block_tables=self._blocks[rows, :width],
            num_decodes=len(rows) if num_tokens == len(rows) else int((lens == 1).sum()),
            offsets=np.zeros(len(rows), dtype=np.int64) if offsets is None else offsets,
            has_drafts=offsets is not None,
        )

    def num_computed(self, rows: LongArray) -> LongArray:
        """Tokens of each row, drafts that were wrong not among them."""
        return self._num_computed[rows]

    def tenants_of(self, rows: LongArray) -> LongArray:
        """Another number whenever a row has become another request's, or that of one that starts over."""
        return self._tenants[rows]

    def blocks_at(self, rows: LongArray, positions: LongArray) -> LongArray:
        """The block that holds each place."""
        return self._blocks[rows, positions // self._block_size].astype(np.int64)

    def block_ends(self, positions: LongArray) -> LongArray:
        """Which of the places are the last of their blocks, by their index."""
        return np.flatnonzero((positions + 1) % self._block_size == 0)

    def samples(self, inputs: StepInputs) -> LongArray:
        """The places of a step that reach the end of their known tokens, and so get a new one."""
        return (self._num_tokens[inputs.rows] <= inputs.ends).nonzero()[0]

    def commit(self, inputs: StepInputs, sampled: LongArray) -> None:
        """A step is set going: its tokens are computed, and each of the places ``sampled`` has another, which is awaited. Drafts do not
        count before they are told to be right."""
        rows, ends = inputs.rows, inputs.ends
        if inputs.has_drafts:
            is_known = inputs.offsets == 0
            rows, ends, sampled = rows[is_known], ends[is_known], sampled[is_known[sampled]]
        self._num_computed[rows] = ends
        if len(sampled) < len(inputs.rows):
            rows, ends = inputs.rows[sampled], inputs.ends[sampled]
        self._tokens[rows, ends] = AWAITED
        self._num_tokens[rows] = ends + 1

    def have_stayed(self, inputs: StepInputs) -> list[bool]:
        """Whether each row of a step is still the same request's: it may have ended, or have come back to start over."""
        stayed: list[bool] = (self._tenants[inputs.rows] == inputs.tenants).tolist()
        return stayed

    def fill(self, inputs: StepInputs, places: list[int], token_ids: list[int]) -> list[int]:
        """Tells what a step chose for places whose rows have stayed, in their order, of a request with drafts for its first ones. Returns
        the rows."""
        rows, ends = inputs.rows, inputs.ends
        if len(places) < len(rows):
            rows, ends = rows[places], ends[places]
        self._tokens[rows, ends] = token_ids
        if inputs.has_drafts:
            np.maximum.at(self._num_computed, rows, ends)
            np.maximum.at(self._num_tokens, rows, ends + 1)
        told: list[int] = rows.tolist()
        return told

    def tokens(self, row: int, start: int, stop: int) -> IntArray:
        return self._tokens[row, start:stop]


def _places(scheduled: list[ScheduledRow]) -> tuple[list[int], LongArray | None]:
    """(position in ``scheduled``, how many of the same position are before it) of each place, rows with one query token first; without
    drafts None are before any."""
    order = sorted(range(len(scheduled)), key=lambda i: scheduled[i].num_tokens > 1)
    if not any(item.drafts for item in scheduled):
        return order, None
    widths = [1 + len(scheduled[i].drafts) for i in order]
    offsets = np.concatenate([np.arange(width, dtype=np.int64) for width in widths])
    return np.repeat(order, widths).tolist(), offsets
