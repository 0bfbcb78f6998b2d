"""The weights of all experts of a layer in few bits: one matrix of each, as the product that computes them all reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from headway.kernels.checks import check_contiguous, check_shape
from headway.kernels.fp8_matmul import FP8, SCALE_BLOCK
from headway.kernels.int4_layout import PackedInt4

MXFP4_BLOCK = 32  # columns that share a power of two
_MXFP4_BIAS = 127  # of the powers
_MXFP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True)
class QuantizedExperts:
    """Base: [E, N, K], or one expert's [N, K] without the first dimension of each tensor, to be put into such a stack."""

    def tensors(self) -> Iterator[Tensor]:
        for _, tensor in self._named():
            yield tensor

    def stack(self, num_experts: int) -> Self:
        """Room for so many that are laid out as this one."""
        return replace(self, **{name: tensor.new_empty((num_experts, *tensor.shape)) for name, tensor in self._named()})

    def put(self, index: int, expert: QuantizedExperts) -> None:
        """Raises ValueError where ``expert`` is laid out in another way."""
        own, other = dict(self._named()), dict(expert._named())
        if type(self) is not type(expert) or self._layout() != expert._layout() or own.keys() != other.keys():
            raise ValueError(f"an expert is {expert._layout()}, and the others are {self._layout()}")
        for name, tensor in own.items():
            check_shape(name, other[name], *tensor.shape[1:])
            _bytes(tensor[index]).copy_(_bytes(other[name]))

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            if isinstance(tensor := getattr(self, field.name), Tensor):
                yield field.name, tensor

    def _layout(self) -> dict[str, object]:
        """What is no tensor, but for an order that there is not."""
        return {field.name: value for field in fields(self) if not isinstance(value := getattr(self, field.name), Tensor)}


@dataclass(frozen=True, slots=True)
class Fp8Experts(QuantizedExperts):
    """As kernels/fp8_matmul.py has a weight; ``rounds_input`` is its quantize_input."""

    values: Tensor  # [E, N, K] float8_e4m3fn
    scale: Tensor  # fp32 [E, N], or [E, ceil(N / 128), ceil(K / 128)]
    rounds_input: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return _three(self.values.shape)

    @property
    def is_blocked(self) -> bool:
        return self.scale.dim() == self.values.dim()

    def check(self) -> None:
        num_experts, n, k = self.shape
        check_contiguous("values", self.values, FP8)
        check_contiguous("scale", self.scale, torch.float32)
        check_shape("scale", self.scale, num_experts, *((-(-n // SCALE_BLOCK), -(-k // SCALE_BLOCK)) if self.is_blocked else (n,)))


@dataclass(frozen=True, slots=True)
class Int8Experts(QuantizedExperts):
    """As kernels/quant_matmul.py has a weight: inputs are rounded to 8 bits, ``block`` channels spread over one another before."""

    values: Tensor  # [E, N, K] int8
    scale: Tensor  # [E, N] fp32
    block: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        return _three(self.values.shape)

    def check(self) -> None:
        check_contiguous("values", self.values, torch.int8)
        check_contiguous("scale", self.scale, torch.float32)
        check_shape("scale", self.scale, *self.shape[:2])


@dataclass(frozen=True, slots=True)
class Int4Experts(QuantizedExperts):
    """As kernels/int4_layout.py has a weight."""

    weight: Tensor  # [E, N, ceil(K / 2 half) half bits / 4] uint8
    scale: Tensor  # [E, G, N] fp32, fp16 or bf16, G = ceil(K / group_size)
    offset: Tensor  # [E, G, N], the same or another of these
    order: Tensor | None  # [E, K] int64; None: columns are in order
    in_features: int  # K
    group_size: int
    half: int
    bits: int = 4  # or 8

    @staticmethod
    def of(packed: PackedInt4) -> Int4Experts:
        """One."""
        sizes = packed.in_features, packed.group_size, packed.half, packed.bits
        return Int4Experts(packed.weight, packed.scale, packed.offset, packed.order, *sizes)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.weight.shape[0], self.weight.shape[1], self.in_features

    def expert(self, index: int) -> PackedInt4:
        order = None if self.order is None else self.order[index]
        sizes = self.weight.shape[1], self.in_features, self.group_size, self.half
        return PackedInt4(*sizes, self.weight[index], self.scale[index], self.offset[index], order, self.bits)

    def check(self) -> None:
        num_experts, n, k = self.shape
        check_contiguous("weight", self.weight, torch.uint8)
        check_shape("weight", self.weight, num_experts, n, -(-k // (2 * self.half)) * self.half * self.bits // 4)
        for name, tensor in (("scale", self.scale), ("offset", self.offset)):
            check_contiguous(name, tensor, tensor.dtype)
            check_shape(name, tensor, num_experts, -(-k // self.group_size), n)
        if self.order is not None:
            check_contiguous("order", self.order, torch.int64)
            check_shape("order", self.order, num_experts, k)


@dataclass(frozen=True, slots=True)
class Mxfp4Experts(QuantizedExperts):
    """Numbers of 4 bits in blocks of 32 columns that share a power of two (OCP Microscaling Formats, 1.0).

    Columns are laid out as in kernels/int4_layout.py with a half of one block: byte ``32 c + j`` of a row has column j of block 2 c in its
    low 4 bits and column j of block 2 c + 1 in its high ones.
    """

    weight: Tensor  # [E, N, ceil(K / 64) 32] uint8: sign, 2 bits of exponent, 1 of fraction
    scale: Tensor  # [E, ceil(K / 32), N] uint8: 127 more than the power
    in_features: int  # K

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.weight.shape[0], self.weight.shape[1], self.in_features

    def expert(self, index: int) -> Tensor:
        """[N, K] bf16, which has them exactly."""
        pairs = self.weight[index].view(self.weight.shape[1], -1, MXFP4_BLOCK)
        codes = torch.stack((pairs & 15, pairs >> 4), dim=2).flatten(1)[:, : self.in_features]
        return mxfp4_numbers(codes, self.scale[index].t())

    def check(self) -> None:
        num_experts, n, k = self.shape
        check_contiguous("weight", self.weight, torch.uint8)
        check_contiguous("scale", self.scale, torch.uint8)
        check_shape("weight", self.weight, num_experts, n, -(-k // (2 * MXFP4_BLOCK)) * MXFP4_BLOCK)
        check_shape("scale", self.scale, num_experts, -(-k // MXFP4_BLOCK), n)


QuantizedWeights = Fp8Experts | Int8Experts | Int4Experts | Mxfp4Experts
ExpertWeights = Tensor | QuantizedWeights


def pack_mxfp4(codes: Tensor, scale: Tensor) -> Mxfp4Experts:
    """One expert: codes [N, K] uint8 of 4 bits, scale [N, ceil(K / 32)] uint8. Both are copied."""
    n, k = codes.shape
    check_shape("scale", scale, n, -(-k // MXFP4_BLOCK))
    pairs = torch.nn.functional.pad(codes, (0, -k % (2 * MXFP4_BLOCK))).view(n, -1, 2, MXFP4_BLOCK)
    return Mxfp4Experts((pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1), scale.t().contiguous(), k)


def mxfp4_numbers(codes: Tensor, scale: Tensor) -> Tensor:
    """codes [N, K] uint8 of 4 bits, scale [N, ceil(K / 32)] uint8 -> the numbers [N, K] bf16, exact."""
    table = torch.tensor([*_MXFP4_VALUES, *(-value for value in _MXFP4_VALUES)], dtype=torch.bfloat16, device=codes.device)
    powers = (scale.float() - _MXFP4_BIAS).exp2().bfloat16()
    return table[codes.int()] * powers.repeat_interleave(MXFP4_BLOCK, dim=1)[:, : codes.shape[1]]


def _bytes(tensor: Tensor) -> Tensor:
    """Not every device copies numbers of fp8."""
    return tensor.view(torch.uint8) if tensor.dtype == FP8 else tensor


def _three(shape: torch.Size) -> tuple[int, int, int]:
    num_experts, n, k = shape
    return num_experts, n, k
