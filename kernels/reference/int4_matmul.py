"""4-bit matrix product in plain torch: the weight is brought back to fp32."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.int4_layout import PackedInt4, unpack_int4


def int4_linear(x: Tensor, packed: PackedInt4, bias: Tensor | None) -> Tensor:
    """See headway.kernels.int4_matmul.int4_linear."""
    value = x.float() if packed.order is None else x.float().index_select(1, packed.order)
    out = value @ dequantize(packed).T
    return (out if bias is None else out + bias).to(x.dtype)


def dequantize(packed: PackedInt4) -> Tensor:
    """The weight [N, K] fp32, columns in packed order."""

    def spread(groups: Tensor) -> Tensor:
        return groups.float().t().repeat_interleave(packed.group_size, dim=1)[:, : packed.in_features]

    return spread(packed.scale) * unpack_int4(packed) + spread(packed.offset)
