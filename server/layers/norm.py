"""RMS and layer normalisation, alone or with the addition of the residual stream before it; and those of heads before attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.norm import fused_add_rms_norm, rms_norm
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.weight import Layer, Part, Weight, whole


class RMSNorm(Layer):
    """``weight * x / rms(x)`` over the last dimension; every rank holds the whole weight. In fp32 (``dtype``), the weight is multiplied
    before anything is rounded: see kernels/norm.py."""

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

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """As RMSNorm.add."""
        total = x + residual
        return self(total), total

    def _keep_weight(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes


class WholeRMSNorm(Layer):
    """The RMS norm of a rank's heads x [T, heads, D] as of the one vector that the heads of all ranks are (OLMo 2). ``span`` (first,
    length) is this rank's part of the ``size`` channels; other ranks may hold the same, if each part is held as often."""

    def __init__(self, size: int, span: tuple[int, int], eps: float, *, device: torch.device, group: TensorParallelGroup) -> None:
        parts = {"": Part((size,), 0, *span)}
        self.weight = Weight((span[1],), parts, self._keep, dtype=torch.float32, device=device)
        self._eps = eps
        self._group = group
        self._weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if self._group.size == 1:
            return rms_norm(flat, self._weight, self._eps).view(x.shape)
        value = flat.float()
        square = self._group.all_reduce(value.square().mean(-1, keepdim=True)) / self._group.size
        return (self._weight * (value * torch.rsqrt(square + self._eps))).to(x.dtype).view(x.shape)

    def _keep(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes


class HeadLayerNorm(Layer):
    """Layer normalisation of each head of x [T, heads, D], with weights of its own and no bias (Command R+). ``span`` (first, length) are
    this rank's of ``num_heads``."""

    def __init__(
        self, num_heads: int, span: tuple[int, int], head_dim: int, eps: float, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        parts = {"": Part((num_heads, head_dim), 0, *span)}
        self.weight = Weight((span[1], head_dim), parts, self._keep, dtype=dtype, device=device)
        self._eps = eps
        self._weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(x.float(), x.shape[-1:], eps=self._eps)
        return (normed * self._weight).to(x.dtype)

    def _keep(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes
