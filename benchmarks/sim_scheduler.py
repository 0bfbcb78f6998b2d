"""The engine's own scheduler, spared the rows about which nothing is to be decided."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any

from headway.server.engine.batch import BatchPlan
from headway.server.engine.request import Request
from headway.server.engine.scheduler import Scheduler
from headway.server.types import GenerateRequest

TOKEN = 7  # every answer is made of it


class FastForward(Scheduler):
    """A Scheduler that sets rows aside while they decode, and counts steps for them.

    In a step that neither ends such a row nor is short of blocks, the scheduler gives it a token, and a block where one is full; that is
    all. So a row goes aside when its prompt is computed, and comes back for the step that ends it. Between the two it gets its blocks when
    they are due, in the rows' order, and the limits of a step are lowered by the rows aside: what is admitted, evicted and found again is
    what single steps would do. Where blocks could run short, so that rows might give way to others, all come back and take single steps.

    ``num_steps`` is the caller's clock of decode: it counts steps that were planned, or passed over by ``skip``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._most_rows, self._most_tokens = self._max_num_seqs, self._budget
        self._longest = 1  # blocks that the longest request so far may fill
        self.num_steps = 0
        # By id, rows aside; their tokens, planned ones counted, less ``num_steps``: the same as long as they decode in each step.
        self._aside: dict[str, tuple[Request, int]] = {}
        self._offsets = 0  # their sum
        # (step, order of arrival, id): which ends a row, and which takes a row's next block. A block of a row that has ended is void.
        self._ends: list[tuple[int, int, str]] = []
        self._blocks: list[tuple[int, int, str]] = []

    @property
    def num_aside(self) -> int:
        return len(self._aside)

    @property
    def num_aside_tokens(self) -> int:
        """In the caches of the rows aside, with the steps that were planned."""
        return self._offsets + len(self._aside) * self.num_steps

    def add(self, request: GenerateRequest, block_hashes: Iterable[bytes] = ()) -> None:
        """``block_hashes``: those of its first blocks that are known already."""
        super().add(request)
        if request.request_id in self._open:
            self._open[request.request_id].block_hashes.extend(block_hashes)
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        self._longest = max(self._longest, num_tokens // self._kv.block_size + 1)

    def num_steps_alike(self) -> int:
        """The next so many steps only give each row a token, and only the last may end some. 0: the next one may do something else."""
        self._sort_out()
        if self._running or not self._aside or (self._waiting and len(self._aside) < self._most_rows):
            return 0
        return min(self._ends[0][0] - self.num_steps, self._num_fitting())

    @property
    def next_end(self) -> int | None:
        """Which step ends a row that is aside."""
        return self._ends[0][0] if self._ends else None

    def skip(self, num_steps: int) -> None:
        """Passes over so many of the steps alike, which end nobody."""
        self.num_steps += num_steps
        self._give_blocks(self.num_steps)

    def schedule(self) -> BatchPlan | None:
        """The next step, which counts if there is one: rows aside are in it, though not in the plan."""
        self._sort_out()
        step = self.num_steps + 1
        self._give_blocks(step)
        while self._ends and self._ends[0][0] == step:
            self._take_back(heappop(self._ends)[2])
        self._max_num_seqs, self._budget = self._most_rows - len(self._aside), self._most_tokens - len(self._aside)
        plan = super().schedule()
        if plan is not None:
            self.num_steps = step
        return plan

    def rows_of(self, plan: BatchPlan) -> list[tuple[int, int]]:
        """Of the newest plan: (tokens computed now, tokens in the sequence with them) of each row."""
        return [(row.num_tokens, self._open[row.request_id].num_scheduled_tokens) for row in plan.scheduled]

    def brings_token(self, plan: BatchPlan) -> list[bool]:
        """Of the newest plan, by row: whether its prompt is computed to its end."""
        return [self._open[row.request_id].num_awaited_tokens > 0 for row in plan.scheduled]

    def _sort_out(self) -> None:
        """Rows that decode go aside, or all come back."""
        if self._num_fitting() < 1:
            while self._aside:
                self._take_back(next(iter(self._aside)))
            self._ends.clear()
            self._blocks.clear()
            return
        staying = []
        for request in self._running:
            num_left = min(request.sampling.max_tokens - request.num_output_tokens, self._max_len - request.num_tokens)
            if request.num_unscheduled_tokens == 1 and request.num_output_tokens > 0 and num_left > 1:
                self._put_aside(request, num_left)
            else:
                staying.append(request)
        self._running = staying

    def _num_fitting(self) -> int:
        """How many steps there are blocks for, whoever is admitted in the first of them. At most 0: nobody knows."""
        num_rows = len(self._running) + len(self._aside)
        num_admitted = min(len(self._waiting), self._most_rows - num_rows)
        num_free = self._kv.num_free_blocks - num_admitted * (self._longest + 1)
        return (num_free // max(num_rows, 1) - 2) * self._kv.block_size

    def _put_aside(self, request: Request, num_left: int) -> None:
        offset = request.num_scheduled_tokens - self.num_steps
        self._aside[request.request_id] = request, offset
        self._offsets += offset
        heappush(self._ends, (self.num_steps + num_left, request.arrival_number, request.request_id))
        heappush(self._blocks, (self._full_at(request, offset) + 1, request.arrival_number, request.request_id))

    def _full_at(self, request: Request, offset: int) -> int:
        """The step that fills the last of the row's blocks."""
        return -(-request.num_scheduled_tokens // self._kv.block_size) * self._kv.block_size - offset

    def _give_blocks(self, until: int) -> None:
        """Those that are due in steps up to this one."""
        due = self._blocks
        while due and due[0][0] <= until:
            step, order, request_id = heappop(due)
            if (entry := self._aside.get(request_id)) is None:
                continue
            request, offset = entry
            block_ids = self._kv.allocate(request, offset + step)
            assert block_ids is not None, "rows are aside only while there are blocks for all"
            heappush(due, (step + self._kv.block_size, order, request_id))

    def _take_back(self, request_id: str) -> None:
        request, offset = self._aside.pop(request_id)
        self._offsets -= offset
        num_steps = offset + self.num_steps - request.num_scheduled_tokens
        request.token_ids.extend([TOKEN] * num_steps)
        request.num_scheduled_tokens += num_steps
        request.num_computed_tokens += num_steps
        insort(self._running, request, key=self._waiting.key)
