"""thinking_token_budget: ends a row's reasoning after so many tokens, by leaving the model no other choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.server.engine.transfers import upload
from headway.server.types import SamplingParams, ThinkingBudget

# Blanks, and what else a model writes before its first reasoning; behind that a start mark is a part of the content.
_MAX_LEADING_TOKENS = 8


class ThinkingState:
    """See LogitsState. All that is known of one follows from its output tokens, so that it survives a preemption."""

    def __init__(self) -> None:
        self._rows: dict[int, _RowThinking] = {}

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if sampling.thinking is None:
            return
        assert row not in self._rows, f"row {row} was added twice"
        self._rows[row] = thinking = _RowThinking(sampling.thinking)
        for token_id in token_ids[num_prompt_tokens:]:
            thinking.append(token_id)

    def remove(self, row: int) -> None:
        self._rows.pop(row, None)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if self._rows:
            for row, token_id in zip(rows, token_ids, strict=True):
                if (thinking := self._rows.get(row)) is not None:
                    thinking.append(token_id)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Leaves one token to those that are over their budget."""
        if not self._rows:
            return
        forced = [
            (line, token_id)
            for line, row in enumerate(rows)
            if (thinking := self._rows.get(row)) is not None and (token_id := thinking.forced_token) is not None
        ]
        if forced:
            lines, tokens = upload(torch.tensor(forced, dtype=torch.int64), logits.device).unbind(1)
            logits.index_fill_(0, lines, -math.inf)
            logits.index_put_((lines, tokens), logits.new_zeros(()))


class _RowThinking:
    def __init__(self, budget: ThinkingBudget) -> None:
        self._budget = budget
        self._is_thinking = budget.is_open
        self._is_over = False  # whatever comes is not looked at any more
        self._is_forcing = self._is_thinking and budget.num_tokens == 0
        self._num_tokens = 0  # of reasoning
        self._num_before = 0  # tokens since reasoning may have begun
        self._num_started = 0  # how many of the last tokens are the beginning of the start mark
        self._num_forced = 0

    @property
    def forced_token(self) -> int | None:
        return self._budget.forced[self._num_forced] if self._is_forcing else None

    def append(self, token_id: int) -> None:
        if self._is_over:
            return
        if self._is_forcing:
            self._num_forced += 1
            self._is_over = self._num_forced == len(self._budget.forced)
            self._is_forcing = not self._is_over
        elif self._is_thinking:
            self._think(token_id)
        else:
            self._wait(token_id)

    def _think(self, token_id: int) -> None:
        self._num_tokens += 1
        if token_id == self._budget.end:
            self._is_thinking = False
            self._is_over = not self._budget.may_restart
        else:
            self._is_forcing = self._num_tokens >= self._budget.num_tokens

    def _wait(self, token_id: int) -> None:
        start = self._budget.start
        self._num_before += 1
        # No start mark has its first token again inside.
        self._num_started = self._num_started + 1 if token_id == start[self._num_started] else int(token_id == start[0])
        if self._num_started == len(start):
            self._num_started = 0
            self._is_thinking = True
            self._is_forcing = self._num_tokens >= self._budget.num_tokens
        elif self._num_before >= _MAX_LEADING_TOKENS and not self._budget.may_restart:
            self._is_over = True
