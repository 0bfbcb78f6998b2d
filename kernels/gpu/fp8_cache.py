"""Pages in float8_e4m3fn: how kernels write and read them. Chips without fp8 see bytes, and read values 256 times too small."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.device import has_fp8
from headway.kernels.gpu.functions import e4m3_to_fp16, round_e4m3
from headway.kernels.gpu.int8_cache import to_int8
from headway.kernels.kv_cache import FP8, UNSCALED, KVScales, PageScales, TokenScales


@triton.jit
def operand(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """What was loaded of q or of pages as the matrix units take it: in ``dtype``, fp32 under the interpreter. int8 without its scale."""
    if x.dtype == tl.uint8:
        x = e4m3_to_fp16(x)
    if x.dtype == tl.int8:
        x = x.to(tl.float32)
    return x.to(tl.float32) if UPCAST else x.to(dtype)


@triton.jit
def to_page(x, scale, page_type: tl.constexpr):
    """fp32 numbers as pages of ``page_type`` have them; e4m3 is divided by ``scale`` and cut off at +-448, and NaN stays NaN;
    for int8 see ``to_int8``."""
    if page_type == tl.float8e4nv or page_type == tl.uint8:
        x = tl.div_rn(x, scale)
        x = round_e4m3(tl.where(x > 448.0, 448.0, tl.where(x < -448.0, -448.0, x)))
    if page_type == tl.uint8:
        bits = (x * 0.00390625).to(tl.float16).to(tl.int16, bitcast=True)
        return (((bits >> 8) & 0x80) | ((bits >> 7) & 0x7F)).to(tl.uint8)
    return to_int8(x, scale) if page_type == tl.int8 else x.to(page_type)


def as_loaded(cache: Tensor) -> Tensor:
    """The pages as a kernel on their device reads and writes them."""
    return cache.view(torch.uint8) if cache.dtype == FP8 and not has_fp8(cache.device) else cache


def loaded_scales(cache: Tensor, scales: PageScales) -> KVScales:
    """What values that ``operand`` gave are multiplied by, all alike."""
    if isinstance(scales, TokenScales):
        return UNSCALED
    return KVScales(256 * scales.k, 256 * scales.v) if as_loaded(cache).dtype == torch.uint8 else scales
