"""The gated activations by the names that model configs use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from headway.kernels.activation import gelu_and_mul, silu_and_mul

# x [T, 2 I], gate then up -> [T, I]
GATED_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu_and_mul,
    "gelu": gelu_and_mul,
    "gelu_pytorch_tanh": partial(gelu_and_mul, tanh=True),
}
