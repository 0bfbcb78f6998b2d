"""MXFP4 as gpt-oss's checkpoints have it (OCP Microscaling Formats, 1.0): see kernels/expert_weights.py."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import MXFP4


def mxfp4_values(blocks: Tensor, scales: Tensor) -> QuantizedValues:
    """blocks [N, G, 16] uint8, the first of two numbers in the low bits; scales [N, G] uint8 -> [N, 32 G]."""
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-3)
    return QuantizedValues(codes, scales, group_size=MXFP4.group_size)
