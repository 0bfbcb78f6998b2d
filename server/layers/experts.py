"""The experts of one layer that a rank holds, whole or its columns of each: kept one by one, or as one tensor for the grouped product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.kernels.activation import silu_and_mul
from headway.kernels.moe import ClampedGate, clamped_gate, moe
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.layers.linear import column_parts, split_evenly
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Part, Weight


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """A gated feed-forward layer, whole."""

    hidden_size: int
    intermediate_size: int
    has_bias: bool = False
    gate: ClampedGate | None = None  # None: a SiLU


@dataclass(frozen=True, slots=True)
class HeldExperts:
    """What of ``num_experts`` a rank holds: those of ``span``, each cut over ``cut`` (SINGLE where they are whole)."""

    num_experts: int
    span: range
    cut: TensorParallelGroup

    @property
    def adds_bias(self) -> bool:
        """Whether this rank adds the bias of an expert's output: of those that hold parts of an expert the first does."""
        return self.cut.rank == 0


def hold_experts(num_experts: int, group: TensorParallelGroup, *, is_whole: bool) -> HeldExperts:
    """``is_whole``: each rank has some experts, as many as the others or one more; else it has a part of each."""
    if not is_whole:
        return HeldExperts(num_experts, range(num_experts), group)
    first, end = (rank * num_experts // group.size for rank in (group.rank, group.rank + 1))
    return HeldExperts(num_experts, range(first, end), SINGLE)


class ExpertProduct(Layer):
    """One matrix of one expert. ``keep`` takes the loaded weight and the loaded bias, and returns the bytes that are kept of them."""

    def __init__(
        self,
        shape: tuple[int, int],
        parts: dict[str, Part],
        bias_parts: dict[str, Part] | None,
        method: LinearMethod,
        keep: tuple[Callable[[Any], int], Callable[[Tensor], int]],
    ) -> None:
        keep_weight, keep_bias = keep
        self.weight = method.create(shape, parts, keep_weight)
        self.bias: Weight | None = None
        if bias_parts is not None:
            self.bias = method.create(shape[:1], bias_parts, keep_bias)


class Expert(Layer):
    """The places of one expert's weights. ``store`` is who keeps them, at ``index``."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: LinearMethod, store: ExpertStore, index: int) -> None:
        length = split_evenly(shape.intermediate_size, held.cut, "the size of an expert")
        start, hidden, size = held.cut.rank * length, shape.hidden_size, shape.intermediate_size
        spans = {name: (size, start, length) for name in ("gate", "up")}
        columns = {"": Part((hidden, size), 1, start, length)}
        bias = {"": Part((hidden,), 0, 0, hidden)} if shape.has_bias and held.adds_bias else None
        self.gate_up = ExpertProduct(*column_parts(hidden, spans, shape.has_bias), method, store.keepers("gate_up", index))
        self.down = ExpertProduct((hidden, length), columns, bias, method.for_gated_input(), store.keepers("down", index))


class ExpertStore(Layer):
    """Keeps the loaded experts of a layer, and computes with them."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: LinearMethod) -> None:
        self.experts = {expert: Expert(shape, held, method, self, i) for i, expert in enumerate(held.span)}
        self._shape = shape
        self._held = held

    def keepers(self, product: str, index: int) -> tuple[Callable[[Any], int], Callable[[Tensor], int]]:
        """What takes the weight, and the bias, of the product ("gate_up", "down") of the expert at ``index`` of those held."""
        raise NotImplementedError

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, H] and its routes [T, K], see kernels/moe.py route_tokens -> this rank's summand [T, H]."""
        raise NotImplementedError


class SeparateExperts(ExpertStore):
    """Each packed as its method packs a linear: rows are sorted by expert, and there is a product for each expert that has rows."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: LinearMethod) -> None:
        self._methods = {"gate_up": method, "down": method.for_gated_input()}
        self._packed: dict[tuple[str, int], Any] = {}
        self._biases: dict[tuple[str, int], Tensor] = {}
        super().__init__(shape, held, method)

    def keepers(self, product: str, index: int) -> tuple[Callable[[Any], int], Callable[[Tensor], int]]:
        return partial(self._keep, (product, index)), partial(self._keep_bias, (product, index))

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        out = torch.zeros_like(x, dtype=torch.float32)
        top_k, flat = experts.shape[1], weights.flatten()
        for index, pairs in self._rows_of(experts):
            tokens = pairs // top_k
            inner = self._product("gate_up", index, x[tokens])
            inner = silu_and_mul(inner) if self._shape.gate is None else clamped_gate(inner, self._shape.gate)
            result = self._product("down", index, inner)
            out.index_add_(0, tokens, result * flat[pairs, None])
        return out.to(x.dtype)

    def tensors(self) -> Iterator[Tensor]:
        yield from super().tensors()
        held = (getattr(packed, "data", None) for packed in self._packed.values())
        yield from (tensor for tensor in (*held, *self._biases.values()) if isinstance(tensor, Tensor))

    def _rows_of(self, experts: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each held expert that has rows, and which pairs of a token and an expert are its own, in order."""
        pairs = experts.flatten().long().sort(stable=True).indices
        counts = torch.bincount(experts.flatten(), minlength=self._held.num_experts).tolist()
        for expert, its_pairs in enumerate(torch.split(pairs, counts)):
            if len(its_pairs) and expert in self._held.span:
                yield expert - self._held.span.start, its_pairs

    def _product(self, product: str, index: int, x: Tensor) -> Tensor:
        place = (product, index)
        return self._methods[product].apply(x, self._packed[place], self._biases.get(place))

    def _keep(self, place: tuple[str, int], weight: Any) -> int:
        self._packed[place], num_bytes = self._methods[place[0]].pack(weight)
        return num_bytes

    def _keep_bias(self, place: tuple[str, int], bias: Tensor) -> int:
        self._biases[place] = bias
        return bias.nbytes


class StackedExperts(ExpertStore):
    """All in one tensor a matrix, [E, N, K], for the product that asks nothing of the host: of a GPU, with plain weights."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: LinearMethod) -> None:
        self.gate_up = _Stack(len(held.span))
        self.down = _Stack(len(held.span))
        super().__init__(shape, held, method)

    def keepers(self, product: str, index: int) -> tuple[Callable[[Any], int], Callable[[Tensor], int]]:
        stack = self.gate_up if product == "gate_up" else self.down
        return partial(stack.put, index), partial(stack.put_bias, index)

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        if not self._held.span:
            return torch.zeros_like(x)
        return moe(
            x,
            self.gate_up.weight,
            self.down.weight,
            weights,
            self._own(experts),
            gate_up_bias=self.gate_up.bias,
            down_bias=self.down.bias,
            gate=self._shape.gate,
        )

    def _own(self, experts: Tensor) -> Tensor:
        """By their place among those held; as many as these for others."""
        span = self._held.span
        if len(span) == self._held.num_experts:
            return experts
        local = experts - span.start
        return local.masked_fill_((local < 0) | (local >= len(span)), len(span))


class _Stack(Layer):
    """One matrix of every expert, filled one after the other."""

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts
        self.weight: Tensor
        self.bias: Tensor | None = None

    def put(self, index: int, weight: Tensor) -> int:
        if not hasattr(self, "weight"):
            self.weight = weight.new_empty((self._num_experts, *weight.shape))
        self.weight[index] = weight
        return weight.nbytes

    def put_bias(self, index: int, bias: Tensor) -> int:
        if self.bias is None:
            self.bias = bias.new_empty((self._num_experts, *bias.shape))
        self.bias[index] = bias
        return bias.nbytes
