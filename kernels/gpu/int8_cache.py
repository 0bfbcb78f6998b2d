"""Pages in int8 with a scale of each token and head: how kernels write and read them."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.functions import round_even
from headway.kernels.kv_cache import PageScales, TokenScales


@triton.jit
def sum_of_strange(x):
    """0 for each head [H, D] of finite numbers, else NaN: the largest of some may leave a NaN out."""
    return tl.sum(x - x, axis=1)[:, None]


@triton.jit
def to_int8(x, scale):
    """fp32 numbers by their scale, halves to the even one. Of what is not finite any number is left: its scale is NaN."""
    x = round_even(tl.div_rn(x, tl.where(scale > 0, scale, 1.0)))
    return tl.where(x > 127.0, 127.0, tl.where(x < -127.0, -127.0, x)).to(tl.int8)


@triton.jit
def load_scales(scales_ptr, block, offset, stride_block, stride_token, mask, HAS_MASK: tl.constexpr):
    """[N] fp32: of tokens in these slots of these blocks; 0 for those that are masked. The pointer is to the head's."""
    rows = scales_ptr + block * stride_block + offset * stride_token
    return tl.load(rows, mask=mask, other=0.0) if HAS_MASK else tl.load(rows)


@triton.jit
def scale_values(v, scales, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """int8 values [N, D] times their scales [N] as the matrix units take them. Not the weights are multiplied: in fp16 their products with
    small scales would have few bits."""
    v = v.to(tl.float32) * scales[:, None]
    return v if UPCAST else v.to(dtype)


def scale_arguments(scales: PageScales, unused: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """(scales of keys, of values, their strides of a block and of a token) for a kernel; ``unused``: any tensor, where there are none."""
    if not isinstance(scales, TokenScales):
        return unused, unused, 0, 0
    return scales.k, scales.v, scales.k.stride(0), scales.k.stride(1)


def has_token_scales(cache: Tensor) -> bool:
    return cache.dtype == torch.int8
