"""How much of the KV cache prompts may hold for which no other server has come: half of it, and the oldest give way."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_SHARE = 2  # the part of the cache that they may hold: one in so many
_WARN_S = 60.0  # between two lines of the log


class Unfetched:
    """Whole prompts, by token, oldest first. Blocks that several of them begin with count once."""

    def __init__(self, num_blocks: int, clock: Callable[[], float]) -> None:
        """``num_blocks``: of the cache."""
        self._max_blocks = num_blocks // _SHARE
        self._clock = clock
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._holders: Counter[int] = Counter()  # by block; none has 0
        self._num_let_go = 0  # since the last warning
        self._warned_at = -math.inf

    def add(self, token: str, block_ids: Sequence[int]) -> list[str]:
        """Returns those that must be let go of for it: a prompt that is larger than all of them may be stays alone."""
        self._prompts[token] = tuple(block_ids)
        self._holders.update(block_ids)
        let_go: list[str] = []
        while len(self._holders) > self._max_blocks and len(self._prompts) > 1:
            let_go.append(next(iter(self._prompts)))
            self.remove(let_go[-1])
        if let_go:
            self._warn(len(let_go))
        return let_go

    def remove(self, token: str) -> None:
        """It is read, or let go of. No error where it is not here."""
        for block_id in self._prompts.pop(token, ()):
            if self._holders[block_id] > 1:
                self._holders[block_id] -= 1
            else:
                del self._holders[block_id]

    def _warn(self, num_let_go: int) -> None:
        self._num_let_go += num_let_go
        if self._clock() - self._warned_at < _WARN_S:
            return
        log.warning(
            "Prompts that no decode server has come for held more than half of the KV cache: the oldest are let go of (%d since the last "
            "such line). Look whether each do_remote_decode has its decode request, or lower --nixl-abort-request-timeout",
            self._num_let_go,
        )
        self._num_let_go, self._warned_at = 0, self._clock()
