"""Functions that Triton lacks on one of its back ends, written so that nothing overflows."""

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
