"""Checks of tensors that the public functions share. They guard our own callers: a failure is a bug, so a plain ValueError."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_float(name: str, tensor: Tensor) -> None:
    """``tensor`` is fp32, fp16 or bf16."""
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected one of {FLOATS}")


def check_shape(name: str, tensor: Tensor, *shape: int) -> None:
    """``tensor`` has this shape; -1 stands for any size."""
    actual = tensor.shape
    if len(actual) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, actual, strict=True)):
        raise ValueError(f"{name} has shape {tuple(actual)}, expected {tuple(shape)} (-1: any)")


def check_inner_stride(name: str, tensor: Tensor) -> None:
    """The last dimension of ``tensor`` is contiguous; the others may have any stride."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name} has strides {tensor.stride()}; its last dimension must be contiguous")


def check_contiguous(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """``tensor`` has this dtype and no gaps."""
    if tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(f"{name} is {tensor.dtype} with strides {tensor.stride()}; expected contiguous {dtype}")


def check_cache(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """``q`` [T, Hq, D] fits the pages [num_blocks, block_size, Hkv, D]: same D and dtype, Hq a multiple of Hkv."""
    if q.dim() != 3 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape or k_cache.shape[3] != q.shape[2]:
        raise ValueError(f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)} do not fit together")
    if k_cache.shape[2] == 0 or q.shape[1] % k_cache.shape[2]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k_cache.shape[2]} key-value heads")
    if k_cache.dtype != q.dtype or v_cache.dtype != q.dtype:
        raise ValueError(f"q is {q.dtype}, k_cache {k_cache.dtype}, v_cache {v_cache.dtype}; all must be the same")
    check_inner_stride("q", q)
    check_inner_stride("k_cache", k_cache)
    check_inner_stride("v_cache", v_cache)
