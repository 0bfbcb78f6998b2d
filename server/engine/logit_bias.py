"""Logit bias and min_tokens: both add a number to a few logits of a row, the second one minus infinity for a while."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.engine.batch import RowError
from headway.server.engine.transfers import upload
from headway.server.types import SamplingParams


@dataclass(slots=True)
class _RowBias:
    bias: tuple[tuple[int, float], ...]
    banned: tuple[int, ...]  # until min_tokens output tokens exist
    num_missing: int  # output tokens, until then


@dataclass(slots=True, frozen=True)
class _Additions:
    """What a step adds: ``logits[lines, tokens] += values``."""

    key: tuple[tuple[int, bool], ...]
    lines: Tensor
    tokens: Tensor
    values: Tensor


class LogitBiasState:
    """See LogitsState. The tensors of a step are kept and used again while the same rows come in the same places."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, _RowBias] = {}
        self._last: _Additions | None = None

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> RowError | None:
        outside = [token for token in sampling.logit_bias if not 0 <= token < self._vocab_size]
        if outside:
            text = f"logit_bias names token id {outside[0]}, but the model's token ids are 0 to {self._vocab_size - 1}."
            return RowError(text, is_request_fault=True)
        banned = banned_until_min_tokens(sampling, self._vocab_size)
        if sampling.logit_bias or banned:
            assert row not in self._rows, f"row {row} was added twice"
            num_output_tokens = len(token_ids) - num_prompt_tokens
            self._rows[row] = _RowBias(tuple(sampling.logit_bias.items()), banned, sampling.min_tokens - num_output_tokens)
        return None

    def remove(self, row: int) -> None:
        if self._rows.pop(row, None) is not None:
            self._last = None

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if self._rows:
            for row in rows:
                if (known := self._rows.get(row)) is not None:
                    known.num_missing -= 1

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        if not self._rows:
            return
        # (row or -1, are its bans on) for each line: all that the additions depend on.
        key = tuple((row, known.num_missing > 0) if (known := self._rows.get(row)) else (-1, False) for row in rows)
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
        lines, tokens = upload(torch.tensor(places, dtype=torch.int64).reshape(-1, 2), logits.device).unbind(1)
        return _Additions(key, lines, tokens, upload(torch.tensor(values, dtype=logits.dtype), logits.device))


def banned_until_min_tokens(sampling: SamplingParams, vocab_size: int) -> tuple[int, ...]:
    """The token ids that may not come before ``min_tokens`` exist: those that would end the request."""
    if sampling.min_tokens <= 0:
        return ()
    ending = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else set(sampling.eos_token_ids))
    return tuple(sorted(token for token in ending if 0 <= token < vocab_size))
