"""Dense matrix product over weights that are laid out for it: fp32 in panels of columns for the compiled kernel, else in oneDNN's blocks.

A panel has the inputs of a few columns one behind the other, [K, P] with P as many as a row's sums fill registers: it is read from front
to back. All linears of 30 layers (576 x 960, 576 x 576, 576 x 3072, 1536 x 576) and the head 576 x 49152 in fp32, ms of CPU time of one
thread, EPYC (Zen 4), 2026-11-27:

    rows               1      2      4      8     16     32     64    128    512
    AVX2     oneDNN   34.0   35.5   37.9   45.8   61.6   90.3   149    273   1052
             panels   17.3   18.5   19.1   28.1   43.0   73.8   134    256   1008
    AVX-512  oneDNN   32.6   35.3   25.6   32.7   43.9   75.7   134    253    992
             panels   19.6   18.1   17.7   20.1   35.7   66.0   126    249    991
    head, AVX2, oneDNN  8.9    9.1    9.9   12.0   15.4   24.4   41
                panels  4.5    4.9    5.4    7.6   11.9   20.5   37

A row's result is the same whatever rows are beside it, which oneDNN's is not. In bf16, 2 threads, with AVX-512:

    rows             1      8      32     64     128    256
    bf16             18     19     31     48     79     141
    bf16 packed      13     12     23     38     68     133

oneDNN compiles a product for each number of rows and keeps 1024 of them, 0.3 MiB each (0.5 ms to make): a server whose steps have
1 to 512 rows grew by 0.8 GiB. So rows are rounded up, from 64 on by 12% at most, and that growth is below 0.1 GiB (2026-11).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.cpu.native.library import function, panel_width

# (up to so many rows, rounded up to a multiple of); more than that to _COARSEST.
_ROUNDED = ((8, 1), (128, 8), (256, 16))
_COARSEST = 32


@dataclass(frozen=True, slots=True)
class Panels:
    """[ceil(N / P), K, P] fp32 for the compiled kernel, zeros behind the last column: see native/dense.cpp."""

    data: Tensor
    out_features: int  # N


def pack_linear(weight: Tensor) -> Panels | Tensor:
    """See headway.kernels.linear.pack_linear."""
    if weight.dtype == torch.float32 and function("dense_linear", torch.float32) is not None:
        return _panels(weight)
    if not _is_packable(weight.dtype):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def packed_linear(x: Tensor, data: Panels | Tensor, bias: Tensor | None) -> Tensor:
    """See headway.kernels.linear.packed_linear."""
    if isinstance(data, Panels):
        return _times_panels(x, data, bias)
    if not data.is_mkldnn:
        return functional.linear(x, data, bias)
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    if missing := padded_rows(num_rows) - num_rows:
        rows = functional.pad(rows, (0, 0, 0, missing))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, data, bias, "none", [], "")
    return out[:num_rows].view(*x.shape[:-1], out.shape[-1])


def _panels(weight: Tensor) -> Panels:
    width, (num_columns, num_inputs) = panel_width(), weight.shape
    data = torch.empty((-(-num_columns // width), num_inputs, width), dtype=torch.float32)
    num_whole, num_left = divmod(num_columns, width)
    data[:num_whole].copy_(weight[: num_columns - num_left].view(num_whole, width, num_inputs).transpose(1, 2))
    if num_left:
        data[num_whole, :, num_left:] = 0.0
        data[num_whole, :, :num_left].copy_(weight[num_columns - num_left :].t())
    return Panels(data, num_columns)


def _times_panels(x: Tensor, panels: Panels, bias: Tensor | None) -> Tensor:
    kernel = function("dense_linear", torch.float32)
    assert kernel is not None, "panels are made for it"
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    bias = bias if bias is None else bias.contiguous()
    out = torch.empty((rows.shape[0], panels.out_features), dtype=torch.float32)
    kernel(
        *(out.data_ptr(), rows.data_ptr(), panels.data.data_ptr(), None if bias is None else bias.data_ptr()),
        *(rows.shape[0], rows.shape[1], panels.out_features, rows.stride(0)),
    )
    return out.view(*x.shape[:-1], panels.out_features)


def padded_rows(num_rows: int) -> int:
    """The number of rows, at least ``num_rows``, that the product is compiled for."""
    step = next((step for limit, step in _ROUNDED if num_rows <= limit), _COARSEST)
    return -(-num_rows // step) * step


def _is_packable(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
