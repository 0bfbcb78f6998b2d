"""Dense matrix products."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x [..., K], weight [N, K], bias [N], one dtype -> [..., N]. The BLAS of the device does it."""
    return functional.linear(x, weight, bias)
