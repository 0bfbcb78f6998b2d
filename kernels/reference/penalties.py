"""Penalties in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.penalties import Penalties


def apply_penalties(logits: Tensor, penalties: Penalties, counts: Tensor, in_prompt: Tensor) -> None:
    """See headway.kernels.penalties.apply_penalties."""
    presence, frequency, repetition = (x[:, None] for x in (penalties.presence, penalties.frequency, penalties.repetition))
    values, times = logits[penalties.lines], counts[penalties.slots]
    repeated = torch.where(values > 0, values / repetition, values * repetition)
    values = torch.where((times > 0) | in_prompt[penalties.slots], repeated, values)
    values = values - frequency * times - presence * (times > 0)
    logits.index_copy_(0, penalties.lines, values)


def count_tokens(counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    """See headway.kernels.penalties.count_tokens."""
    num_slots, vocab_size = counts.shape
    is_counted = (slots >= 0) & (token_ids >= 0) & (token_ids < vocab_size)
    places = (slots.clamp(0, num_slots - 1), token_ids.clamp(0, vocab_size - 1))
    counts.index_put_(places, is_counted.to(counts.dtype), accumulate=True)
