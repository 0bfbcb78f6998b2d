"""Random experts in every kind of few bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from headway.kernels.expert_weights import ExpertWeights, Fp8Experts, Int4Experts, Int8Experts, QuantizedWeights, pack_mxfp4
from headway.kernels.hadamard import spread_blocks
from headway.kernels.int4_layout import pack_int4
from headway.kernels.reference.quant_matmul import pack_int8

FP8 = torch.float8_e4m3fn


def _fp8(is_blocked: bool, rounds_input: bool) -> Callable[[Tensor], QuantizedWeights]:
    def make(weight: Tensor) -> QuantizedWeights:
        n, k = weight.shape
        shape = (-(-n // 128), -(-k // 128)) if is_blocked else (n,)
        scale = 0.002 * (1 + torch.rand(shape, generator=torch.Generator().manual_seed(n + k)))
        spread = scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k] if is_blocked else scale[:, None]
        return Fp8Experts((weight / spread).clamp(-448, 448).to(FP8), scale, rounds_input)

    return make


def _int8(block: int) -> Callable[[Tensor], QuantizedWeights]:
    def make(weight: Tensor) -> QuantizedWeights:
        own = block if weight.shape[1] % block == 0 else 1
        return Int8Experts(*pack_int8(spread_blocks(weight, own)), own)

    return make


def _groups(
    group_size: int, dtype: torch.dtype = torch.float32, *, has_order: bool = False, bits: int = 4
) -> Callable[[Tensor], QuantizedWeights]:
    def make(weight: Tensor) -> QuantizedWeights:
        n, k = weight.shape
        generator = torch.Generator().manual_seed(n * k)
        size = group_size or k
        values = torch.randint(0, 2**bits, (n, k), generator=generator)
        scale = (0.2 + torch.rand(-(-k // size), n, generator=generator)) / (2 ** (bits - 1) * k**0.5)
        order = torch.randperm(k, generator=generator) if has_order else None
        offset = (0.5 - 2 ** (bits - 1)) * scale
        return Int4Experts.of(pack_int4(values, scale.to(dtype), offset.to(dtype), size, order, bits=bits))

    return make


def _mxfp4(weight: Tensor) -> QuantizedWeights:
    n, k = weight.shape
    generator = torch.Generator().manual_seed(n + k)
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator)
    return pack_mxfp4(codes, torch.randint(119, 124, (n, -(-k // 32)), dtype=torch.uint8, generator=generator))


KINDS: dict[str, Callable[[Tensor], QuantizedWeights]] = {
    "mxfp4": _mxfp4,
    "fp8-channel": _fp8(False, True),
    "fp8-channel-weights": _fp8(False, False),
    "fp8-blocks": _fp8(True, True),
    "fp8-blocks-weights": _fp8(True, False),
    "int4-32": _groups(32, torch.float16),
    "int4-64-order": _groups(64, has_order=True),
    "int4-rows": _groups(0),
    "int8-32": _groups(32, torch.float16, bits=8),
    "int8": _int8(1),
    "int8-spread": _int8(16),
}


def make_experts(kind: str, weights: Tensor, device: str) -> ExpertWeights:
    """weights [E, N, K] fp32, of which some kinds have the sizes alone."""
    experts = [KINDS[kind](weight) for weight in weights]
    whole = experts[0].stack(len(experts))
    for index, expert in enumerate(experts):
        whole.put(index, expert)
    moved = {field.name: getattr(whole, field.name) for field in fields(whole)}
    return replace(whole, **{name: value.to(device) for name, value in moved.items() if isinstance(value, Tensor)})
