"""A mixture of experts in plain torch: the tokens of one expert after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from headway.kernels.moe import ClampedGate, Scoring, clamped_gate
from headway.kernels.reference.activation import silu_and_mul


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
    gate_up: Tensor,
    down: Tensor,
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
            inner = linear(x[tokens], gate_up[expert], row(gate_up_bias, expert))
            inner = silu_and_mul(inner) if gate is None else clamped_gate(inner, gate)
            result = linear(inner, down[expert], row(down_bias, expert))
            out.index_add_(0, tokens, (result * weights.flatten()[its_pairs, None]).to(x.dtype))
    return out
