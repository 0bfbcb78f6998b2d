"""The engine's own scheduler, and how far its next steps can be told without taking them one by one."""

from __future__ import annotations

from headway.server.engine.batch import BatchPlan
from headway.server.engine.scheduler import Scheduler

TOKEN = 7  # every answer is made of it


class FastForward(Scheduler):
    """A Scheduler that can pass over steps in which nothing is decided.

    While nobody waits and every row decodes, a step gives each row a token and the blocks for it, and that is all until a request ends or
    arrives. Nobody looks up a prefix meanwhile, and the blocks that are taken are the same ones whether they are taken step by step or in
    one go, from the same end of the free list; so hits, evictions and preemptions afterwards are those of single steps.
    """

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_running_tokens(self) -> int:
        """In the caches of all rows once the next step has been taken, if every row decodes."""
        return sum(request.num_scheduled_tokens + 1 for request in self._running)

    def num_steps_alike(self) -> int:
        """The next so many steps give each row a token, and only the last one may end requests. 0: the next one may do something else."""
        running = self._running
        if not running or self._waiting or self._in_flight or len(running) > self._budget:
            return 0
        if any(request.num_unscheduled_tokens != 1 for request in running):
            return 0
        most = min(min(request.sampling.max_tokens - request.num_output_tokens, self._max_len - request.num_tokens) for request in running)
        # Nobody gives way as long as each row can have a block more than its tokens fill.
        num_fitting = (self._kv.num_free_blocks // len(running) - 1) * self._kv.block_size
        return max(min(most, num_fitting), 0)

    def skip(self, num_steps: int) -> None:
        """Passes over so many of the steps alike, all but the last at most."""
        for request in self._running:
            request.token_ids.extend([TOKEN] * num_steps)
            request.num_scheduled_tokens += num_steps
            request.num_computed_tokens += num_steps

    def rows_of(self, plan: BatchPlan) -> list[tuple[int, int]]:
        """Of the newest plan: (tokens computed now, tokens in the sequence with them) of each row."""
        return [(row.num_tokens, self._open[row.request_id].num_scheduled_tokens) for row in plan.scheduled]

    def brings_token(self, plan: BatchPlan) -> list[bool]:
        """Of the newest plan, by row: whether its prompt is computed to its end."""
        return [self._open[row.request_id].num_awaited_tokens > 0 for row in plan.scheduled]
