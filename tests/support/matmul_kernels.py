"""The quantised matrix products as their launchers call them, to be compiled by compile_kernels.py."""

from __future__ import annotations

from typing import Any

import torch

from headway.kernels.gpu import dequantize, fp8_matmul, int4_matmul, int4_single_row, linear, quant_matmul, quantize, split_k
from headway.kernels.gpu.device import SMALLEST_SHARED_MEMORY_BYTES
from headway.kernels.tuned import Tiles

# Name, kernel, types of the run-time arguments that are not integers, constants: constexprs, strides of 1 and options.
Case = tuple[str, Any, dict[str, str], dict[str, Any]]

MULTIPROCESSORS = 108
ITEM_SIZES = {"*fp8e4nv": 1, "*bf16": 2, "*fp32": 4}


def matmul_cases(pointer: str, *, has_fp8: bool) -> list[Case]:
    """For a layer 4096 -> 4096, in dtype ``pointer``, as on a chip with fp8 arithmetic or without."""
    return _linear(pointer) + _sums(pointer) + _quantisers(pointer, has_fp8) + _int8(pointer) + _fp8(pointer, has_fp8) + _int4(pointer)


def _linear(pointer: str) -> list[Case]:
    types = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), pointer)
    single, few = (linear.estimate(num_rows, 4096, 4096, MULTIPROCESSORS, SMALLEST_SHARED_MEMORY_BYTES) for num_rows in (1, 16))
    one = _constants(single) | {"HAS_BIAS": True, "IS_EVEN": True}
    del one["BLOCK_M"], one["NUM_SPLITS"]
    more = _constants(few) | {"HAS_BIAS": True, "UPCAST": False}
    del more["NUM_SPLITS"]
    return [("single_row", linear.single_row_kernel, types, one), ("few_rows", linear.few_rows_kernel, types, more)]


def _sums(pointer: str) -> list[Case]:
    types = {"row_scale_ptr": "*fp32", "column_scale_ptr": "*fp32", "bias_ptr": pointer, "out_ptr": pointer}
    constants = {"NUM_SPLITS": 4, "HAS_BIAS": True, "BLOCK": 256}
    return [
        ("sum_parts", split_k.sum_parts_kernel, types | {"parts_ptr": "*i32"}, constants | {"HAS_SCALES": True}),
        ("sum_parts", split_k.sum_parts_kernel, types | {"parts_ptr": "*fp32"}, constants | {"HAS_SCALES": False}),
    ]


def _quantisers(pointer: str, has_fp8: bool) -> list[Case]:
    types = {"x_ptr": pointer, "scale_ptr": "*fp32"}
    values = {"out_ptr": "*fp8e4nv" if has_fp8 else "*bf16"}
    rows = {"x_stride_column": 1, "BLOCK": quantize.MAX_BLOCK, "num_warps": 8}
    int8 = rows | {"SMALLEST": 1e-20, "LIMIT": 127.0, "IS_INTEGER": True}
    spread = {"x_stride_column": 1, "SMALLEST": 1e-20, "LIMIT": 127.0, "SPREAD": 128, "BLOCKS": quantize.BLOCKS, "UPCAST": False}
    fp8 = {"SMALLEST": 1e-10, "LIMIT": 448.0}
    groups = fp8 | {"x_stride_column": 1, "GROUPS": quantize.GROUPS, "GROUP_SIZE": 128}
    return [
        ("quantize_rows", quantize.quantize_rows_kernel, types | {"out_ptr": "*i8"}, int8),
        ("quantize_rows", quantize.quantize_rows_kernel, types | values, rows | fp8 | {"IS_INTEGER": False}),
        ("quantize_spread", quantize.quantize_spread_kernel, types | {"out_ptr": "*i8"}, spread),
        ("quantize_groups", quantize.quantize_groups_kernel, types | values, groups),
    ]


def _int8(pointer: str) -> list[Case]:
    types = {"x_ptr": "*i8", "weight_ptr": "*i8", "x_scale_ptr": "*fp32", "weight_scale_ptr": "*fp32", "bias_ptr": pointer}
    found = []
    for num_rows in (16, 64, 128, 1024):
        tiles = split_k.estimate_tiles(num_rows, 4096, 4096, quant_matmul.BLOCK_K, MULTIPROCESSORS)
        out = {"out_ptr": "*i32" if tiles.num_splits > 1 else pointer}
        found.append(("int8", quant_matmul.int8_kernel, types | out, _constants(tiles) | {"HAS_BIAS": True}))
    return found


def _fp8(pointer: str, has_fp8: bool) -> list[Case]:
    types = {"x_scale_ptr": "*fp32", "weight_scale_ptr": "*fp32", "bias_ptr": pointer, "weight_ptr": "*fp8e4nv" if has_fp8 else "*u8"}
    values = "*fp8e4nv" if has_fp8 else "*bf16"
    found = []
    for num_rows in (16, 64, 128, 1024):
        for is_blocked, x in ((False, values), (True, values), (True, pointer)):
            tiles = fp8_matmul.estimate(num_rows, 4096, 4096, ITEM_SIZES[x], MULTIPROCESSORS)
            constants = {"HAS_X_SCALE": x == values, "IS_BLOCKED": is_blocked, "IS_PER_CHANNEL": True, "SCALE_BLOCK": 128}
            constants |= _constants(tiles) | {"IS_BYTES": not has_fp8, "HAS_BIAS": True, "UPCAST": False, "x_stride_k": 1}
            out = {"x_ptr": x, "out_ptr": "*fp32" if tiles.num_splits > 1 else pointer}
            found.append(("fp8", fp8_matmul.fp8_kernel, types | out, constants))
    return found


def _int4(pointer: str) -> list[Case]:
    dtype = torch.float32 if pointer == "*fp32" else torch.bfloat16
    types = {"order_ptr": "*i64", "weight_ptr": "*u8", "scale_ptr": "*fp16", "offset_ptr": "*fp16", "bias_ptr": pointer, "x_ptr": pointer}
    found = []
    for group_size, has_order, bits in ((128, False, 4), (32, True, 4), (128, False, 8), (32, False, 8)):
        half = min(64, group_size)
        one = {"HAS_ORDER": has_order, "HAS_BIAS": True, "HALF": half, "BITS": bits, "BLOCK_N": 4, "CHUNKS": 1024 // half, "x_stride_k": 1}
        words = types | {"words_ptr": "*i32", "out_ptr": pointer}
        found.append(("int4_single_row", int4_single_row.int4_single_row_kernel, words, one | {"num_stages": 1}))
        for num_rows in (16, dequantize.wide_rows(group_size) - 1):
            tiles = int4_matmul.estimate(num_rows, (4096, 4096), half, dtype, MULTIPROCESSORS)
            constants = _constants(tiles) | {"HAS_ORDER": has_order, "HAS_BIAS": True}
            del constants["BLOCK_K"]
            out = {"out_ptr": "*fp32" if tiles.num_splits > 1 else pointer}
            constants |= {"HALF": half, "BITS": bits, "UPCAST": False, "x_stride_k": 1}
            found.append(("int4", int4_matmul.int4_kernel, types | out, constants))
        written = {"KIND": "groups", "BITS": bits, "HAS_ORDER": has_order, "BLOCK_N": dequantize.BLOCK_N, "HALF": half}
        names = ("weight_ptr", "scale_ptr", "offset_ptr", "order_ptr")
        found.append(("dequantize", dequantize.dequantize_kernel, {name: types[name] for name in names} | {"out_ptr": pointer}, written))
    return found


def _constants(tiles: Tiles) -> dict[str, Any]:
    found = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "NUM_SPLITS": tiles.num_splits}
    return found | {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
