"""What benchmarks/tune_kernels.py tunes: the matrix products of a model and its decode attention, with the values that are tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from attention_cases import Pages
from device_timing import Call, num_input_sets
from kernel_case import Shapes
from product_cases import GROUP_SIZE, Format, formats
from torch import Tensor
from tuning import Inputs, Problem

from headway.kernels import paged_attention
from headway.kernels.fp8_matmul import SCALE_BLOCK
from headway.kernels.gpu import dequantize, fp8_matmul, int4_matmul, linear, quant_matmul, split_k
from headway.kernels.gpu import paged_attention as gpu_attention
from headway.kernels.gpu.device import has_fp8, num_multiprocessors, shared_memory_bytes
from headway.kernels.kv_cache import FP8
from headway.kernels.reference import fp8_matmul as reference_fp8
from headway.kernels.reference import int4_matmul as reference_int4
from headway.kernels.reference import paged_attention as reference_attention
from headway.kernels.reference import quant_matmul as reference_int8
from headway.kernels.tuned import LIBRARY, DecodeTiles, Tiles

_DECODE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MAX_DECODE_TOKENS = 1 << 20  # of keys that one input holds: 4.3 GB in Llama's shape
_DECODE_OPTIONS = {
    "min_split_tokens": (32, 64, 128, 256, 512),
    "programs_per_multiprocessor": (1, 2, 3, 4, 8),
    "block_n": (16, 32, 64, 128),
    "num_stages": (1, 2, 3, 4),
    "num_warps": (2, 4, 8),
}
_FEW_OPTIONS = {
    "num_splits": (1, 2, 4, 8, 16),
    "block_n": (16, 32, 64, 128),
    "block_k": (64, 128, 256, 512),
    "num_stages": (2, 3, 4, 5, 6),
    "num_warps": (2, 4, 8),
}
_MANY_OPTIONS = {
    "block_m": (32, 64, 128, 256),
    "block_n": (32, 64, 128, 256),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
    "block_k": (32, 64, 128, 256),
    "num_splits": (1, 2, 4),
}
_SINGLE_ROW_OPTIONS = {
    "block_n": (1, 2, 4, 8, 16),
    "block_k": (512, 1024, 2048, 4096),
    "num_warps": (1, 2, 4, 8),
    "num_stages": (1, 2, 3),
}
_INT4_ROW_OPTIONS = {"block_n": (4, 8, 16, 32), "block_k": (512, 1024, 2048, 4096), "num_warps": (2, 4, 8)}


@dataclass(frozen=True, slots=True)
class _Operation:
    """A product as tables know it."""

    name: str
    form: str  # in product_cases.formats
    reference: ModuleType | None  # None: the device's own product is


_OPERATIONS = (
    _Operation("linear", "linear (packed)", None),
    _Operation("int8_linear", "int8_linear", reference_int8),
    _Operation("fp8_linear", "fp8_linear, tensor", reference_fp8),
    _Operation("fp8_linear", "fp8_linear, block", reference_fp8),
    _Operation("int4_linear", "int4_linear", reference_int4),
)


def problems(shapes: Shapes, rows: tuple[int, ...], device: torch.device) -> Iterator[Problem]:
    for cache_dtype in (shapes.dtype, FP8):
        for batch in _DECODE_BATCHES:
            if batch <= max(size for size, _ in shapes.decodes):
                yield _decode(shapes, batch, cache_dtype, device)
    for operation in _OPERATIONS:
        form = formats(shapes)[operation.form]
        for name, size in shapes.products.items():
            if name == "lm_head" and operation.name != "linear":
                continue
            for num_rows in rows:
                if num_rows <= _MOST_ROWS.get(operation.name, num_rows):
                    yield _product(operation, form, shapes, num_rows, size, device)


# With more an operation is the BLAS's.
_MOST_ROWS = {"linear": linear.MAX_ROWS, "int4_linear": dequantize.wide_rows(GROUP_SIZE) - 1}


def _product(operation: _Operation, form: Format, shapes: Shapes, num_rows: int, size: tuple[int, int], device: torch.device) -> Problem:
    n, k = size
    is_blocked = operation.form.endswith("block")
    item_size = 1 if has_fp8(device) else shapes.dtype.itemsize  # of x, once it is rounded to fp8
    more = {"fp8_linear": (item_size, SCALE_BLOCK if is_blocked else 0), "int4_linear": (min(GROUP_SIZE, k),)}.get(operation.name, ())
    options = dict(_FEW_OPTIONS if num_rows <= split_k.FEW_ROWS else _MANY_OPTIONS)
    if operation.name == "linear":
        options = dict(_SINGLE_ROW_OPTIONS) if num_rows == 1 else options | {"num_splits": (1,)}
    if operation.name == "int4_linear":
        del options["block_k"]  # a chunk of its layout
        options = dict(_INT4_ROW_OPTIONS) if num_rows == 1 else options
    if is_blocked:
        options |= {name: tuple(value for value in options[name] if value <= SCALE_BLOCK) for name in ("block_n", "block_k")}
    start = _start(operation.name, num_rows, size, shapes.dtype, item_size, device)
    others = (LIBRARY,) if operation.name == "linear" else ()

    def make() -> list[Inputs]:
        num_sets = num_input_sets(device, round(form.weight_bytes(n, k)))
        weights = [form.draw(n, k, shapes.dtype, device) for _ in range(num_sets)]
        x = torch.randn(num_rows, k, device=device, dtype=shapes.dtype)
        calls: list[Call] = [partial(form.call, x, weight) for weight in weights]
        return [Inputs(calls, _expected(operation, x, weights[0]))]

    return Problem(operation.name, (n, k, *more), num_rows, start, options, make, others)


def _start(operation: str, num_rows: int, size: tuple[int, int], dtype: torch.dtype, item_size: int, device: torch.device) -> Tiles:
    n, k = size
    if operation == "linear":
        return linear.estimate(num_rows, n, k, num_multiprocessors(device), shared_memory_bytes(device))
    if operation == "int8_linear":
        return split_k.estimate_tiles(num_rows, n, k, quant_matmul.BLOCK_K, num_multiprocessors(device))
    if operation == "fp8_linear":
        return fp8_matmul.estimate(num_rows, n, k, item_size, num_multiprocessors(device))
    return int4_matmul.estimate(num_rows, size, GROUP_SIZE // 2, dtype, num_multiprocessors(device))


def _expected(operation: _Operation, x: Tensor, weight: Any) -> Tensor:
    if operation.reference is reference_fp8:
        return reference_fp8.fp8_linear(x, *weight, None, quantize_input=True)
    if operation.reference is reference_int8:
        return reference_int8.int8_linear(x, weight.data, None)
    if operation.reference is reference_int4:
        return reference_int4.int4_linear(x, weight, None)
    return torch.nn.functional.linear(x.float(), weight.data.float()).to(x.dtype)


def _decode(shapes: Shapes, batch: int, cache_dtype: torch.dtype, device: torch.device) -> Problem:
    """At several contexts together: tiles are chosen by the number of rows alone."""
    contexts = sorted({context for _, context in shapes.decodes})
    contexts = [context for context in contexts if batch * context <= _MAX_DECODE_TOKENS] or contexts[:1]
    scale = shapes.head_dim**-0.5

    def draw(context: int) -> partial[Tensor]:
        pages = Pages(shapes, [context] * batch, cache_dtype, device)
        q = torch.randn(batch, shapes.num_heads, shapes.head_dim, device=device, dtype=shapes.dtype)
        arguments = (q, pages.k, pages.v, pages.tables, pages.lengths, scale)
        return partial(paged_attention.paged_attention, *arguments, max_seq_len=context)

    def make() -> list[Inputs]:
        found = []
        for context in contexts:
            num_bytes = 2 * batch * context * shapes.num_kv_heads * shapes.head_dim * cache_dtype.itemsize
            calls = [draw(context) for _ in range(num_input_sets(device, num_bytes))]
            found.append(Inputs(calls, reference_attention.paged_attention(*calls[0].args, max_seq_len=context)))
        return found

    start = DecodeTiles(gpu_attention.block_n(max(16, shapes.head_dim), shapes.dtype), gpu_attention.MIN_SPLIT_TOKENS)
    sizes = (shapes.num_heads // shapes.num_kv_heads, shapes.head_dim, cache_dtype.itemsize)
    return Problem("paged_attention", sizes, batch * shapes.num_kv_heads, start, _DECODE_OPTIONS, make)
