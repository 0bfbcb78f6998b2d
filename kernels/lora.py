"""Low-rank adapters on a linear layer's output, another one for each token (LoRA, Hu et al., arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_inner_stride, check_shape
from headway.kernels.plans import LoraPlan


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """``out[t] += B[s, :, :r] (A[s, :r] x[t])`` in place, where s is token t's slot and r = ranks[s]; others stay as they are.

    x [T, K]; out [T, N], which may be some columns of a wider tensor; a [S, R, K] and b [S, N, R] as ``lora_slots`` makes them; all of
    one dtype (fp32, fp16, bf16). Sums are in fp32 within a product. The adapter's scale is
    part of B. Rows of A and columns of B from ``ranks[s]`` on are not read; rank 0: the slot changes nothing here. ``plan`` comes from
    ``prepare_lora`` for this step.
    """
    check_float("x", x)
    check_shape("a", a, len(ranks), -1, x.shape[1])
    check_shape("b", b, len(ranks), out.shape[1], a.shape[1])
    check_shape("out", out, x.shape[0], -1)
    check_inner_stride("out", out)
    if not out.dtype == x.dtype == a.dtype == b.dtype:
        raise ValueError(f"out is {out.dtype}, x {x.dtype}, a {a.dtype}, b {b.dtype}; all must be the same")
    implementation("lora", x.device.type).add_lora(out, x, a, b, ranks, plan)


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """What all layers of a step share: ``token_slots`` [T] int64, on the host, is each token's slot, or -1 for none."""
    plan: LoraPlan = implementation("lora", device.type).prepare_lora(token_slots, device)
    return plan


def lora_slots(num_slots: int, max_rank: int, shape: tuple[int, int], *, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Room for ``num_slots`` updates of weights of ``shape`` [N, K]: a [S, R, K], b [S, N, R], not initialised, laid out for the device."""
    made: tuple[Tensor, Tensor] = implementation("lora", device.type).lora_slots(num_slots, max_rank, shape, dtype, device)
    return made
