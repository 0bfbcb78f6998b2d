"""A feed-forward layer that is a mixture of experts: a router picks some for each token, and one more may see them all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.activation import silu_and_mul
from headway.kernels.group_routing import route_in_groups
from headway.kernels.moe import Scoring, route_tokens
from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.experts import ExpertStore
from headway.server.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Weight, whole


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """How scores become a token's experts and their weights: see kernels/moe.py and kernels/group_routing.py.

    With ``renormalise`` a token's weights add up to ``scale``: of softmax scores that is also a softmax over its K logits alone, as gpt-oss
    has it. ``has_bias``: one in fp32 beside the router's own, which chooses and does not weigh.
    """

    scoring: Scoring
    top_k: int
    renormalise: bool
    num_groups: int = 1
    top_groups: int = 1
    has_bias: bool = False
    scale: float = 1.0


class Router(Layer):
    """x [T, H] -> (weights, experts), [T, K] each. Every rank holds all of it, in ``dtype``, which products with it have."""

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        *,
        choice: ExpertChoice,
        has_bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_experts, hidden_size)
        self.weight = Weight(shape, whole(shape), self._keep, dtype=dtype, device=device)
        self.bias = Weight(shape[:1], whole(shape[:1]), self._keep_bias, dtype=dtype, device=device) if has_bias else None
        self.choice_bias: Weight | None = None
        if choice.has_bias:
            self.choice_bias = Weight(shape[:1], whole(shape[:1]), self._keep_choice_bias, dtype=torch.float32, device=device)
        self._choice = choice
        self._weight: Tensor
        self._bias: Tensor | None = None
        self._choice_bias: Tensor | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        choice = self._choice
        logits = functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        if choice.num_groups == 1 and self._choice_bias is None:
            weights, experts = route_tokens(logits, choice.top_k, scoring=choice.scoring, renormalise=choice.renormalise)
        else:
            weights, experts = route_in_groups(
                logits,
                self._choice_bias,
                choice.top_k,
                scoring=choice.scoring,
                renormalise=choice.renormalise,
                num_groups=choice.num_groups,
                top_groups=choice.top_groups,
            )
        return (weights if choice.scale == 1.0 else weights * choice.scale), experts

    def _keep(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes

    def _keep_choice_bias(self, bias: Tensor) -> int:
        self._choice_bias = bias
        return bias.nbytes


class SharedExpert(Layer):
    """The expert that every token goes to, as much as a gate of its own says: ``sigmoid(gate x) * down(silu_and_mul(gate_up x))``. Without
    the gate it is a feed-forward layer.

    Cut over the ranks as a dense feed-forward layer is; the gate is whole on each.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        has_gate: bool,
        method: LinearMethod,
        group: TensorParallelGroup,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        sizes = {"gate": intermediate_size, "up": intermediate_size}
        self.gate_up = MergedColumnParallelLinear(hidden_size, sizes, bias=False, method=method, group=group)
        self.down = RowParallelLinear(intermediate_size, hidden_size, bias=False, method=method.for_gated_input(), group=group)
        shape = (1, hidden_size)
        self.gate = Weight(shape, whole(shape), self._keep_gate, dtype=dtype, device=device) if has_gate else None
        self._gate: Tensor

    def __call__(self, x: Tensor, lora: LoraPlan | None) -> Tensor:
        """This rank's summand [T, H]."""
        out = self.down.summand(silu_and_mul(self.gate_up(x, lora)), lora)
        return out if self.gate is None else torch.sigmoid(functional.linear(x, self._gate)) * out

    def _keep_gate(self, gate: Tensor) -> int:
        self._gate = gate
        return gate.nbytes


class MixtureOfExperts(Layer):
    """x [T, H] -> [T, H], summed as TensorParallelGroup.sum_rows does: each rank adds what its experts, or its parts of them, give."""

    def __init__(self, router: Router, routed: ExpertStore, shared: SharedExpert | None, group: TensorParallelGroup) -> None:
        self.router = router
        self.routed = routed
        self.shared = shared
        self._group = group

    def __call__(self, x: Tensor, lora: LoraPlan | None) -> Tensor:
        """``lora`` concerns the shared expert alone."""
        out = self.routed(x, *self.router(x))
        if self.shared is not None:
            out += self.shared(x, lora)
        return self._group.sum_rows(out)
