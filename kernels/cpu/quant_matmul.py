"""8-bit matrix product with FBGEMM through torch's quantised operators, one activation scale per token.

torch's ``linear_dynamic`` has one scale for all tokens of a call: one token 20 times as large as the others took the relative
error of the others from 1.1 % to 15 %, and a token's result depends on its batch. SmolLM2-135M's perplexity with all linears in
8 bits (about 3,000 tokens of English): +62 % so, +4.2 % with a scale per token, +0.7 % with the weights alone rounded.
So each token is divided by its largest magnitude, the operator quantises with the fixed scale 1 / 127, and the product is multiplied
back. With that the linears below take 9.6 instead of 7.3 ms at 8 rows, 18 instead
of 14 at 32, 229 instead of 193 at 512. torch._int_mm, which has the same freedom, takes 14.6, 23 and 245 ms.

Engine: all linears of 30 layers (576 x 960, 576 x 576, 576 x 3072, 1536 x 576), ms, 2 threads, EPYC with AVX-512 VNNI, 2026-11:

    rows      1      8      32     64     128    256
    x86       6.4    6.7    13.9   23     42     84
    fbgemm    7.2    7.3    14.4   24     43     84
    onednn    10.7   13.9   20.5   30     48     87
    fp32      35.7   42     70     104    179    327
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import function
from headway.kernels.hadamard import spread_blocks
from headway.kernels.reference import quant_matmul as reference

# Of a weight that is rounded, so that temporaries in fp32 stay small: [5632, 2048] takes one core 11 ms, and 91 as a whole (2026-11).
_ROWS_A_PIECE = 512
_END_ANNOUNCED = ".*quantized tensor creation functions.*"


@dataclass(frozen=True, slots=True)
class _Packed:
    """For FBGEMM."""

    params: Any  # torch's LinearPackedParams, without bias: the bias must not be scaled back per token
    limit: int  # activations are quantised to -limit .. limit


@dataclass(frozen=True, slots=True)
class _PackedForKernels:
    """For the compiled kernels around torch's integer product."""

    columns: Tensor  # [K, N] int8, the transposed view of [N, K]
    scale: Tensor  # [N] fp32
    quantize: Callable[..., None]
    dequantize: Callable[..., None]


def pack_int8(weight: Tensor) -> _Packed | _PackedForKernels:
    """See headway.kernels.quant_matmul.pack_int8."""
    if _suits_kernels(weight):
        rounded = [reference.pack_int8(rows) for rows in torch.split(weight, _ROWS_A_PIECE)]
        return keep_int8(*(torch.cat(parts) for parts in zip(*rounded, strict=True)))
    scale = weight.abs().amax(dim=1).double() / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    with warnings.catch_warnings():
        # torch announces the end of quantised tensors; linear_prepack takes nothing else.
        warnings.filterwarnings("ignore", message=_END_ANNOUNCED, category=UserWarning)
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        return _pack_for_fbgemm(torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8))


def keep_int8(values: Tensor, scale: Tensor) -> _Packed | _PackedForKernels:
    """See headway.kernels.quant_matmul.keep_int8."""
    if _suits_kernels(values):
        quantize, dequantize = _kernels()
        assert quantize is not None, "those suit it that are there"
        assert dequantize is not None, "those suit it that are there"
        return _PackedForKernels(values.t(), scale, quantize, dequantize)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_END_ANNOUNCED, category=UserWarning)
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        return _pack_for_fbgemm(torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0))


def _kernels() -> tuple[Callable[..., None] | None, Callable[..., None] | None]:
    return function("quantize_rows", torch.float32), function("dequantize", torch.float32)


def _suits_kernels(weight: Tensor) -> bool:
    """torch._int_mm wants a multiple of 8 on both sides; without VNNI its sums may saturate."""
    return None not in _kernels() and _has_vnni() and weight.shape[0] % 8 == weight.shape[1] % 8 == 0


def _pack_for_fbgemm(quantised: Tensor) -> _Packed:
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = _engine()  # read by linear_prepack only: the packed object knows its own
    try:
        params = torch.ops.quantized.linear_prepack(quantised, None)
    finally:
        torch.backends.quantized.engine = previous
    # Without VNNI two products are summed in saturating 16 bits: 2 * 127 * 127 fits, 2 * 255 * 127 does not.
    return _Packed(params, 127 if _has_vnni() else 63)


def int8_linear(x: Tensor, data: _Packed | _PackedForKernels, bias: Tensor | None, block: int = 1) -> Tensor:
    """See headway.kernels.quant_matmul.int8_linear."""
    if x.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}, expected torch.float32")
    x = spread_blocks(x, block)
    if isinstance(data, _PackedForKernels):
        return _with_kernels(x.contiguous(), data, bias)
    if x.shape[0] == 0:
        return x.new_empty(0, data.params.unpack()[0].shape[0])
    largest = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-20)
    out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x / largest, 1 / data.limit, data.limit + 1, data.params
    ).mul_(largest)
    return out if bias is None else out.add_(bias)


def _with_kernels(x: Tensor, data: _PackedForKernels, bias: Tensor | None) -> Tensor:
    rows, in_features = x.shape
    out = torch.empty((rows, len(data.scale)), dtype=torch.float32)
    if rows == 0:
        return out
    quantised = torch.empty((rows, in_features), dtype=torch.int8)
    scale = torch.empty(rows, dtype=torch.float32)
    data.quantize(quantised.data_ptr(), scale.data_ptr(), x.data_ptr(), rows, in_features)
    sums = torch._int_mm(quantised, data.columns)
    data.dequantize(
        out.data_ptr(),
        sums.data_ptr(),
        scale.data_ptr(),
        data.scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        rows,
        len(data.scale),
    )
    return out


def _engine() -> str:
    for engine in ("x86", "fbgemm"):
        if engine in torch.backends.quantized.supported_engines:
            return engine
    raise RuntimeError("this build of torch has no FBGEMM (x86 only); set HEADWAY_KERNELS=reference for 8-bit weights")


@functools.cache
def _has_vnni() -> bool:
    # FBGEMM uses the AVX-512 form only; AVX-VNNI chips run its saturating AVX2 kernels.
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_vnni" in cpuinfo.read_text()
