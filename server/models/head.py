"""What a classifier has on top of a pooled hidden state."""

from __future__ import annotations

from torch import Tensor

from headway.server.distributed.groups import SINGLE
from headway.server.layers.activation import ACTIVATIONS
from headway.server.layers.linear import ColumnParallelLinear
from headway.server.layers.norm import LayerNorm
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext


class ClassifierHead(Layer):
    """pooled [L, H] -> scores [L, num_labels] fp32. Every rank holds all of it.

    ``activation``: that of a dense layer before the last one; None: there is no such layer.
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        context: BuildContext,
        *,
        bias: bool = True,
        activation: str | None = None,
        dense_bias: bool = True,
        norm: LayerNorm | None = None,
    ) -> None:
        self.dense = None
        if activation is not None:
            self.dense = ColumnParallelLinear(hidden_size, hidden_size, bias=dense_bias, method=context.method, group=SINGLE)
            self._activation = ACTIVATIONS[activation]
        self.norm = norm
        self.out = ColumnParallelLinear(hidden_size, num_labels, bias=bias, method=context.method, group=SINGLE)

    def __call__(self, pooled: Tensor) -> Tensor:
        if self.dense is not None:
            pooled = self._activation(self.dense(pooled))
        if self.norm is not None:
            pooled = self.norm(pooled)
        return self.out(pooled).float()
