"""The experts of one layer that a rank holds, whole or its columns of each: kept one by one, or as one tensor for the grouped product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.kernels.activation import silu_and_mul
from headway.kernels.expert_weights import ExpertWeights, QuantizedWeights
from headway.kernels.moe import ClampedGate, clamped_gate, moe
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.linear import column_parts, split_evenly
from headway.server.layers.quant.kept import KeptLinear
from headway.server.layers.quant.method import LinearMethod, StackingMethod
from headway.server.layers.quant.scheme import share_of_expert
from headway.server.layers.weight import Layer, ManyTensors, Part, Weight


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
    span: Sequence[int]
    cut: TensorParallelGroup

    @staticmethod
    def some(num_experts: int, span: Sequence[int]) -> HeldExperts:
        """Whole."""
        return HeldExperts(num_experts, span, SINGLE)

    @property
    def adds_bias(self) -> bool:
        """Whether this rank adds the bias of an expert's output: of those that hold parts of an expert the first does."""
        return self.cut.rank == 0


def hold_experts(num_experts: int, group: TensorParallelGroup, *, is_whole: bool) -> HeldExperts:
    """``is_whole``: each rank has some experts, as many as the others or one more; else it has a part of each."""
    if not is_whole:
        return HeldExperts(num_experts, range(num_experts), group)
    first, end = (rank * num_experts // group.size for rank in (group.rank, group.rank + 1))
    return HeldExperts.some(num_experts, range(first, end))


@dataclass(frozen=True, slots=True)
class QuantizedStack(ManyTensors):
    weight: QuantizedWeights

    def tensors(self) -> Iterator[Tensor]:
        return self.weight.tensors()


class Stack(Layer):
    """One matrix of every expert of a layer together, [E, N, K], and its biases [E, N], filled one after the other."""

    def __init__(self, num_experts: int, method: StackingMethod) -> None:
        self._num_experts = num_experts
        self._method = method
        self._weight: Tensor | QuantizedStack | None = None  # None: it has not come yet
        self.bias: Tensor | None = None

    @property
    def weight(self) -> ExpertWeights:
        assert self._weight is not None, "it is filled before it is used"
        return self._weight if isinstance(self._weight, Tensor) else self._weight.weight

    def tensors_by_expert(self) -> Iterator[Tensor]:
        """All, each with a row for an expert, in types that every device can copy and send."""
        weight = self.weight
        for tensor in (weight,) if isinstance(weight, Tensor) else weight.tensors():
            yield tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        if self.bias is not None:
            yield self.bias

    def put(self, index: int, weight: Any) -> int:
        """``weight``: as the method packs it. Returns the bytes that are kept of it."""
        expert = self._method.pack_expert(weight)
        if isinstance(expert, Tensor):
            return self._put_plain(index, expert)
        if self._weight is None:
            self._weight = QuantizedStack(expert.stack(self._num_experts))
        if isinstance(self._weight, Tensor):
            raise _mixed()
        self._weight.weight.put(index, expert)
        return sum(tensor.nbytes for tensor in expert.tensors())

    def _put_plain(self, index: int, weight: Tensor) -> int:
        if self._weight is None:
            self._weight = weight.new_empty((self._num_experts, *weight.shape))
        if not isinstance(self._weight, Tensor):
            raise _mixed()
        self._weight[index] = weight
        return weight.nbytes

    def put_bias(self, index: int, bias: Tensor) -> int:
        if self.bias is None:
            self.bias = bias.new_empty((self._num_experts, *bias.shape))
        self.bias[index] = bias
        return bias.nbytes


def _mixed() -> ModelSourceError:
    return ModelSourceError(
        "This checkpoint has some experts of a layer quantised and others not, and one product computes them all: add --quantization none, "
        "which dequantises them."
    )


class ExpertProduct(Layer):
    """One matrix of one expert: kept as its method packs it, or at ``index`` of ``stack`` where there is one."""

    def __init__(
        self,
        shape: tuple[int, int],
        parts: dict[str, Part],
        bias_parts: dict[str, Part] | None,
        method: LinearMethod,
        index: int,
        stack: Stack | None,
    ) -> None:
        self.weight = method.create(shape, parts, self._keep if stack is None else partial(stack.put, index))
        self.bias: Weight | None = None
        if bias_parts is not None:
            self.bias = method.create(shape[:1], bias_parts, self._keep_bias if stack is None else partial(stack.put_bias, index))
        self._method = method
        self._packed: Any = None
        self._bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, K] -> [T, N], of one that is in no stack."""
        return self._method.apply(x, self._packed, self._bias)

    def _keep(self, weight: Any) -> int:
        self._packed, num_bytes = self._method.pack(weight)
        return num_bytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes


class Expert(Layer):
    """The one at ``index`` of those held. ``stacks``: of gate_up and of down."""

    def __init__(
        self, shape: ExpertShape, held: HeldExperts, method: LinearMethod, index: int, stacks: tuple[Stack, Stack] | None = None
    ) -> None:
        hidden, size = shape.hidden_size, shape.intermediate_size
        start, length = _channels(size, held.cut, method)
        spans = {name: (size, start, length) for name in ("gate", "up")}
        columns = {"": Part((hidden, size), 1, start, length)}
        bias = {"": Part((hidden,), 0, 0, hidden)} if shape.has_bias and held.adds_bias else None
        gate_up_stack, down_stack = stacks or (None, None)
        self.gate_up = ExpertProduct(*column_parts(hidden, spans, shape.has_bias), method, index, gate_up_stack)
        self.down = ExpertProduct((hidden, length), columns, bias, method.for_gated_input(), index, down_stack)


def _channels(size: int, cut: TensorParallelGroup, method: LinearMethod) -> tuple[int, int]:
    """(first, count) of an expert's inner channels on this rank."""
    own = share_of_expert(size, method.scheme.step, cut.rank, cut.size) if isinstance(method, KeptLinear) else None
    if own is not None:
        return own
    length = split_evenly(size, cut, "the size of an expert")
    return cut.rank * length, length


class SeparateExperts(Layer):
    """Each packed as its method packs a linear: rows are sorted by expert, and there is a product for each expert that has rows."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: LinearMethod) -> None:
        self.experts = {expert: Expert(shape, held, method, i) for i, expert in enumerate(held.span)}
        self._gate = shape.gate
        self._num_experts = held.num_experts

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, H] and its routes [T, K], see kernels/moe.py route_tokens -> this rank's summand [T, H]."""
        out = torch.zeros_like(x, dtype=torch.float32)
        top_k, flat = experts.shape[1], weights.flatten()
        for expert, pairs in self._rows_of(experts):
            tokens = pairs // top_k
            inner = expert.gate_up(x[tokens])
            inner = silu_and_mul(inner) if self._gate is None else clamped_gate(inner, self._gate)
            out.index_add_(0, tokens, expert.down(inner) * flat[pairs, None])
        return out.to(x.dtype)

    def _rows_of(self, experts: Tensor) -> Iterator[tuple[Expert, Tensor]]:
        """Each held expert that has rows, and which pairs of a token and an expert are its own, in order."""
        flat = experts.flatten().long()
        pairs = flat.sort(stable=True).indices
        end = 0
        for number, count in enumerate(flat.bincount(minlength=self._num_experts).tolist()):
            start, end = end, end + count
            if count and number in self.experts:
                yield self.experts[number], pairs[start:end]


class StackedExperts(Layer):
    """All together, plain or of few bits, for the product that asks nothing of the host: of a GPU."""

    def __init__(self, shape: ExpertShape, held: HeldExperts, method: StackingMethod) -> None:
        self.gate_up, self.down = Stack(len(held.span), method), Stack(len(held.span), method.for_gated_input())
        stacks = self.gate_up, self.down
        self.experts = {expert: Expert(shape, held, method, i, stacks) for i, expert in enumerate(held.span)}
        self._gate = shape.gate
        self._held = held

    def __call__(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """As SeparateExperts."""
        return moe(
            x,
            self.gate_up.weight,
            self.down.weight,
            weights,
            self._own(experts),
            gate_up_bias=self.gate_up.bias,
            down_bias=self.down.bias,
            gate=self._gate,
        )

    def _own(self, experts: Tensor) -> Tensor:
        """By their place among those held; as many as these for others."""
        span = self._held.span
        if len(span) == self._held.num_experts:
            return experts
        local = experts - span[0]
        return local.masked_fill_((local < 0) | (local >= len(span)), len(span))


ExpertStore = SeparateExperts | StackedExperts
