"""A mixture of experts: which experts a token goes to, and the feed-forward layers of all experts as one grouped product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_float, check_inner_stride, check_shape

Scoring = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """The gate of gpt-oss in silu's place: ``g sigmoid(alpha g) (u + 1)`` with ``g = min(gate, limit)``, u = up cut to [-limit, limit]."""

    limit: float
    alpha: float


def route_tokens(logits: Tensor, top_k: int, *, scoring: Scoring, renormalise: bool) -> tuple[Tensor, Tensor]:
    """(weights, experts), both [T, K]: the K experts of ``logits`` [T, E] with the highest scores, highest first, ties by lower id.

    Scores are a softmax over all experts, or each logit's sigmoid, in fp32; with ``renormalise`` a token's K are divided by their
    sum. logits fp32, fp16 or bf16, any outer stride; K is from 1 to E. weights fp32, experts int32. (Jiang et al., arXiv:2401.04088)
    """
    check_float("logits", logits)
    check_shape("logits", logits, -1, -1)
    check_inner_stride("logits", logits)
    if not 1 <= top_k <= logits.shape[1]:
        raise ValueError(f"top_k is {top_k}; a token goes to 1 to {logits.shape[1]} experts")
    routed: tuple[Tensor, Tensor] = implementation("moe", logits.device.type).route_tokens(
        logits, top_k, scoring=scoring, renormalise=renormalise
    )
    return routed


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
    """``out[t] = sum over k of weights[t, k] * (down[e] silu_and_mul(gate_up[e] x[t]))`` with e = experts[t, k].

    x [T, H]; gate_up [E, 2 I, H] and down [E, H, I] of x's dtype (fp32, fp16, bf16), any strides but the last; weights [T, K] fp32
    and experts [T, K] int32, contiguous, each token's experts distinct. An expert of E is nobody's: it adds nothing (one that another
    device has). gate_up_bias [E, 2 I] and down_bias [E, H], contiguous, are added to the products; ``gate`` takes silu's place. Sums
    are in fp32 within a product, their results rounded to x's dtype. Returns a new [T, H]. On a GPU the host waits for nothing, and
    results do not vary from run to run.
    """
    check_float("x", x)
    check_shape("x", x, -1, -1)
    check_inner_stride("x", x)
    num_experts, intermediate_size = down.shape[0], down.shape[-1]
    check_shape("gate_up", gate_up, num_experts, 2 * intermediate_size, x.shape[1])
    check_shape("down", down, num_experts, x.shape[1], intermediate_size)
    check_inner_stride("gate_up", gate_up)
    check_inner_stride("down", down)
    check_shape("weights", weights, x.shape[0], -1)
    check_shape("experts", experts, *weights.shape)
    check_contiguous("weights", weights, torch.float32)
    check_contiguous("experts", experts, torch.int32)
    for name, bias, size in (("gate_up_bias", gate_up_bias, 2 * intermediate_size), ("down_bias", down_bias, x.shape[1])):
        if bias is not None:
            check_shape(name, bias, num_experts, size)
            check_contiguous(name, bias, x.dtype)
    if not x.dtype == gate_up.dtype == down.dtype:
        raise ValueError(f"x is {x.dtype}, gate_up {gate_up.dtype}, down {down.dtype}; all must be the same")
    out: Tensor = implementation("moe", x.device.type).moe(
        x, gate_up, down, weights, experts, gate_up_bias=gate_up_bias, down_bias=down_bias, gate=gate
    )
    return out


def clamped_gate(x: Tensor, gate: ClampedGate) -> Tensor:
    """x [..., 2 I], gate then up -> [..., I] in its dtype: see ClampedGate. Plain torch, on any device."""
    first, up = x.float().chunk(2, dim=-1)
    first, up = first.clamp(max=gate.limit), up.clamp(-gate.limit, gate.limit)
    return (first * torch.sigmoid(gate.alpha * first) * (up + 1)).to(x.dtype)
