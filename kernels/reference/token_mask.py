"""Token masks in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def forbid_tokens(logits: Tensor, allowed: Tensor, lines: Tensor) -> None:
    """See headway.kernels.token_mask.forbid_tokens."""
    places = torch.arange(32, dtype=torch.int32, device=allowed.device)
    bits = (allowed[:, :, None] >> places) & 1
    is_forbidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    logits[lines] = logits[lines].masked_fill(is_forbidden, float("-inf"))
