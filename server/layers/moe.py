"""A feed-forward layer that is a mixture of experts: a router picks some for each token, and one more may see them all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.activation import silu_and_mul
from headway.kernels.moe import route_tokens
from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.experts import ExpertStore
from headway.server.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Weight, whole


class Router(Layer):
    """x [T, H] -> (weights, experts), [T, K] each. Every rank holds all of it, in the dtype of the activations.

    Scores are a softmax over all experts. With ``renormalise`` a token's weights add up to 1: that is also a softmax over its K logits
    alone, as gpt-oss has it.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        renormalise: bool,
        has_bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_experts, hidden_size)
        self.weight = Weight(shape, whole(shape), self._keep, dtype=dtype, device=device)
        self.bias = Weight(shape[:1], whole(shape[:1]), self._keep_bias, dtype=dtype, device=device) if has_bias else None
        self._top_k = top_k
        self._renormalise = renormalise
        self._weight: Tensor
        self._bias: Tensor | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(x, self._weight, self._bias)
        return route_tokens(logits, self._top_k, scoring="softmax", renormalise=self._renormalise)

    def _keep(self, weight: Tensor) -> int:
        self._weight = weight
        return weight.nbytes

    def _keep_bias(self, bias: Tensor) -> int:
        self._bias = bias
        return bias.nbytes


class SharedExpert(Layer):
    """The expert that every token goes to, as much as a gate of its own says: ``sigmoid(gate x) * down(silu_and_mul(gate_up x))``.

    Cut over the ranks as a dense feed-forward layer is; the gate is whole on each.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        method: LinearMethod,
        group: TensorParallelGroup,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        sizes = {"gate": intermediate_size, "up": intermediate_size}
        self.gate_up = MergedColumnParallelLinear(hidden_size, sizes, bias=False, method=method, group=group)
        self.down = RowParallelLinear(intermediate_size, hidden_size, bias=False, method=method.for_gated_input(), group=group)
        self.gate = Weight((1, hidden_size), whole((1, hidden_size)), self._keep_gate, dtype=dtype, device=device)
        self._gate: Tensor

    def __call__(self, x: Tensor, lora: LoraPlan | None) -> Tensor:
        """This rank's summand [T, H]."""
        return torch.sigmoid(functional.linear(x, self._gate)) * self.down.summand(silu_and_mul(self.gate_up(x, lora)), lora)

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
