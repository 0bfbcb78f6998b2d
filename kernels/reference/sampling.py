"""Choosing tokens in plain torch: every random row is sorted.

``exp`` is written out in operations that IEEE 754 rounds one way, since libraries differ in its last bit: the weights, and so
the tokens, are the same on every device that computes them like this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.sampling import BROKEN, Draws

# A row's weights sum to at most 2^40 * vocabulary: below 2^63 up to 2^23 tokens. What is less likely than 2^-40 of the most
# likely token is never drawn; fp32 logits carry less than that.
WEIGHT_SCALE = float(1 << 40)
SMALLEST = -28.0  # exp of it is below 2^-40
LOG2_E = 1.44269502162933349609375  # the nearest fp32
LN2_HIGH = 0.693359375  # nine bits, so that a whole number below 64 times it is exact
LN2_LOW = -2.1219444170128554105758666992e-4
ROUND = 12582912.0  # 1.5 * 2^23: beyond it fp32 has no fractions
# exp(r) = 1 + r + r^2 * (these), highest power first; within one unit in the last place (Moshier's Cephes, expf).
POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def sample_tokens(logits: Tensor, draws: Draws | None) -> Tensor:
    """See headway.kernels.sampling.sample_tokens."""
    token_ids = logits.argmax(dim=-1)
    highest = logits.gather(1, token_ids[:, None])[:, 0]
    if draws is not None:
        token_ids.index_copy_(0, draws.lines, _draw(logits[draws.lines], draws))
    return torch.where(highest.isfinite(), token_ids, BROKEN)


def _draw(logits: Tensor, draws: Draws) -> Tensor:
    """Token ids [G] for ``logits`` [G, V]."""
    vocab_size = logits.shape[1]
    relative = exact_exp((logits - logits.amax(dim=-1, keepdim=True)) / draws.temperature.float()[:, None])
    relative.masked_fill_(relative < draws.min_p.float()[:, None], 0.0)
    values, ids = torch.sort(relative, dim=-1, descending=True, stable=True)
    is_ordered = ((draws.top_k < vocab_size) | (draws.top_p < 1.0))[:, None]
    values = torch.where(is_ordered, values, relative)
    ids = torch.where(is_ordered, ids, torch.arange(vocab_size, device=ids.device))
    return draw_ordered(values, ids, draws.top_k, draws.top_p, draws.uniform)


def exact_exp(x: Tensor) -> Tensor:
    """``exp(x)`` of x <= 0; below -28, that of -28, whose weight is 0."""
    x = x.clamp(min=SMALLEST)
    whole = (x * LOG2_E + ROUND) - ROUND
    rest = (x - whole * LN2_HIGH) - whole * LN2_LOW
    sum_ = torch.full_like(rest, POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        sum_ = sum_ * rest + coefficient
    value = sum_ * rest * rest + rest + 1.0
    return (value.view(torch.int32) + (whole.to(torch.int32) << 23)).view(torch.float32)


def weights_of(relative: Tensor) -> Tensor:
    """The integer weights of ``relative`` likelihoods in [0, 1]."""
    return (relative * WEIGHT_SCALE).long()


def draw_ordered(values: Tensor, ids: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor, total: Tensor | None = None) -> Tensor:
    """Applies top-k and top-p to candidates in order and draws: [G] of ``ids`` [G, W], whose likelihoods are ``values`` [G, W].

    ``total`` [G, 1] is the weight of the row where it is not that of the candidates that top-k leaves.
    """
    weights = weights_of(values)
    ranks = torch.arange(values.shape[1], device=values.device)
    weights.masked_fill_(ranks >= top_k[:, None], 0)
    before = weights.cumsum(dim=-1) - weights
    total = weights.sum(dim=-1, keepdim=True) if total is None else total
    limit = torch.where(top_p[:, None] < 1.0, top_p[:, None] * total, torch.inf)
    # The most likely token always stays, even for a top_p of 0.
    weights.masked_fill_((before >= limit) & (ranks > 0), 0)
    return ids.gather(1, pick(weights, uniform)[:, None])[:, 0]


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform: for each row the first place where the running sum exceeds ``uniform`` times the total. [G]"""
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    target = torch.minimum((uniform[:, None] * total).long(), total - 1)
    return torch.searchsorted(sums, target, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)
