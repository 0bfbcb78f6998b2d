"""A mixture of experts: which experts a token goes to, and the feed-forward layers of all experts as one grouped product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_float, check_inner_stride, check_shape
from headway.kernels.expert_weights import ExpertWeights, Fp8Experts
from headway.kernels.fp8_matmul import SCALE_BLOCK

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
    gate_up: ExpertWeights,
    down: ExpertWeights,
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

    gate_up and down, either or both, may be of few bits (kernels/expert_weights.py): products are then those of the weights' own kind
    (fp8_linear, int8_linear, int4_linear), and what these round an input to it is rounded to here. Where blocks of 128 rows share a scale,
    128 must divide I, so that none has rows of both gate and up.
    """
    check_float("x", x)
    check_shape("x", x, -1, -1)
    check_inner_stride("x", x)
    num_experts, intermediate_size = down.shape[0], down.shape[-1]
    _check_weights("gate_up", gate_up, (num_experts, 2 * intermediate_size, x.shape[1]), x.dtype)
    _check_weights("down", down, (num_experts, x.shape[1], intermediate_size), x.dtype)
    if isinstance(gate_up, Fp8Experts) and gate_up.is_blocked and intermediate_size % SCALE_BLOCK:
        raise ValueError(f"gate_up has blocks of {SCALE_BLOCK} rows, which the intermediate size {intermediate_size} cuts")
    check_shape("weights", weights, x.shape[0], -1)
    check_shape("experts", experts, *weights.shape)
    check_contiguous("weights", weights, torch.float32)
    check_contiguous("experts", experts, torch.int32)
    for name, bias, size in (("gate_up_bias", gate_up_bias, 2 * intermediate_size), ("down_bias", down_bias, x.shape[1])):
        if bias is not None:
            check_shape(name, bias, num_experts, size)
            check_contiguous(name, bias, x.dtype)
    out: Tensor = implementation("moe", x.device.type).moe(
        x, gate_up, down, weights, experts, gate_up_bias=gate_up_bias, down_bias=down_bias, gate=gate
    )
    return out


def _check_weights(name: str, weights: ExpertWeights, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    if tuple(weights.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(weights.shape)}, expected {shape}")
    if not isinstance(weights, Tensor):
        weights.check()
        return
    check_inner_stride(name, weights)
    if weights.dtype != dtype:
        raise ValueError(f"x is {dtype}, {name} {weights.dtype}; all must be the same")


def clamped_gate(x: Tensor, gate: ClampedGate) -> Tensor:
    """x [..., 2 I], gate then up -> [..., I] in its dtype: see ClampedGate. Plain torch, on any device."""
    first, up = x.float().chunk(2, dim=-1)
    first, up = first.clamp(max=gate.limit), up.clamp(-gate.limit, gate.limit)
    return (first * torch.sigmoid(gate.alpha * first) * (up + 1)).to(x.dtype)
