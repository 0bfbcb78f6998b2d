"""The kernels of a mixture of experts as their launchers call them, to be compiled by compile_kernels.py."""

from __future__ import annotations

import torch
from matmul_kernels import Case

from headway.kernels.gpu import moe


def moe_cases(pointer: str, dtype: torch.dtype) -> list[Case]:
    """For 128 experts of 2048 x 768, 8 a token, with few tokens and with many."""
    types = dict.fromkeys(("logits_ptr", "x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), pointer)
    types |= {"weights_ptr": "*fp32", "routing_ptr": "*fp32", "limit": "fp32", "alpha": "fp32"} | dict.fromkeys(
        ("experts_ptr", "pairs_ptr", "tile_experts_ptr", "num_tiles_ptr"), "*i32"
    )
    found: list[Case] = []
    for is_sigmoid in (False, True):
        constants = {"TOP_K": 8, "IS_SIGMOID": is_sigmoid, "RENORMALISE": True, "BLOCK_E": 128, "BLOCK_K": 8, "num_warps": 1}
        found.append(("route", moe.route_kernel, types, constants))
    for num_pairs in (8, 64 * 128, 512 * 128):
        tiles = moe.estimate_tiles(num_pairs, 128, dtype)
        found.append(("group", moe.group_kernel, types, {"BLOCK_M": tiles.block_m, "CHUNK": moe.CHUNK, "BINS": 256}))
        constants = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "GROUP": moe.GROUP, "UPCAST": False}
        constants |= {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
        for is_gpt_oss in (False, True):
            up = constants | {"HAS_BIAS": is_gpt_oss, "IS_CLAMPED": is_gpt_oss}
            found += [("up", moe.up_kernel, types, up), ("down", moe.down_kernel, types, constants | {"HAS_BIAS": is_gpt_oss})]
    sums = {"pairs_ptr": pointer, "experts_ptr": "*i32", "out_ptr": pointer}
    return [*found, ("sum_pairs", moe.sum_pairs_kernel, sums, {"TOP_K": 8, "SUM_BLOCK": moe.SUM_BLOCK})]
