"""The kernels of a mixture of experts as their launchers call them, to be compiled by compile_kernels.py."""

from __future__ import annotations

import torch
from matmul_kernels import Case

from headway.kernels.expert_weights import MXFP4_BLOCK
from headway.kernels.gpu import dequantize, moe, quant_moe
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
    """Of few bits, with few pairs and with many: the first product, which takes more, as gpt-oss has it, and the second of some kinds."""
    fp8, values = ("fp8", "*fp8e4nv") if has_fp8 else ("bytes", "*bf16")
    few, many = 8, 512 * 128

    def groups(num_pairs: int, chunk: int) -> Tiles:
        return quant_moe.estimate_groups(num_pairs, 128, dtype, chunk)

    def rounded(num_pairs: int) -> Tiles:
        return quant_moe.estimate_bytes(num_pairs, 128, 1 if has_fp8 else 2)

    # Kind, x, tiles, whether scales are of blocks, whether it is the first product.
    kinds: list[tuple[str, str, Tiles, bool, bool]] = [
        ("int4", pointer, groups(many, 64), False, True),
        ("int8", "*i8", quant_moe.estimate_bytes(many, 128, 1), False, True),
        (fp8, values, rounded(many), False, True),
        (fp8, pointer, quant_moe.estimate_bytes(many, 128, dtype.itemsize), False, True),
        ("mxfp4", pointer, groups(few, 64), False, False),
        (fp8, values, rounded(few), True, False),
    ]
    for num_pairs in (few, many):
        kinds += [("mxfp4", pointer, groups(num_pairs, 64), False, True), ("int4", pointer, groups(num_pairs, 128), False, True)]
        kinds.append(("int8 groups", pointer, groups(num_pairs, 64), False, True))
        kinds.append((fp8, values, rounded(num_pairs), True, True))
    weights = {"fp8": "*fp8e4nv", "bytes": "*u8", "int8": "*i8", "int4": "*u8", "int8 groups": "*u8", "mxfp4": "*u8"}
    scales = {"int4": "*fp16", "int8 groups": "*fp16", "mxfp4": "*u8"}
    found: list[Case] = []
    for kind, x, tiles, is_blocked, is_up in kinds:
        own = types | {"x_ptr": x, "x_scale_ptr": "*fp32", "order_ptr": "*i64", "weight_ptr": weights[kind]}
        own |= dict.fromkeys(("scale_ptr", "offset_ptr"), scales.get(kind, "*fp32"))
        constants = quant_moe.options(tiles) | {"IS_UP": is_up, "IS_BLOCKED": is_blocked, "SCALE_BLOCK": 128, "UPCAST": False}
        constants |= {"KIND": "groups" if kind in ("int4", "int8 groups") else kind, "BITS": 4 if kind in ("int4", "mxfp4") else 8}
        constants |= {"HAS_X_SCALE": x != pointer or kind == fp8 == "bytes", "HAS_ORDER": kind == "int4" and tiles.block_k == 64}
        constants |= {"IS_CLAMPED": is_up and kind == "mxfp4", "HAS_BIAS": kind == "mxfp4"}
        found.append(("quant_experts", quant_moe.quant_experts_kernel, own, constants))
    pointers = {"weight_ptr": "*u8", "scale_ptr": "*u8", "offset_ptr": "*u8", "order_ptr": "*u8", "out_ptr": pointer}
    written = {"KIND": "mxfp4", "BITS": 4, "HAS_ORDER": False, "BLOCK_N": dequantize.BLOCK_N, "HALF": MXFP4_BLOCK}
    return [*found, ("dequantize", dequantize.dequantize_kernel, pointers, written)]
