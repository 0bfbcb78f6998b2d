"""Presence, frequency and repetition penalties: which tokens each row has seen, kept on the device.

Their formula is that of ``headway.kernels.penalties``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headway.kernels.penalties import Penalties, apply_penalties, count_tokens
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
        self._device = device
        self._output_counts = torch.zeros((0, vocab_size), dtype=torch.float32, device=device)  # whole numbers, exact to 2^24
        self._in_prompt = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        self._slots: dict[int, int] = {}  # row -> line of the tables
        self._free_slots: list[int] = []
        self._params: dict[int, tuple[float, float, float]] = {}  # row -> presence, frequency, repetition
        self._last: tuple[tuple[int, ...], Penalties] | None = None  # the rows of a step, and what was uploaded for them

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if not needs_penalties(sampling):
            return
        assert row not in self._slots, f"row {row} was added twice"
        if not self._free_slots:
            self._grow()
        slot = self._free_slots.pop()
        self._slots[row] = slot
        self._params[row] = (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty)
        self._output_counts[slot] = 0
        self._in_prompt[slot] = False
        prompt, output = self._known_ids(token_ids[:num_prompt_tokens]), self._known_ids(token_ids[num_prompt_tokens:])
        self._in_prompt[slot].index_fill_(0, prompt, True)
        count_tokens(self._output_counts, torch.full_like(output, slot), output)

    def remove(self, row: int) -> None:
        slot = self._slots.pop(row, None)
        if slot is not None:
            self._free_slots.append(slot)
            del self._params[row]
            self._last = None

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        slots = [self._slots.get(row, -1) for row in rows]
        if any(slot >= 0 for slot in slots):
            count_tokens(self._output_counts, *upload(torch.tensor([slots, list(token_ids)]), self._device))

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """What it uploads is kept for the next step of the same rows in the same places."""
        if not self._slots:
            return
        key = tuple(row if row in self._slots else -1 for row in rows)
        if not any(row >= 0 for row in key):
            return
        if self._last is None or self._last[0] != key:
            self._last = (key, self._build(key))
        apply_penalties(logits, self._last[1], self._output_counts, self._in_prompt)

    def _build(self, key: tuple[int, ...]) -> Penalties:
        known = [(line, row) for line, row in enumerate(key) if row >= 0]
        places = torch.tensor([[line for line, _ in known], [self._slots[row] for _, row in known]])
        params = torch.tensor([self._params[row] for _, row in known], dtype=torch.float32).T.contiguous()
        return Penalties(*upload(places, self._device), *upload(params, self._device))

    def _known_ids(self, token_ids: Sequence[int]) -> Tensor:
        ids = np.asarray(token_ids, dtype=np.int64)
        return upload(torch.from_numpy(ids[(ids >= 0) & (ids < self._vocab_size)]), self._device)

    def _grow(self) -> None:
        old = self._output_counts.shape[0]
        new = max(4, old)  # doubles
        self._output_counts = torch.cat([self._output_counts, self._output_counts.new_zeros((new, self._vocab_size))])
        self._in_prompt = torch.cat([self._in_prompt, self._in_prompt.new_zeros((new, self._vocab_size))])
        self._free_slots.extend(range(old + new - 1, old - 1, -1))
