"""Low-rank adapters on the embedding of tokens, another one for each token: LoRA's A has a column for each token of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_contiguous, check_float, check_inner_stride, check_shape
from headway.kernels.lora import lora_slots
from headway.kernels.plans import LoraPlan


def add_embedding_lora(out: Tensor, token_ids: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """``out[t] += B[s, :, :r] A[s, token_ids[t], :r]`` in place, where s is token t's slot and r = ranks[s]; others stay as they are.

    out [T, N]; token_ids [T] int64, and a token that is not in [0, V) gets nothing; a [S, V, R] and b [S, N, R] as
    ``embedding_lora_slots`` makes them; all of one dtype (fp32, fp16, bf16). Sums are in fp32. Scale, ranks and ``plan``: see
    headway.kernels.lora.add_lora.
    """
    check_float("out", out)
    check_contiguous("token_ids", token_ids, torch.int64)
    check_shape("a", a, len(ranks), -1, -1)
    check_shape("b", b, len(ranks), out.shape[1], a.shape[2])
    check_shape("out", out, token_ids.shape[0], -1)
    check_inner_stride("out", out)
    if not out.dtype == a.dtype == b.dtype:
        raise ValueError(f"out is {out.dtype}, a {a.dtype}, b {b.dtype}; all must be the same")
    implementation("embedding_lora", out.device.type).add_embedding_lora(out, token_ids, a, b, ranks, plan)


def embedding_lora_slots(
    num_slots: int, max_rank: int, shape: tuple[int, int], *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Room for ``num_slots`` updates of tables of ``shape`` [V, N]: a [S, V, R], b [S, N, R], not initialised, laid out for the device."""
    num_tokens, num_features = shape
    a = torch.empty(num_slots, num_tokens, max_rank, dtype=dtype, device=device)  # the ranks of a token side by side
    return a, lora_slots(num_slots, max_rank, (num_features, 0), dtype=dtype, device=device)[1]  # B as that of a linear layer
