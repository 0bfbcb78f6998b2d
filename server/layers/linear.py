"""Linear layers cut over the ranks of a tensor-parallel group, after Megatron-LM (Shoeybi et al., arXiv:1909.08053)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.lora import LinearAdapters
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Part, Weight


class Linear(Layer):
    """Holds this rank's weight and bias in the method's packed form. ``adapters`` is there where adapters are enabled."""

    def __init__(self, shape: tuple[int, int], parts: dict[str, Part], bias_parts: dict[str, Part] | None, method: LinearMethod) -> None:
        self.weight = method.create(shape, parts, self._keep_weight)
        self.bias: Weight | None = None
        if bias_parts is not None:
            self.bias = method.create(shape[:1], bias_parts, self._keep_bias)
        self.adapters: LinearAdapters | None = None
        self._method = method
        self._apply = method.apply
        self._packed: Any = None
        self._bias: Tensor | None = None

    def make_adapters(self, num_slots: int, max_rank: int, *, dtype: torch.dtype, device: torch.device) -> LinearAdapters:
        """Room for adapters of ``dtype``, see LinearAdapters, to be given to ``adapters``."""
        return LinearAdapters(self.weight.shape, self.weight.parts, num_slots, max_rank, dtype=dtype, device=device)

    @property
    def packed(self) -> Any:
        """The loaded weight as the method packed it."""
        return self._packed

    @property
    def packed_bias(self) -> Tensor | None:
        return self._bias

    @property
    def is_whole(self) -> bool:
        """Whether what this rank computes is all of the layer's output that it gets."""
        return True

    def __call__(self, x: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """``lora``: the step's adapters, None for none."""
        out = self._apply(x, self._packed, self._bias)
        if lora is not None:
            self._adapt(out, x, lora)
        return out

    def _adapt(self, out: Tensor, x: Tensor, lora: LoraPlan) -> None:
        assert self.adapters is not None, "a step has adapters only where layers have room for them"
        self.adapters.add(out, x, lora)

    def _keep_weight(self, weight: Any) -> int:
        self._packed, num_bytes = self._method.pack(weight)
        return num_bytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes


class ReplicatedLinear(Linear):
    """One projection that every rank has in full: x [T, K] -> [T, N]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, method: LinearMethod) -> None:
        super().__init__(*column_parts(in_features, {"": (out_features, 0, out_features)}, bias), method)


class MergedColumnParallelLinear(Linear):
    """Several projections of one input as one product, each cut by rows: x [T, K] -> [T, sum of sizes / ranks].

    ``sizes`` names the parts in the order of their outputs ({"gate": 1536, "up": 1536}); each must divide by the ranks.
    """

    def __init__(self, in_features: int, sizes: dict[str, int], *, bias: bool, method: LinearMethod, group: TensorParallelGroup) -> None:
        spans = {}
        for name, size in sizes.items():
            length = split_evenly(size, group, f"the {name or 'output'} size")
            spans[name] = (size, group.rank * length, length)
        super().__init__(*column_parts(in_features, spans, bias), method)


class ColumnParallelLinear(MergedColumnParallelLinear):
    """One projection cut by rows: x [T, K] -> [T, N / ranks]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, method: LinearMethod, group: TensorParallelGroup) -> None:
        super().__init__(in_features, {"": out_features}, bias=bias, method=method, group=group)


class QKVParallelLinear(Linear):
    """Query, key and value projections as one product, cut by heads: x [T, K] -> [T, (num_heads + 2 num_kv_heads) * head_dim].

    ``num_heads`` and ``num_kv_heads`` are this rank's. With fewer key-value heads than ranks, each is held by several ranks.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        bias: bool,
        method: LinearMethod,
        group: TensorParallelGroup,
    ) -> None:
        self.num_heads = split_evenly(num_heads, group, "the number of attention heads")
        self.num_kv_heads = kv_heads_per_rank(num_kv_heads, group)
        kv_start = group.rank * num_kv_heads // group.size * head_dim
        kv_span = (num_kv_heads * head_dim, kv_start, self.num_kv_heads * head_dim)
        q_length = self.num_heads * head_dim
        spans = {"q": (num_heads * head_dim, group.rank * q_length, q_length), "k": kv_span, "v": kv_span}
        super().__init__(*column_parts(hidden_size, spans, bias), method)


class RowParallelLinear(Linear):
    """A projection cut by columns, summed over the ranks: x [T, K / ranks] -> [T, N], the same on every rank, or each one's rows of it."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, method: LinearMethod, group: TensorParallelGroup) -> None:
        length = split_evenly(in_features, group, "the input size")
        parts = {"": Part((out_features, in_features), 1, group.rank * length, length)}
        bias_parts = {"": Part((out_features,), 0, 0, out_features)} if bias else None
        super().__init__((out_features, length), parts, bias_parts, method)
        self._group = group

    @property
    def is_whole(self) -> bool:
        return self._group.size == 1

    def __call__(self, x: Tensor, lora: LoraPlan | None = None) -> Tensor:
        if self._group.size == 1:
            return super().__call__(x, lora)
        out = self._group.sum_rows(self.summand(x, lora))
        return out if self._bias is None else out + self._bias  # after the sum: once, not once a rank

    def summand(self, x: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """What this rank adds to the sum over the ranks, [T, N], without the bias."""
        out = self._apply(x, self._packed, None)
        if lora is not None:
            self._adapt(out, x, lora)
        return out


def split_evenly(size: int, group: TensorParallelGroup, what: str) -> int:
    """This rank's share of ``size``; raises ModelSourceError where the ranks do not divide it."""
    if size % group.size:
        raise ModelSourceError(f"This model can't be split over {group.size} devices: {what} is {size}; use a divisor of it.")
    return size // group.size


def kv_heads_per_rank(num_kv_heads: int, group: TensorParallelGroup) -> int:
    """Key-value heads on each rank: a share of them, or one that other ranks hold too."""
    if num_kv_heads % group.size and group.size % num_kv_heads:
        raise ModelSourceError(
            f"This model can't be split over {group.size} devices: its number of key-value heads is {num_kv_heads}; "
            "use a divisor or a multiple of it."
        )
    return max(num_kv_heads // group.size, 1)


def column_parts(
    in_features: int, spans: dict[str, tuple[int, int, int]], bias: bool
) -> tuple[tuple[int, int], dict[str, Part], dict[str, Part] | None]:
    """Shape, weight parts and bias parts of rows from several checkpoint tensors; a span is (rows there, first row, rows here)."""
    parts, bias_parts, offset = {}, {}, 0
    for name, (size, start, length) in spans.items():
        parts[name] = Part((size, in_features), 0, start, length, offset)
        bias_parts[name] = Part((size,), 0, start, length, offset)
        offset += length
    return (offset, in_features), parts, bias_parts if bias else None
