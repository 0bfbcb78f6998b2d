"""RMS normalisation, alone or with the addition of the residual stream before it, and layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.norm import fused_add_rms_norm, rms_norm
from headway.server.layers.weight import Layer, Weight, whole


class RMSNorm(Layer):
    """``weight * x / rms(x)`` over the last dimension; every rank holds the whole weight."""

    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = Weight((size,), whole((size,)), self._keep, dtype=dtype, device=device)
        self.eps = eps
        self._weight: Tensor

    @property
    def loaded_weight(self) -> Tensor:
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self._weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (normalised x + residual, x + residual): the layer's input, and the stream carried on."""
        return fused_add_rms_norm(x, residual, self._weight, self.eps)

    def _keep(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes


class LayerNorm(Layer):
    """``weight * (x - mean(x)) / std(x) + bias`` over the last dimension; every rank holds all of it."""

    def __init__(self, size: int, eps: float, *, has_bias: bool = True, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = Weight((size,), whole((size,)), self._keep_weight, dtype=dtype, device=device)
        self.bias = Weight((size,), whole((size,)), self._keep_bias, dtype=dtype, device=device) if has_bias else None
        self._size = size
        self._eps = eps
        self._weight: Tensor
        self._bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (self._size,), self._weight, self._bias, self._eps)

    def _keep_weight(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes
