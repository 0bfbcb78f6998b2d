"""Our layers in the place of a transformers model's own: linears, the table of tokens, the head; and its other tensors as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.linear import ColumnParallelLinear, Linear, RowParallelLinear, split_evenly
from headway.server.layers.weight import Layer, Part, Weight


@dataclass(slots=True)
class StepAdapters:
    """The adapters of the tokens that are computed: modules of transformers hand no such thing on. Set before the body, and before the
    head, by the model."""

    plan: LoraPlan | None = None


class LinearModule(nn.Module):
    """x [1, T, K] -> [1, T, N] by one of our linears. ``gathers``: each rank gives its part of the output to all; ``splits``: each takes
    its part of an input that all have."""

    def __init__(self, linear: Linear, adapters: StepAdapters, group: TensorParallelGroup, *, gathers: bool, splits: bool) -> None:
        super().__init__()
        self._linear, self._adapters, self._group = linear, adapters, group
        self._gathers, self._splits = gathers, splits

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self._splits:
            rows = rows.chunk(self._group.size, dim=1)[self._group.rank].contiguous()
        out = self._linear(rows, self._adapters.plan)
        if self._gathers:
            out = self._group.all_gather(out, dim=1)
        return out.view(*x.shape[:-1], -1)


class EmbeddingModule(nn.Module):
    """token_ids [1, T] -> [1, T, H]."""

    def __init__(self, table: VocabParallelEmbedding, adapters: StepAdapters) -> None:
        super().__init__()
        self._table, self._adapters = table, adapters

    def forward(self, token_ids: Tensor) -> Tensor:
        return self._table(token_ids.view(-1), self._adapters.plan).unsqueeze(0)


class HeadModule(nn.Module):
    """hidden [1, L, H] -> logits [1, L, V] in fp32, or this rank's columns of them while ``is_local``."""

    def __init__(self, head: ParallelLMHead, bias: Tensor | None, adapters: StepAdapters) -> None:
        super().__init__()
        self._head, self._adapters = head, adapters
        self.bias = bias  # of a head that is not split
        self.is_local = False

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.squeeze(0)
        compute = self._head.local if self.is_local else self._head
        logits = compute(rows, self._adapters.plan)
        return (logits if self.bias is None else logits + self.bias).unsqueeze(0)


class KeptTensor(Layer):
    """A tensor of a module that stays transformers' own: a norm's weight, a table of positions. Every rank has all of it, or of a
    number for each head those of its heads."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        then: Callable[[Tensor], int] | None,
        group: TensorParallelGroup = SINGLE,
    ) -> None:
        """``then``: what else takes the tensor, and the bytes that it keeps beside it. ``group``: that its rows are cut over."""
        self._shape = tuple(getattr(module, name).shape)
        shape = self._shape or (1,)
        length = split_evenly(shape[0], group, f"the rows of {name}")
        if group.size > 1:
            self._shape = (length, *shape[1:])
        parts = {"": Part(shape, 0, group.rank * length, length)}
        self.weight = Weight((length, *shape[1:]), parts, self._keep, dtype=dtype, device=device)
        self.kept: Tensor | None = None
        self._module, self._name, self._then = module, name, then

    def _keep(self, tensor: Tensor) -> int:
        self.kept = tensor = tensor.view(self._shape)
        kept: Any = nn.Parameter(tensor, requires_grad=False) if self._name in self._module._parameters else tensor
        setattr(self._module, self._name, kept)
        return tensor.nbytes + (0 if self._then is None else self._then(tensor))


def make_linear(module: nn.Linear, style: str, method: Any, group: TensorParallelGroup) -> Linear:
    """``style``: the tensor-parallel plan's word for it, "" for whole on every rank."""
    bias = module.bias is not None
    if style.startswith("rowwise"):
        return RowParallelLinear(module.in_features, module.out_features, bias=bias, method=method, group=group)
    cut = group if style.startswith("colwise") else SINGLE
    return ColumnParallelLinear(module.in_features, module.out_features, bias=bias, method=method, group=cut)
