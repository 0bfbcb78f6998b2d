"""Choosing tokens from logits: one result a row, whatever the other rows are.

A random row is drawn by inverse transform: its weights ``exp((x - max) / temperature)`` are rounded down to 40-bit integers, summed
up in a fixed order and searched for ``u`` times their total. Integer sums are exact in any order, so neither the size of the batch
nor the way a device scans can move the border between two tokens; and a token that a filter removed has weight 0 and is never hit.

The filters, in the order in which they apply (each works on what the one before left, as if renormalised):
    min-p         p(token) >= min_p * p(most likely token)
    top-k         the k most likely tokens
    top-p         the fewest most likely tokens whose probability reaches top_p (Holtzman et al., 2019)
"Most likely first" breaks ties by the lower token id. It is also the order of the sum, but where neither top-k nor top-p is on,
which need no order: then it is that of the token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_inner_stride, check_shape

BROKEN = -1  # stands for the token of a row whose logits hold no finite maximum (NaN, +inf, or nothing allowed)


@dataclass(slots=True, frozen=True)
class Draws:
    """The G rows that are drawn at random, each tensor [G] and contiguous, on the device of the logits."""

    lines: Tensor  # int64, which lines of the logits, each at most once
    top_k: Tensor  # int64, at least 1; the vocabulary's size or more is off
    temperature: Tensor  # float64, above 0, used as float32
    top_p: Tensor  # float64; 1 is off; the most likely token stays, even for 0
    min_p: Tensor  # float64 up to 1, used as float32; 0 is off
    uniform: Tensor  # float64 in [0, 1): the randomness


def sample_tokens(logits: Tensor, draws: Draws | None) -> Tensor:
    """Token ids [L] int64 for ``logits`` [L, V] fp32, any outer stride: drawn for ``draws.lines``, the first maximum for the others.

    A row without a finite maximum gets BROKEN; it does not touch the others.
    On a GPU nothing waits for the device, and the number of launches does not depend on the rows. V is at most 2^23.
    """
    check_shape("logits", logits, -1, -1)
    check_inner_stride("logits", logits)
    if logits.dtype != torch.float32:
        raise ValueError(f"logits are {logits.dtype}; tokens are chosen in float32")
    if draws is not None:
        for name in ("lines", "top_k", "temperature", "top_p", "min_p", "uniform"):
            check_shape(name, getattr(draws, name), draws.lines.shape[0])
            check_contiguous(name, getattr(draws, name), torch.int64 if name in ("lines", "top_k") else torch.float64)
    token_ids: Tensor = implementation("sampling", logits.device.type).sample_tokens(logits, draws)
    return token_ids
