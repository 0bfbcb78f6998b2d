"""Logit bias and min_tokens: both add a number to a few logits of a row, the second one minus infinity for a while."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.errors import RequestError
from headway.server.types import SamplingParams


@dataclass(slots=True, frozen=True)
class _RowBias:
    bias: tuple[tuple[int, float], ...]
    banned: tuple[int, ...]  # until ``min_tokens`` output tokens exist
    min_tokens: int


@dataclass(slots=True, frozen=True)
class _Additions:
    """What a step adds: ``logits[lines, tokens] += values``."""

    key: tuple[tuple[int, bool], ...]
    lines: Tensor
    tokens: Tensor
    values: Tensor


class LogitBiasState:
    """The biased rows. The tensors of a step are kept and used again while the same rows come in the same places."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, _RowBias] = {}
        self._last: _Additions | None = None

    def add(self, row: int, sampling: SamplingParams) -> None:
        """Notes a row that has a bias or min_tokens; others are not noticed. The row must be unknown.

        Raises RequestError for a bias on a token that the model does not have.
        """
        outside = [token for token in sampling.logit_bias if not 0 <= token < self._vocab_size]
        if outside:
            raise RequestError(
                f"logit_bias names token id {outside[0]}, but the model's token ids are 0 to {self._vocab_size - 1}.", "logit_bias"
            )
        banned = banned_until_min_tokens(sampling, self._vocab_size)
        if sampling.logit_bias or banned:
            assert row not in self._rows, f"row {row} was added twice"
            self._rows[row] = _RowBias(tuple(sampling.logit_bias.items()), banned, sampling.min_tokens)

    def remove(self, row: int) -> None:
        if self._rows.pop(row, None) is not None:
            self._last = None

    def apply(self, logits: Tensor, rows: Sequence[int], num_output_tokens: Sequence[int]) -> None:
        """Changes, in place, those lines of ``logits`` [L, V] whose row (parallel in ``rows``) is biased."""
        if not self._rows:
            return
        # (row or -1, are its bans on) for each line: all that the additions depend on.
        key = tuple(
            (row, count < known.min_tokens) if (known := self._rows.get(row)) else (-1, False)
            for row, count in zip(rows, num_output_tokens, strict=True)
        )
        if self._last is None or self._last.key != key:
            self._last = self._build(key, logits)
        if self._last.lines.numel():
            index = (self._last.lines, self._last.tokens)
            logits.index_put_(index, self._last.values, accumulate=True)

    def _build(self, key: tuple[tuple[int, bool], ...], logits: Tensor) -> _Additions:
        places: list[tuple[int, int]] = []
        values: list[float] = []
        for line, (row, is_banning) in enumerate(key):
            if row < 0:
                continue
            known = self._rows[row]
            banned = known.banned if is_banning else ()
            # A banned token's own bias is left out: +inf beside the ban would make NaN.
            merged = dict(known.bias) | dict.fromkeys(banned, -math.inf)
            places += [(line, token) for token in merged]
            values += merged.values()
        lines, tokens = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).to(logits.device, non_blocking=True).unbind(1)
        return _Additions(key, lines, tokens, torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True))


def banned_until_min_tokens(sampling: SamplingParams, vocab_size: int) -> tuple[int, ...]:
    """The token ids that may not come before ``min_tokens`` exist: those that would end the request."""
    if sampling.min_tokens <= 0:
        return ()
    ending = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else set(sampling.eos_token_ids))
    return tuple(sorted(token for token in ending if 0 <= token < vocab_size))
