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

oneDNN compiles a product for each number of rows and keeps 1024 of them, 0.3 MiB each (0.5 ms to make): a server whose steps have
1 to 512 rows grew by 0.8 GiB. So rows are rounded up, from 64 on by 12% at most, and that growth is below 0.1 GiB (2026-11).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# (up to so many rows, rounded up to a multiple of); more than that to _COARSEST.
_ROUNDED = ((8, 1), (128, 8), (256, 16))
_COARSEST = 32


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
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    if missing := padded_rows(num_rows) - num_rows:
        rows = functional.pad(rows, (0, 0, 0, missing))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, data, bias, "none", [], "")
    return out[:num_rows].view(*x.shape[:-1], out.shape[-1])


def padded_rows(num_rows: int) -> int:
    """The number of rows, at least ``num_rows``, that the product is compiled for."""
    step = next((step for limit, step in _ROUNDED if num_rows <= limit), _COARSEST)
    return -(-num_rows // step) * step


def _is_packable(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
