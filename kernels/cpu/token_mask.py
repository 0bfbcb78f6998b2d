"""Token masks with the bits spread by numpy, which has a look-up for that.

0.5 ms against 4.6 ms for [32, 49152] with few tokens allowed (2026-11, EPYC with AVX-512, 2 threads).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def forbid_tokens(logits: Tensor, allowed: Tensor, lines: Tensor) -> None:
    """See headway.kernels.token_mask.forbid_tokens."""
    forbidden_bits = np.invert(allowed.contiguous().numpy()).view(np.uint8)
    bits = np.unpackbits(forbidden_bits, axis=1, count=logits.shape[1], bitorder="little")
    is_forbidden = torch.from_numpy(bits.view(np.bool_))
    if len(lines) == len(logits) and bool((lines[1:] > lines[:-1]).all()):  # every line, in order
        logits.masked_fill_(is_forbidden, float("-inf"))
    else:
        logits[lines] = logits[lines].masked_fill_(is_forbidden, float("-inf"))
