"""Matrix products with weights of 4 or 8 bits that have a scale and an offset for each group of input channels."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_shape
from headway.kernels.int4_layout import PackedInt4


def int4_linear(x: Tensor, packed: PackedInt4, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` with w as headway.kernels.int4_layout.PackedInt4 tells; x [M, K], bias [N] -> [M, N] in x's dtype.

    x and bias fp32, fp16 or bf16, x of any strides. Sums are fp32. With many rows a kernel may round w to x's dtype, with few it does not.
    """
    check_float("x", x)
    check_shape("x", x, -1, packed.in_features)
    out: Tensor = implementation("int4_matmul", x.device.type).int4_linear(x, packed, bias)
    return out
