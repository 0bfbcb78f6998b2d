"""What pages of keys and values may hold: numbers of the activations' dtype, bf16 beside fp32 ones, or float8_e4m3fn with a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.checks import check_inner_stride

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass(frozen=True, slots=True)
class KVScales:
    """Of pages in fp8: ``key ~ k * k_cache``, ``value ~ v * v_cache``. Both above 0; pages of another dtype have 1."""

    k: float = 1.0
    v: float = 1.0


UNSCALED = KVScales()


def page_dtypes(q: Tensor) -> tuple[torch.dtype, ...]:
    """What pages beside such queries may be. On CPUs fp32 ones may have bf16: half the bytes, which decode attention waits for."""
    has_narrow = q.dtype == torch.float32 and q.device.type == "cpu"
    return (q.dtype, FP8, torch.bfloat16) if has_narrow else (q.dtype, FP8)


def check_cache(q: Tensor, k_cache: Tensor, v_cache: Tensor, scales: KVScales) -> None:
    """``q`` [T, Hq, D] fits the pages [num_blocks, block_size, Hkv, D]: same D, Hq a multiple of Hkv, dtype as in ``page_dtypes``."""
    if q.dim() != 3 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape or k_cache.shape[3] != q.shape[2]:
        raise ValueError(f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)} do not fit together")
    if k_cache.shape[2] == 0 or q.shape[1] % k_cache.shape[2]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k_cache.shape[2]} key-value heads")
    allowed = page_dtypes(q)
    if k_cache.dtype not in allowed or v_cache.dtype != k_cache.dtype:
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"q is {q.dtype}, k_cache {k_cache.dtype}, v_cache {v_cache.dtype}; expected {expected} for both caches")
    if k_cache.dtype != FP8 and scales != UNSCALED:
        raise ValueError(f"{scales}: pages in {k_cache.dtype} have no scales")
    check_inner_stride("q", q)
    check_inner_stride("k_cache", k_cache)
    check_inner_stride("v_cache", v_cache)
