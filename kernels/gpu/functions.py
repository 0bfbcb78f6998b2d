"""Functions that Triton lacks on one of its back ends, written so that nothing overflows."""

# mypy: allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def tanh(x):
    """(exp(2x) - 1) / (exp(2x) + 1)"""
    small = tl.exp(-2.0 * tl.abs(x))
    value = (1.0 - small) / (1.0 + small)
    return tl.where(x >= 0, value, -value)


@triton.jit
def round_even(x):
    """The nearest integer, halves to the even one, of fp32 values below 2^22: beyond 1.5 * 2^23 fp32 has no fractions."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def round_e4m3(x):
    """The nearest value of float8_e4m3fn, ties to even, as fp32; |x| is at most 448."""
    bits = x.to(tl.int32, bitcast=True)
    # Normal: keep 3 of 23 bits of the fraction. Below 2^-6: multiples of 2^-9.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    small = (x + 24576.0) - 24576.0
    return tl.where(tl.abs(x) < 0.015625, small, normal)


@triton.jit
def e4m3_to_fp16(byte):
    """A byte of float8_e4m3fn as fp16, 256 times too small: the bits moved to where fp16 has them. Exact, also below 2^-6."""
    byte = byte.to(tl.int16)
    return (((byte & 0x80) << 8) | ((byte & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def e2m1_to_fp16(code):
    """A code of 4 bits of float4_e2m1 as fp16, 2^14 times too small: the bits moved to where fp16 has them. Exact, also 0.5."""
    code = code.to(tl.int16)
    return (((code & 8) << 12) | ((code & 7) << 9)).to(tl.float16, bitcast=True)


@triton.jit
def plus_power(q, scale, offset, DTYPE: tl.constexpr, BITS: tl.constexpr = 4):
    """(q + p, offset - p scale) for q of 4 or 8 bits, with a power p that makes the first an exact number of DTYPE without a conversion.

    As the low bits of the fraction of p: conversions of integers run at a quarter of the speed of other instructions. bf16 has no such p
    for 8 bits, but q itself, by way of fp32.
    """
    if tl.bfloat16 == DTYPE and BITS == 8:
        number = ((q.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0).to(tl.bfloat16)
    elif tl.bfloat16 == DTYPE:
        number = (q.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
        offset -= 128.0 * scale
    elif tl.float16 == DTYPE:
        number = (q.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
        offset -= 1024.0 * scale
    else:
        number = q.to(DTYPE)
    return number, offset


@triton.jit
def group_weight(q, scale_ptr, offset_ptr, in_n, KIND: tl.constexpr):
    """The weights [N, K] of codes whose columns are of one group, as fp32. KIND: "mxfp4", a power of two for a scale, or "groups"."""
    if KIND == "mxfp4":
        power = tl.load(scale_ptr, mask=in_n, other=0).to(tl.int32)
        scale = (tl.minimum(power + 14, 255) << 23).to(tl.float32, bitcast=True)  # 2^14 larger than it is, as the numbers are smaller
        weight = e2m1_to_fp16(q).to(tl.float32) * scale[:, None]
    else:
        scale = tl.load(scale_ptr, mask=in_n, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr, mask=in_n, other=0.0).to(tl.float32)
        weight = q.to(tl.float32) * scale[:, None] + offset[:, None]
    return weight
