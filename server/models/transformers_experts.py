"""The experts of a mixture that `transformers` runs: ours in their place where they are ours in kind, else as transformers computes them.

Transformers' experts take what its router chose, `(hidden_states, top_k_index, top_k_weights)`, so that only their product changes hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.experts import ExpertShape, ExpertStore
from headway.server.models.expert_names import ExpertStack
from headway.server.models.names import WeightName

# What the experts of transformers say of themselves: those that any implementation may compute (its `use_experts_implementation`).
_FACTS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")


@dataclass(frozen=True, slots=True)
class FoundExperts:
    """Experts of one layer that ours can stand for. ``stacks``: how transformers holds them, and so may a checkpoint."""

    name: str
    module: nn.Module
    num_experts: int
    shape: ExpertShape
    stacks: tuple[ExpertStack, ...]
    names: tuple[WeightName, ...]

    @property
    def block(self) -> str:
        """The module that has the experts, and beside them the router."""
        return self.name.rpartition(".")[0]


class ExpertsModule(nn.Module):
    """x [T, H], experts [T, K] and weights [T, K] of a router -> [T, H], summed over the ranks."""

    def __init__(self, store: ExpertStore, group: TensorParallelGroup) -> None:
        super().__init__()
        self._store, self._group = store, group

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        weights, experts = top_k_weights.float().contiguous(), top_k_index.to(torch.int32).contiguous()
        return self._group.all_reduce(self._store(hidden_states, weights, experts))


def find_experts(causal: nn.Module) -> list[FoundExperts]:
    """Of every layer those with a gate of a SiLU. Others stay where they are: ``stacked_elsewhere`` tells which."""
    return [_found(name, module) for name, module in causal.named_modules() if _is_ours(module)]


def stacked_elsewhere(causal: nn.Module, found: list[FoundExperts]) -> list[str]:
    """Parameters with a matrix for each of several experts that are none of those ``found``."""
    own = tuple(f"{it.name}." for it in found)
    return [name for name, parameter in causal.named_parameters() if parameter.dim() == 3 and not name.startswith(own)]


def is_router(linear: nn.Linear, name: str, found: list[FoundExperts]) -> bool:
    """Whether it chooses experts, or says how much of a shared one a token takes: a choice that no rounding should change."""
    return any(name.startswith(f"{it.block}.") and linear.out_features in (it.num_experts, 1) for it in found)


def _is_ours(module: nn.Module) -> bool:
    facts: Any = module
    if not all(hasattr(module, fact) for fact in _FACTS) or getattr(module, "has_post_expert_norm", False):
        return False
    return bool(facts.has_gate and facts.is_concatenated and _gates_plainly(facts))


def _gates_plainly(module: Any) -> bool:
    """Tried on numbers, since a class may have a gate of its own: capped, or of another kind."""
    gate_up = torch.linspace(-40.0, 40.0, 26).flip(0).view(1, 26)
    gate, up = gate_up.chunk(2, dim=-1)
    try:
        found = module._apply_gate(gate_up)
    except RuntimeError:  # of a gate with weights of its own, which are not there yet
        return False
    return torch.equal(found, functional.silu(gate) * up)


def _found(name: str, module: Any) -> FoundExperts:
    num_experts, first, second = module.down_proj.shape
    inner, hidden = (first, second) if module.is_transposed else (second, first)
    gate, up, down = (f"{name}.{{e}}.{part}_proj" for part in ("gate", "up", "down"))
    stacks = [
        ExpertStack(f"{name}.gate_up_proj", (f"{gate}.weight", f"{up}.weight"), is_transposed=module.is_transposed),
        ExpertStack(f"{name}.down_proj", (f"{down}.weight",), is_transposed=module.is_transposed),
    ]
    if module.has_bias:
        stacks += [
            ExpertStack(f"{name}.gate_up_proj_bias", (f"{gate}.bias", f"{up}.bias")),
            ExpertStack(f"{name}.down_proj_bias", (f"{down}.bias",)),
        ]
    names = [
        WeightName(f"{part}.{kind}", f"experts.{name}.experts.{{e}}.{product}.{kind}", of)
        for kind in (("weight", "bias") if module.has_bias else ("weight",))
        for part, product, of in ((gate, "gate_up", "gate"), (up, "gate_up", "up"), (down, "down", ""))
    ]
    return FoundExperts(name, module, num_experts, ExpertShape(hidden, inner, module.has_bias), tuple(stacks), tuple(names))
