"""The gate between an expert's two products, on tiles in registers."""

# mypy: allow-incomplete-defs

import triton
import triton.language as tl

from headway.kernels.gpu.functions import sigmoid


@triton.jit
def gated(gate, up, limit, alpha, IS_CLAMPED: tl.constexpr, DTYPE: tl.constexpr):
    """silu(gate) up, or the clamped gate of both (see headway.kernels.moe.ClampedGate), in fp32; rounded to DTYPE in between."""
    gate = gate.to(DTYPE).to(tl.float32)  # as the reference rounds between its operations
    up = up.to(DTYPE).to(tl.float32)
    if IS_CLAMPED:
        gate = tl.minimum(gate, limit)
        value = gate * sigmoid(alpha * gate) * (tl.minimum(tl.maximum(up, -limit), limit) + 1)
    else:
        value = (gate * sigmoid(gate)).to(DTYPE).to(tl.float32) * up
    return value
