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

from headway.server.types import SamplingParams

_Words = dict[tuple[int, ...], tuple[int, ...]]  # what the output ends in -> what may not follow


@dataclass(slots=True, frozen=True)
class _Row:
    forbidden: Tensor | None  # bool [V] on the device: all that is not allowed
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

    key: tuple[tuple[int, tuple[int, ...]], ...]
    masked_lines: Tensor
    masks: Tensor  # [len(masked_lines), V]
    lines: Tensor
    tokens: Tensor


class TokenBanState:
    """The rows that have such a ban. A row with allowed tokens costs a byte a token of the vocabulary on the device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._rows: dict[int, _Row] = {}
        self._last: _Step | None = None

    def add(self, row: int, sampling: SamplingParams, output_token_ids: Sequence[int]) -> None:
        """Notes a row that has a ban; others are not noticed. The row must be unknown."""
        if sampling.allowed_token_ids is None and not sampling.bad_words:
            return
        assert row not in self._rows, f"row {row} was added twice"
        words = _by_prefix(sampling.bad_words, self._vocab_size)
        lengths = tuple(sorted({len(prefix) for prefix in words}))
        tail = deque(output_token_ids, maxlen=max(lengths, default=0))
        self._rows[row] = _Row(self._forbidden(sampling.allowed_token_ids), words, lengths, tail)

    def remove(self, row: int) -> None:
        if self._rows.pop(row, None) is not None:
            self._last = None

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Notes one output token a row."""
        if not self._rows:
            return
        for row, token_id in zip(rows, token_ids, strict=True):
            if (known := self._rows.get(row)) is not None:
                known.tail.append(token_id)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Sets, in place, what may not be chosen to -inf in those lines of ``logits`` [L, V] whose row (parallel in ``rows``) has a ban."""
        if not self._rows:
            return
        key = tuple((row, known.banned()) if (known := self._rows.get(row)) else (-1, ()) for row in rows)
        if self._last is None or self._last.key != key:
            self._last = self._build(key)
        step = self._last
        if step.masked_lines.numel():
            logits.index_copy_(0, step.masked_lines, logits[step.masked_lines].masked_fill_(step.masks, -math.inf))
        if step.lines.numel():
            logits.index_put_((step.lines, step.tokens), logits.new_tensor(-math.inf))

    def has(self, row: int) -> bool:
        return row in self._rows

    def _build(self, key: tuple[tuple[int, tuple[int, ...]], ...]) -> _Step:
        masked = [(line, mask) for line, (row, _) in enumerate(key) if row >= 0 and (mask := self._rows[row].forbidden) is not None]
        masks = torch.stack([mask for _, mask in masked]) if masked else torch.empty((0, self._vocab_size), dtype=torch.bool)
        places = [(line, token) for line, (_, tokens) in enumerate(key) for token in tokens]
        lines, tokens = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).to(self._device, non_blocking=True).unbind(1)
        masked_lines = torch.tensor([line for line, _ in masked], dtype=torch.int64).to(self._device, non_blocking=True)
        return _Step(key, masked_lines, masks, lines, tokens)

    def _forbidden(self, allowed: Sequence[int] | None) -> Tensor | None:
        if allowed is None:
            return None
        known = [token for token in allowed if 0 <= token < self._vocab_size]
        mask = torch.ones(self._vocab_size, dtype=torch.bool)
        mask[torch.tensor(known, dtype=torch.int64)] = False
        return mask.to(self._device, non_blocking=True)


def _by_prefix(words: Sequence[Sequence[int]], vocab_size: int) -> _Words:
    """Words that end in a token that the model does not have can't be written anyway."""
    found: dict[tuple[int, ...], list[int]] = {}
    for word in words:
        if 0 <= word[-1] < vocab_size:
            found.setdefault(tuple(word[:-1]), []).append(word[-1])
    return {prefix: tuple(tokens) for prefix, tokens in found.items()}
