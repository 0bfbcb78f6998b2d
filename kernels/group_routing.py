"""Which experts a token goes to where they stand in groups and it uses those of a few. Plain torch, on any device; nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.checks import check_float, check_shape
from headway.kernels.moe import Scoring


def route_in_groups(
    logits: Tensor, bias: Tensor | None, top_k: int, *, scoring: Scoring, renormalise: bool, num_groups: int, top_groups: int
) -> tuple[Tensor, Tensor]:
    """(weights, experts), both [T, K], as ``route_tokens`` has them, but of the ``top_groups`` best of ``num_groups`` groups of neighbours.

    Without ``bias`` a group is as good as its best expert (DeepSeek-V2, arXiv:2405.04434). With it [E], in fp32, experts are chosen by
    score plus bias, a group is as good as its best two together, and weights are the scores alone (DeepSeek-V3, arXiv:2412.19437).
    logits [T, E]; the groups divide E, and those that are used have K experts or more. weights fp32, experts int32.
    """
    check_float("logits", logits)
    check_shape("logits", logits, -1, -1)
    num_experts = logits.shape[1]
    if num_experts % num_groups or not 1 <= top_groups <= num_groups or not 1 <= top_k <= num_experts // num_groups * top_groups:
        raise ValueError(f"{top_k} of {num_experts} experts in {top_groups} of {num_groups} groups can't be chosen")
    scores = logits.float().softmax(dim=-1) if scoring == "softmax" else logits.float().sigmoid()
    choice = scores if bias is None else scores + bias
    if top_groups < num_groups:
        groups = choice.view(len(choice), num_groups, -1)
        best = groups.amax(dim=-1) if bias is None else groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(dim=-1)
        used = torch.zeros_like(best, dtype=torch.bool).scatter_(1, best.topk(top_groups, dim=-1).indices, True)
        choice = groups.masked_fill(~used.unsqueeze(-1), float("-inf")).flatten(1)
    experts = choice.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(1, experts)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, experts.to(torch.int32).contiguous()
