"""Allowed token ids and bad words: which tokens a row may not get now, whatever their logits.

A bad word is a list of token ids. Its last one is banned while the output ends in those before it; a word of one token always is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.engine.transfers import upload
from headway.server.types import SamplingParams

_Words = dict[tuple[int, ...], tuple[int, ...]]  # what the output ends in -> what may not follow
_Key = tuple[tuple[int, tuple[int, ...]], ...]  # (row or -1, what is banned by words) for each line


@dataclass(slots=True, frozen=True)
class _Row:
    allowed: Tensor | None  # token ids; None: all
    words: _Words
    lengths: tuple[int, ...]  # of the keys of ``words``
    tail: deque[int]  # the last output tokens, as many as the longest key has

    def banned(self) -> tuple[int, ...]:
        """By words, now."""
        tail = tuple(self.tail)
        ends = (tail[len(tail) - length :] for length in self.lengths if length <= len(tail))
        return tuple(token for end in ends for token in self.words.get(end, ()))


@dataclass(slots=True, frozen=True)
class _Step:
    """The tensors of a step, kept for the next one of the same rows in the same places with the same words about to end."""

    key: _Key
    closed_lines: Tensor  # where nothing but ``allowed`` may come
    allowed: tuple[Tensor, Tensor]  # lines, tokens
    banned: tuple[Tensor, Tensor]


class TokenBanState:
    """See LogitsState."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._rows: dict[int, _Row] = {}
        self._last: _Step | None = None

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if sampling.allowed_token_ids is None and not sampling.bad_words:
            return
        assert row not in self._rows, f"row {row} was added twice"
        words = _by_prefix(sampling.bad_words, self._vocab_size)
        lengths = tuple(sorted({len(prefix) for prefix in words}))
        tail = deque(token_ids[num_prompt_tokens:], maxlen=max(lengths, default=0))
        self._rows[row] = _Row(self._allowed(sampling.allowed_token_ids), words, lengths, tail)

    def remove(self, row: int) -> None:
        if self._rows.pop(row, None) is not None:
            self._last = None

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if not self._rows:
            return
        for row, token_id in zip(rows, token_ids, strict=True):
            if (known := self._rows.get(row)) is not None:
                known.tail.append(token_id)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        if not self._rows:
            return
        key = tuple((row, known.banned()) if (known := self._rows.get(row)) else (-1, ()) for row in rows)
        if self._last is None or self._last.key != key:
            self._last = self._build(key)
        step = self._last
        if step.closed_lines.numel():
            # Only what is allowed is moved: masks as wide as the vocabulary cost 20 ms a step, this 1 (32 rows of 49,152, one core of a
            # CPU, 2026-11-25).
            kept = logits[step.allowed]
            logits.index_fill_(0, step.closed_lines, -math.inf)
            logits.index_put_(step.allowed, kept)
        if step.banned[0].numel():
            logits.index_put_(step.banned, logits.new_full((), -math.inf))

    def _build(self, key: _Key) -> _Step:
        closed = [(line, allowed) for line, (row, _) in enumerate(key) if row >= 0 and (allowed := self._rows[row].allowed) is not None]
        closed_lines = torch.tensor([line for line, _ in closed], dtype=torch.int64)
        allowed_lines = closed_lines.repeat_interleave(torch.tensor([len(allowed) for _, allowed in closed], dtype=torch.int64))
        allowed_tokens = torch.cat([allowed for _, allowed in closed]) if closed else torch.empty(0, dtype=torch.int64)
        banned = [(line, token) for line, (_, tokens) in enumerate(key) for token in tokens]
        banned_lines, banned_tokens = torch.tensor(banned, dtype=torch.int64).reshape(-1, 2).unbind(1)
        parts = (allowed_lines, allowed_tokens, banned_lines, banned_tokens)
        there = [upload(part, self._device) for part in parts]
        return _Step(key, upload(closed_lines, self._device), (there[0], there[1]), (there[2], there[3]))

    def _allowed(self, allowed: Sequence[int] | None) -> Tensor | None:
        if allowed is None:
            return None
        return torch.tensor(sorted({token for token in allowed if 0 <= token < self._vocab_size}), dtype=torch.int64)


def _by_prefix(words: Sequence[Sequence[int]], vocab_size: int) -> _Words:
    """Words that end in a token that the model does not have can't be written anyway."""
    found: dict[tuple[int, ...], list[int]] = {}
    for word in words:
        if 0 <= word[-1] < vocab_size:
            found.setdefault(tuple(word[:-1]), []).append(word[-1])
    return {prefix: tuple(tokens) for prefix, tokens in found.items()}
