"""A mixture of experts in plain torch: the tokens of one expert after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from headway.kernels.expert_weights import ExpertWeights, Fp8Experts, Int4Experts, Int8Experts
from headway.kernels.moe import ClampedGate, Scoring, clamped_gate
from headway.kernels.reference.activation import silu_and_mul
from headway.kernels.reference.fp8_matmul import fp8_linear
from headway.kernels.reference.int4_matmul import int4_linear
from headway.kernels.reference.quant_matmul import int8_linear


def route_tokens(logits: Tensor, top_k: int, *, scoring: Scoring, renormalise: bool) -> tuple[Tensor, Tensor]:
    """See headway.kernels.moe.route_tokens."""
    scores = logits.float().softmax(dim=-1) if scoring == "softmax" else logits.float().sigmoid()
    ordered, experts = scores.sort(dim=-1, descending=True, stable=True)
    weights = ordered[:, :top_k].contiguous()
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, experts[:, :top_k].to(torch.int32)


def moe(
    x: Tensor,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    weights: Tensor,
    experts: Tensor,
    *,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    gate: ClampedGate | None = None,
) -> Tensor:
    """See headway.kernels.moe.moe."""

    def row(bias: Tensor | None, expert: int) -> Tensor | None:
        return None if bias is None else bias[expert]

    out = torch.zeros_like(x)
    num_experts = down.shape[0]
    pairs = experts.flatten().long().sort(stable=True).indices
    counts = torch.bincount(experts.flatten(), minlength=num_experts + 1).tolist()
    for expert, its_pairs in enumerate(torch.split(pairs, counts)[:num_experts]):
        if len(its_pairs):
            tokens = its_pairs // experts.shape[1]
            inner = _product(x[tokens], gate_up, expert, row(gate_up_bias, expert))
            inner = silu_and_mul(inner) if gate is None else clamped_gate(inner, gate)
            result = _product(inner, down, expert, row(down_bias, expert))
            out.index_add_(0, tokens, (result * weights.flatten()[its_pairs, None]).to(x.dtype))
    return out


def _product(x: Tensor, weights: ExpertWeights, expert: int, bias: Tensor | None) -> Tensor:
    """x [M, K] -> [M, N] in its dtype, of one expert."""
    if isinstance(weights, Tensor):
        return linear(x, weights[expert], bias)
    if isinstance(weights, Fp8Experts):
        return fp8_linear(x, weights.values[expert], weights.scale[expert], bias, quantize_input=weights.rounds_input)
    if isinstance(weights, Int8Experts):
        return int8_linear(x, (weights.values[expert], weights.scale[expert]), bias, weights.block)
    if isinstance(weights, Int4Experts):
        return int4_linear(x, weights.expert(expert), bias)
    return linear(x, weights.expert(expert).to(x.dtype), bias)
