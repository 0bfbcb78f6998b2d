"""A mixture of experts: which experts a token goes to, and the feed-forward layers of all experts as one grouped product."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_float, check_inner_stride, check_shape

Scoring = Literal["softmax", "sigmoid"]


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


def moe(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """``out[t] = sum over k of weights[t, k] * down[e] silu_and_mul(gate_up[e] x[t])`` with e = experts[t, k].

    x [T, H]; gate_up [E, 2 I, H] and down [E, H, I] of x's dtype (fp32, fp16, bf16), any strides but the last; weights [T, K] fp32
    and experts [T, K] int32, contiguous, each token's experts distinct. Sums are in fp32 within a product, their results rounded
    to x's dtype. Returns a new [T, H]. On a GPU the host waits for nothing, and results do not vary from run to run.
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
    if not x.dtype == gate_up.dtype == down.dtype:
        raise ValueError(f"x is {x.dtype}, gate_up {gate_up.dtype}, down {down.dtype}; all must be the same")
    out: Tensor = implementation("moe", x.device.type).moe(x, gate_up, down, weights, experts)
    return out
