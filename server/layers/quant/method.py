"""How a linear layer's weight is created, kept and applied: the protocol that each file beside this one implements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from headway.kernels.expert_weights import ExpertWeights
from headway.server.layers.weight import Part, Weight


class LinearMethod(Protocol):
    """Shared by all linear layers of a model; holds no state of a layer."""

    @property
    def name(self) -> str:
        """For logs and EngineInfo.weight_format, such as "int8 (8-bit activations)"."""
        ...

    def for_gated_input(self) -> LinearMethod:
        """The method for a linear that reads a gated activation, whose few large channels no rotation of the stream reaches."""
        ...

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Any], int]) -> Weight:
        """The weight, or the bias, as checkpoint tensors fill it. ``finish`` gets a bias as a tensor, a weight in ``pack``'s form."""
        ...

    def pack(self, weight: Any) -> tuple[Any, int]:
        """The form that ``apply`` takes, and its bytes. A loaded weight [N, K] is given up to this call: a tensor, or what ``create``
        fills in its place."""
        ...

    def apply(self, x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
        """``x @ weight.T + bias``: x [T, K] -> [T, N] in x's dtype."""
        ...


@runtime_checkable
class StackingMethod(LinearMethod, Protocol):
    """One that has a form for the experts of a layer together, besides that of each alone: see layers/experts.py."""

    @property
    def stacks_experts(self) -> bool:
        """Whether they are kept so."""
        ...

    def for_gated_input(self) -> StackingMethod: ...

    def pack_expert(self, weight: Any) -> ExpertWeights:
        """One matrix of one expert, as ``pack`` gets it, in the form that goes into the stack: see kernels/moe.py. Raises ModelSourceError
        where a checkpoint has it in a way that has no such form."""
        ...
