"""MXFP4: numbers of 4 bits in blocks of 32 that share a power of two (OCP Microscaling Formats, 1.0)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32
_BIAS = 127  # of the exponents
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantize_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """blocks [N, G, 16] uint8, the first of two in the low bits; scales [N, G] uint8 -> [N, 32 G] bf16, which has them exactly."""
    table = torch.tensor([*_VALUES, *(-value for value in _VALUES)], dtype=torch.bfloat16)
    nibbles = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    powers = (scales.float() - _BIAS).exp2().bfloat16()
    return (table[nibbles.int()] * powers.unsqueeze(-1)).flatten(-2)
