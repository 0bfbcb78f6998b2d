"""The kernels of a mixture of experts as their launchers call them, to be compiled by compile_kernels.py."""

from __future__ import annotations

import torch
from matmul_kernels import Case

from headway.kernels.gpu import moe, quant_moe
from headway.kernels.tuned import Tiles


def moe_cases(pointer: str, dtype: torch.dtype, *, has_fp8: bool) -> list[Case]:
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
    found += _quantized(pointer, dtype, types, has_fp8)
    return [*found, ("sum_pairs", moe.sum_pairs_kernel, sums, {"TOP_K": 8, "SUM_BLOCK": moe.SUM_BLOCK})]


def _quantized(pointer: str, dtype: torch.dtype, types: dict[str, str], has_fp8: bool) -> list[Case]:
    """Of few bits: the first product as gpt-oss has it, the second as the others do."""
    fp8, values = ("fp8", "*fp8e4nv") if has_fp8 else ("bytes", "*bf16")
    weights = {"fp8": "*fp8e4nv", "bytes": "*u8", "int8": "*i8", "int4": "*u8", "mxfp4": "*u8"}
    scales = {"int4": "*fp16", "mxfp4": "*u8"}
    found: list[Case] = []
    for num_pairs in (8, 64 * 128, 512 * 128):
        nibbles = {size: quant_moe.estimate_nibbles(num_pairs, 128, dtype, size) for size in (64, 128)}
        rounded, wide = (quant_moe.estimate_bytes(num_pairs, 128, size) for size in (1 if has_fp8 else 2, dtype.itemsize))
        kinds: list[tuple[str, str, Tiles, bool]] = [
            ("mxfp4", pointer, nibbles[64], False),
            ("int4", pointer, nibbles[64], False),
            ("int4", pointer, nibbles[128], False),
            ("int8", "*i8", quant_moe.estimate_bytes(num_pairs, 128, 1), False),
            (fp8, values, rounded, False),
            (fp8, values, rounded, True),
            (fp8, pointer, wide, False),
        ]
        for kind, x, tiles, is_blocked in kinds:
            own = types | {"x_ptr": x, "x_scale_ptr": "*fp32", "order_ptr": "*i64", "weight_ptr": weights[kind]}
            own |= dict.fromkeys(("scale_ptr", "offset_ptr"), scales.get(kind, "*fp32"))
            constants = quant_moe.options(tiles) | {"KIND": kind, "IS_BLOCKED": is_blocked, "SCALE_BLOCK": 128, "UPCAST": False}
            constants |= {"HAS_X_SCALE": x != pointer or kind == "int8", "HAS_ORDER": kind == "int4" and tiles.block_k == 64}
            for is_up in (True, False):
                options = {"IS_UP": is_up, "IS_CLAMPED": is_up and kind == "mxfp4", "HAS_BIAS": is_up}
                found.append(("quant_experts", quant_moe.quant_experts_kernel, own, constants | options))
    return found
