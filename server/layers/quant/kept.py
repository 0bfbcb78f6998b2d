"""Weights kept as a quantised checkpoint has them: integers of 4 or 8 bits in groups, 8-bit integers, or fp8, each with its own product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.expert_weights import ExpertWeights, Fp8Experts, Int4Experts, Int8Experts, QuantizedWeights, pack_mxfp4
from headway.kernels.fp8_matmul import fp8_linear
from headway.kernels.hadamard import block_of
from headway.kernels.int4_layout import PackedInt4, pack_int4
from headway.kernels.int4_matmul import int4_linear
from headway.kernels.linear import PackedLinear, pack_linear, packed_linear
from headway.kernels.quant_matmul import PackedInt8, int8_linear, keep_int8
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.quantized_values import QuantizedValues, stack_values
from headway.server.layers.quant.scheme import WeightScheme
from headway.server.layers.weight import ManyTensors, Part, Weight

_SCALE_DTYPES = {2: torch.float16, 4: torch.float32}


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    values: Tensor  # [N, K] float8_e4m3fn
    scale: Tensor  # see kernels/fp8_matmul.py


PackedPart = PackedInt4 | PackedInt8 | Fp8Weight


@dataclass(frozen=True, slots=True)
class KeptParts(ManyTensors):
    """Rows of an output one behind the other. More than one part only where their columns are in different orders."""

    parts: tuple[PackedPart, ...]

    def tensors(self) -> Iterator[Tensor]:
        for part in self.parts:
            if isinstance(part, PackedInt4):
                yield from (part.weight, part.scale, part.offset)
                if part.order is not None:
                    yield part.order
            elif isinstance(part, Fp8Weight):
                yield from (part.values, part.scale)
            else:
                yield from (held for held in (part.data if isinstance(part.data, tuple) else (part.data,)) if isinstance(held, Tensor))


class QuantizedWeight(Weight):
    """One whose parts stay as the checkpoint has them; one of a module that is not quantised is plain."""

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: dict[str, Part],
        finish: Callable[[Tensor | list[QuantizedValues]], int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(shape, parts, finish, dtype=dtype, device=device)
        self._finish_values = finish
        self._loaded: dict[str, QuantizedValues] = {}

    def load_blocks(self, part: str, blocks: QuantizedValues) -> None:
        """As ``load``, of a tensor that is quantised."""
        place = self.parts[part]
        self._loaded[part] = blocks.narrow(place.dim, place.start, place.length).to(self._device)
        if len(self._loaded) < len(self.parts):
            return
        in_order = sorted(self._loaded, key=lambda name: self.parts[name].offset)
        values = [self._loaded[name] for name in in_order]
        self._loaded = {}
        self.num_bytes = self._finish_values(values)


@dataclass(frozen=True)
class KeptLinear:
    """Activations are in ``dtype`` between the products; whether they are rounded in them is the scheme's."""

    scheme: WeightScheme
    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        return self.scheme.name

    @property
    def stacks_experts(self) -> bool:
        return self.device.type == "cuda"

    def for_gated_input(self) -> KeptLinear:
        return self

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Tensor | list[QuantizedValues]], int]) -> Weight:
        if len(shape) == 2 and self.scheme.keeps([part.length if part.dim == 0 else part.shape[0] for part in parts.values()]):
            return QuantizedWeight(shape, parts, finish, self.dtype, self.device)
        return Weight(shape, parts, finish, dtype=self.dtype, device=self.device)

    def pack(self, weight: Tensor | list[QuantizedValues]) -> tuple[KeptParts | PackedLinear, int]:
        if isinstance(weight, Tensor):
            return pack_linear(weight), weight.nbytes
        packed = [self._packed(values) for values in stack_values(weight)]
        return KeptParts(tuple(part for part, _ in packed)), sum(num_bytes for _, num_bytes in packed)

    def pack_expert(self, weight: Tensor | list[QuantizedValues]) -> ExpertWeights:
        if isinstance(weight, Tensor):
            return weight
        values = stack_values(weight)
        if len(values) > 1:
            raise ModelSourceError(
                "This model's experts have the inputs of gate and up in orders of their own (act-order), which the product of all experts "
                "does not take: add --quantization none, which dequantises it, or use another quantised checkpoint."
            )
        return expert_of(values[0], self.scheme)

    def apply(self, x: Tensor, packed: KeptParts | PackedLinear, bias: Tensor | None) -> Tensor:
        if isinstance(packed, PackedLinear):
            return packed_linear(x, packed, bias)
        if len(packed.parts) == 1:
            return self._product(x, packed.parts[0], bias)
        out = torch.cat([self._product(x, part, None) for part in packed.parts], dim=1)
        return out if bias is None else out.add_(bias)

    def _product(self, x: Tensor, part: PackedPart, bias: Tensor | None) -> Tensor:
        if isinstance(part, PackedInt4):
            return int4_linear(x, part, bias)
        if isinstance(part, PackedInt8):
            return int8_linear(x, part, bias)
        return fp8_linear(x, part.values, part.scale, bias, quantize_input=self.scheme.rounds_input)

    def _packed(self, values: QuantizedValues) -> tuple[PackedPart, int]:
        if self.scheme.product == "int8":
            block = block_of(values.shape[1], self.scheme.spread)
            return keep_int8(values.values, values.scale[:, 0], block), values.values.nbytes + values.scale.nbytes
        if self.scheme.product == "fp8":
            scale = _fp8_scale(values)
            return Fp8Weight(values.values, scale), values.values.nbytes + scale.nbytes
        packed = _pack_groups(values, self.scheme)
        return packed, packed.num_bytes


def expert_of(values: QuantizedValues, scheme: WeightScheme) -> QuantizedWeights:
    """One matrix of one expert for the product of all: see kernels/expert_weights.py."""
    if scheme.product == "int8":
        return Int8Experts(values.values, values.scale[:, 0].contiguous(), block_of(values.shape[1], scheme.spread))
    if scheme.product == "fp8":
        return Fp8Experts(values.values, _fp8_scale(values), scheme.rounds_input)
    if scheme.product == "mxfp4":
        return pack_mxfp4(values.values, values.scale)
    return Int4Experts.of(_pack_groups(values, scheme))


def _fp8_scale(values: QuantizedValues) -> Tensor:
    """Of the blocks or of the rows."""
    return values.scale if values.is_blocked else values.scale[:, 0].contiguous()


def _pack_groups(values: QuantizedValues, scheme: WeightScheme) -> PackedInt4:
    numbers, zero, order = values.values, values.zero, None
    if zero is None:  # signed numbers of 8 bits
        numbers, zero = numbers.view(torch.uint8) ^ 128, torch.full_like(values.scale, 128)
    if values.groups is not None:
        order = values.groups.argsort(stable=True)
        numbers = numbers.index_select(1, order)
    dtype, group_size = _SCALE_DTYPES[scheme.scale_bytes], values.group_size or values.shape[1]
    scale, offset = values.scale.t().to(dtype), (-values.scale * zero).t().to(dtype)
    return pack_int4(numbers, scale, offset, group_size, order, bits=scheme.bits)
