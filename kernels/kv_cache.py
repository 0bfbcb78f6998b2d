"""What pages of keys and values may hold: numbers of the activations' dtype, bf16 beside fp32 ones, float8_e4m3fn with a scale of the
layer, or int8 with a scale of each token and head.

A block in int8, of keys or of values, is one piece of memory, so that whatever moves blocks moves their scales::

    [ block_size, Hkv, D int8 | up to 3 bytes that nobody reads | block_size, Hkv fp32 ]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.checks import check_inner_stride, check_shape

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
INT8 = torch.int8
INT8_MAX = 127.0


@dataclass(frozen=True, slots=True)
class KVScales:
    """Of pages in fp8: ``key ~ k * k_cache``, ``value ~ v * v_cache``. Both above 0; pages of another dtype have 1."""

    k: float = 1.0
    v: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TokenScales:
    """Of pages in int8: ``key ~ k[..., None] * k_cache``, ``value ~ v[..., None] * v_cache``.

    Both [num_blocks, block_size, Hkv] fp32, with the same strides. A head's scale is its largest number by 127, and 0 where all are 0;
    it is NaN where one is not finite, as the head is then when it is read."""

    k: Tensor
    v: Tensor


PageScales = KVScales | TokenScales
UNSCALED = KVScales()


def int8_blocks(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, int]:
    """The shape of memory for so many blocks in int8 of keys, or of values: a byte an element."""
    rows = block_size * num_kv_heads
    return num_blocks, -(-rows * head_dim // 4) * 4 + 4 * rows


def split_int8_blocks(blocks: Tensor, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """(numbers [num_blocks, block_size, Hkv, D] int8, their scales [num_blocks, block_size, Hkv] fp32): views of ``blocks``, int8, of the
    shape that ``int8_blocks`` gives."""
    rows = block_size * num_kv_heads
    shape = (len(blocks), block_size, num_kv_heads)
    return blocks[:, : rows * head_dim].view(*shape, head_dim), blocks[:, -4 * rows :].view(torch.float32).view(shape)


def are_int8_blocks(pages: Tensor, scales: Tensor) -> bool:
    """Whether both are what ``split_int8_blocks`` gives: then where one is follows from where the other is."""
    num_blocks, block_size, num_kv_heads, head_dim = pages.shape
    _, block_bytes = int8_blocks(num_blocks, block_size, num_kv_heads, head_dim)
    behind = block_bytes - 4 * block_size * num_kv_heads
    return (
        pages.stride() == (block_bytes, num_kv_heads * head_dim, head_dim, 1)
        and scales.stride() == (block_bytes // 4, num_kv_heads, 1)
        and scales.data_ptr() == pages.data_ptr() + behind
    )


def lie_in_order(k_cache: Tensor, v_cache: Tensor, scales: PageScales) -> bool:
    """Whether each number is found by counting: both are contiguous, or blocks in int8."""
    if isinstance(scales, TokenScales):
        return are_int8_blocks(k_cache, scales.k) and are_int8_blocks(v_cache, scales.v)
    return k_cache.is_contiguous() and v_cache.is_contiguous()


def page_dtypes(q: Tensor) -> tuple[torch.dtype, ...]:
    """What pages beside such queries may be. On CPUs fp32 ones may have bf16: half the bytes, which decode attention waits for."""
    has_narrow = q.dtype == torch.float32 and q.device.type == "cpu"
    return (q.dtype, FP8, INT8, torch.bfloat16) if has_narrow else (q.dtype, FP8, INT8)


def check_cache(q: Tensor, k_cache: Tensor, v_cache: Tensor, scales: PageScales) -> None:
    """``q`` [T, Hq, D] fits the pages [num_blocks, block_size, Hkv, D]: same D, Hq a multiple of Hkv, dtype as in ``page_dtypes``."""
    if q.dim() != 3 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape or k_cache.shape[3] != q.shape[2]:
        raise ValueError(f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)} do not fit together")
    if k_cache.shape[2] == 0 or q.shape[1] % k_cache.shape[2]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k_cache.shape[2]} key-value heads")
    allowed = page_dtypes(q)
    if k_cache.dtype not in allowed or v_cache.dtype != k_cache.dtype:
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"q is {q.dtype}, k_cache {k_cache.dtype}, v_cache {v_cache.dtype}; expected {expected} for both caches")
    if isinstance(scales, TokenScales) != (k_cache.dtype == INT8):
        raise ValueError(
            f"{type(scales).__name__} beside pages in {k_cache.dtype}: those in int8 alone have a scale of each token and head"
        )
    if isinstance(scales, TokenScales):
        _check_token_scales(k_cache, scales)
    elif k_cache.dtype != FP8 and scales != UNSCALED:
        raise ValueError(f"{scales}: pages in {k_cache.dtype} have no scales")
    check_inner_stride("q", q)
    check_inner_stride("k_cache", k_cache)
    check_inner_stride("v_cache", v_cache)


def _check_token_scales(pages: Tensor, scales: TokenScales) -> None:
    for name, own in (("k", scales.k), ("v", scales.v)):
        check_shape(f"scales.{name}", own, *pages.shape[:3])
        if own.dtype != torch.float32 or own.stride() != scales.k.stride() or (own.stride(2) != 1 and own.shape[2] > 1):
            raise ValueError(f"scales.{name} is {own.dtype} with strides {own.stride()}; expected fp32, heads side by side, as the other's")
