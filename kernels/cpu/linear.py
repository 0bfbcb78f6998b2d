"""Dense matrix product over weights in oneDNN's blocked layout.

All linears of 30 layers (576 x 960, 576 x 576, 576 x 3072, 1536 x 576) and the head 576 x 49152, ms, 2 threads, EPYC with AVX-512,
2026-11. MKL's own packing (mkl_linear) was no faster than plain.

    rows             1      8      32     64     128    256
    fp32             36     41     68     103    176    318
    fp32 packed      24     21     42     71     131    255
    bf16             18     19     31     48     79     141
    bf16 packed      13     12     23     38     68     133
    head fp32        12     21     33     47
    head packed      6      6      12     21
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pack_linear(weight: Tensor) -> Tensor:
    """See headway.kernels.linear.pack_linear."""
    if not _is_packable(weight.dtype):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def packed_linear(x: Tensor, data: Tensor, bias: Tensor | None) -> Tensor:
    """See headway.kernels.linear.packed_linear."""
    if not data.is_mkldnn:
        return functional.linear(x, data, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, data, bias, "none", [], "")
    return out


def _is_packable(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
