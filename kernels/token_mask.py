"""Which tokens of a vocabulary a row may take, as bits, laid over its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride, check_shape


def forbid_tokens(logits: Tensor, allowed: Tensor, lines: Tensor) -> None:
    """Writes minus infinity over ``logits[lines[i], v]`` wherever bit v of ``allowed[i]`` is 0: bit ``v % 32`` of word ``v // 32``.

    logits [L, V] fp32, fp16 or bf16, any outer stride; allowed [N, W] int32 with 32 W >= V; lines [N] int64, each in 0 to L - 1 and
    at most once. The logits of other lines, and of tokens that are allowed, stay as they are.
    """
    check_float("logits", logits)
    check_inner_stride("logits", logits)
    check_shape("logits", logits, -1, -1)
    check_shape("allowed", allowed, lines.shape[0], -1)
    if allowed.dtype != torch.int32 or 32 * allowed.shape[1] < logits.shape[1]:
        raise ValueError(
            f"allowed is {allowed.dtype} {tuple(allowed.shape)}; expected int32 with a bit for each of {logits.shape[1]} tokens"
        )
    implementation("token_mask", logits.device.type).forbid_tokens(logits, allowed, lines)
