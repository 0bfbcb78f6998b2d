"""Hadamard matrices: orthogonal, every entry as large as the others, so what was in one channel ends up in all of a block."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix of +-1 / sqrt(size), symmetric and orthogonal, fp32; ``size`` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def block_of(num_columns: int, most: int) -> int:
    """The largest power of two that divides an input of so many channels, up to ``most``, itself one."""
    return math.gcd(num_columns, most)


def spread_blocks(x: Tensor, block: int) -> Tensor:
    """x [M, K] with each ``block`` of its channels multiplied by their Hadamard matrix, in x's dtype; a block of 1 is x itself.

    The product with a weight whose rows were multiplied alike stays the same: x H (W H)^T = x W^T.
    """
    if block == 1:
        return x
    return (x.reshape(-1, block) @ _matrix(block, x.dtype, x.device)).view(x.shape)


@functools.cache
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return hadamard(size).to(device, dtype)
