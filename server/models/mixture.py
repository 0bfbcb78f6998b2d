"""A decoder's mixture of experts, built from its config."""

from __future__ import annotations

import torch

from headway.kernels.moe import ClampedGate
from headway.server.distributed.expert_placement import first_placement
from headway.server.layers.balanced_experts import BalancedExperts
from headway.server.layers.experts import ExpertShape, ExpertStore, SeparateExperts, StackedExperts, hold_experts
from headway.server.layers.moe import ExpertChoice, MixtureOfExperts, Router, SharedExpert
from headway.server.layers.quant.method import StackingMethod
from headway.server.models.base import BuildContext, MixtureConfig


def build_mixture(mixture: MixtureConfig, hidden_size: int, context: BuildContext) -> MixtureOfExperts:
    gate = ClampedGate(mixture.swiglu_limit, mixture.swiglu_alpha) if mixture.swiglu_limit else None
    shape = ExpertShape(hidden_size, mixture.intermediate_size, mixture.expert_bias, gate)
    router = Router(
        hidden_size,
        mixture.num_experts,
        has_bias=mixture.router_bias,
        choice=_choice(mixture),
        dtype=torch.float32 if mixture.is_exact_router else context.dtype,
        device=context.device,
    )
    shared = None
    if mixture.shared_size:
        shared = SharedExpert(
            hidden_size,
            mixture.shared_size,
            has_gate=mixture.has_shared_gate,
            method=context.method,
            group=context.group,
            dtype=context.dtype,
            device=context.device,
        )
    return MixtureOfExperts(router, routed_experts(shape, mixture.num_experts, context), shared, context.group)


def routed_experts(shape: ExpertShape, num_experts: int, context: BuildContext) -> ExpertStore:
    """What this rank holds of a layer's experts, kept as the method of the linears and the device want it."""
    method = context.method
    if context.num_redundant_experts is not None:
        assert isinstance(method, StackingMethod), "the others are refused before"
        placement = first_placement(num_experts, context.group.size, context.num_redundant_experts)
        return BalancedExperts(shape, num_experts, placement, method, context.group, context.device)
    held = hold_experts(num_experts, context.group, is_whole=context.has_whole_experts)
    if isinstance(method, StackingMethod) and method.stacks_experts:
        return StackedExperts(shape, held, method)
    return SeparateExperts(shape, held, method)


def _choice(mixture: MixtureConfig) -> ExpertChoice:
    return ExpertChoice(
        mixture.scoring,
        mixture.top_k,
        mixture.renormalise,
        num_groups=mixture.num_groups,
        top_groups=mixture.top_groups,
        has_bias=mixture.has_choice_bias,
        scale=mixture.routed_scale,
    )
