"""Hadamard matrices: orthogonal, every entry as large as the others, so what was in one channel ends up in all of a block."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix of +-1 / sqrt(size), symmetric and orthogonal, fp32; ``size`` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def spread_blocks(x: Tensor, matrix: Tensor) -> Tensor:
    """x [..., K] with each block of ``len(matrix)`` channels multiplied by ``matrix``."""
    return (x.reshape(-1, len(matrix)) @ matrix).view(x.shape)
