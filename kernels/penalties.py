"""Presence, frequency and repetition penalties, and the counts of tokens that they go by, which stay on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_inner_stride, check_shape


@dataclass(slots=True, frozen=True)
class Penalties:
    """The N rows that have some, each tensor [N] and contiguous, on the device of the logits."""

    lines: Tensor  # int64, which lines of the logits, each at most once
    slots: Tensor  # int64, which lines of the tables of counts
    presence: Tensor  # float32; 0 is off
    frequency: Tensor  # float32; 0 is off
    repetition: Tensor  # float32, above 0; 1 is off


def apply_penalties(logits: Tensor, penalties: Penalties, counts: Tensor, in_prompt: Tensor) -> None:
    """Changes ``logits`` [L, V] fp32, any outer stride, in place, with n of ``counts`` [S, V] fp32 and ``in_prompt`` [S, V] bool:

    for a token seen in prompt or output (repetition, Keskar et al., 2019):  x / r if x > 0 else x * r
    then for one in the output (OpenAI's formula):                           x - frequency * n - presence
    """
    check_shape("logits", logits, -1, -1)
    check_inner_stride("logits", logits)
    check_shape("counts", counts, -1, logits.shape[1])
    check_shape("in_prompt", in_prompt, *counts.shape)
    for name in ("lines", "slots", "presence", "frequency", "repetition"):
        check_shape(name, getattr(penalties, name), penalties.lines.shape[0])
        check_contiguous(name, getattr(penalties, name), torch.int64 if name in ("lines", "slots") else torch.float32)
    if logits.dtype != torch.float32:
        raise ValueError(f"logits are {logits.dtype}; penalties are for float32")
    implementation("penalties", logits.device.type).apply_penalties(logits, penalties, counts, in_prompt)


def count_tokens(counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    """``counts[slots[i], token_ids[i]] += 1`` in place, for ``counts`` [S, V] contiguous fp32, slots and token_ids [N] int64.

    A pair may come more than once. One with a slot of -1, or a token that is not in 0 to V - 1, counts nothing.
    """
    check_shape("counts", counts, -1, -1)
    check_shape("token_ids", token_ids, slots.shape[0])
    check_contiguous("counts", counts, torch.float32)
    check_contiguous("slots", slots, torch.int64)
    check_contiguous("token_ids", token_ids, torch.int64)
    implementation("penalties", counts.device.type).count_tokens(counts, slots, token_ids)
