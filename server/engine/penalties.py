"""Presence, frequency and repetition penalties: which tokens each row has seen, kept on the device.

For a token seen in prompt or output (repetition, Keskar et al., 2019):  x / r if x > 0 else x * r
and for one in the output (OpenAI's formula):                            x - frequency * count - presence
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.transfers import upload
from headway.server.types import SamplingParams


def needs_penalties(sampling: SamplingParams) -> bool:
    return sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0 or sampling.repetition_penalty != 1.0


class PenaltyState:
    """See LogitsState. Token counts, in a table that grows with their number and not with ``max_num_seqs``.

    A line costs 5 bytes a token of the vocabulary; 256 rows at 150k tokens would be 190 MB, so nobody pays who asks for none.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._output_counts = torch.zeros((0, vocab_size), dtype=torch.float32, device=device)  # whole numbers, exact to 2^24
        self._in_prompt = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        self._lines: dict[int, int] = {}  # row -> line of the tables
        self._free_lines: list[int] = []
        self._params: dict[int, tuple[float, float, float]] = {}  # row -> presence, frequency, repetition

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if not needs_penalties(sampling):
            return
        assert row not in self._lines, f"row {row} was added twice"
        if not self._free_lines:
            self._grow()
        line = self._free_lines.pop()
        self._lines[row] = line
        self._params[row] = (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty)
        self._output_counts[line] = 0
        self._in_prompt[line] = False
        self._in_prompt[line].index_fill_(0, self._known_ids(token_ids[:num_prompt_tokens]), True)
        self._count(line, token_ids[num_prompt_tokens:])

    def remove(self, row: int) -> None:
        line = self._lines.pop(row, None)
        if line is not None:
            self._free_lines.append(line)
            del self._params[row]

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        pairs = [(self._lines[row], token) for row, token in zip(rows, token_ids, strict=True) if row in self._lines]
        pairs = [(line, token) for line, token in pairs if 0 <= token < self._vocab_size]
        if pairs:
            lines, tokens = upload(torch.tensor(pairs, dtype=torch.int64), self._output_counts.device).unbind(1)
            ones = torch.ones_like(tokens, dtype=torch.float32)
            self._output_counts.index_put_((lines, tokens), ones, accumulate=True)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        if not self._lines:
            return
        indices = [index for index, row in enumerate(rows) if row in self._lines]
        if not indices:
            return
        known = [rows[index] for index in indices]
        device = logits.device
        index, line = upload(torch.tensor([indices, [self._lines[row] for row in known]]), device)
        table = [self._params[row] for row in known]
        presence, frequency, repetition = upload(torch.tensor(table, dtype=logits.dtype), device).T[:, :, None]
        values, counts = logits[index], self._output_counts[line]
        # Each pass over [rows, V] is memory traffic, so what no row asks for is left out: 32 rows of 49,152 with a presence penalty
        # take 7 to 10 ms of one busy core, and took 48 with every pass (2026-11-24).
        if any(repeat != 1.0 for _, _, repeat in table):
            repeated = torch.where(values > 0, values / repetition, values * repetition)
            values = torch.where((counts > 0) | self._in_prompt[line], repeated, values)
        if any(often != 0.0 for _, often, _ in table):
            values.addcmul_(counts, frequency, value=-1)
        if any(once != 0.0 for once, _, _ in table):
            values.addcmul_(counts.clamp_(max=1), presence, value=-1)
        logits.index_copy_(0, index, values)

    def _count(self, line: int, token_ids: Sequence[int]) -> None:
        ids = self._known_ids(token_ids)
        self._output_counts[line].index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))

    def _known_ids(self, token_ids: Sequence[int]) -> Tensor:
        ids = np.asarray(token_ids, dtype=np.int64)
        return upload(torch.from_numpy(ids[(ids >= 0) & (ids < self._vocab_size)]), self._output_counts.device)

    def _grow(self) -> None:
        old = self._output_counts.shape[0]
        new = max(4, old)  # doubles
        self._output_counts = torch.cat([self._output_counts, self._output_counts.new_zeros((new, self._vocab_size))])
        self._in_prompt = torch.cat([self._in_prompt, self._in_prompt.new_zeros((new, self._vocab_size))])
        self._free_lines.extend(range(old + new - 1, old - 1, -1))
