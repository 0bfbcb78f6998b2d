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


def check_heads(name: str, tensor: Tensor | None, num_heads: int) -> None:
    """``tensor``, if there is one, has a float for each query head."""
    if tensor is not None:
        check_float(name, tensor)
        check_shape(name, tensor, num_heads)


def check_contiguous(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """``tensor`` has this dtype and no gaps."""
    if tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(f"{name} is {tensor.dtype} with strides {tensor.stride()}; expected contiguous {dtype}")
