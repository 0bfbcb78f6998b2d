"""Weights in the groups of 32 that the blocks of a quantised GGUF have, with activations rounded to 8 bits in the same. CPU only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.grouped_layout import GROUP, GroupedValues, round_to_groups, stack_rows
from headway.kernels.grouped_matmul import PackedGrouped, grouped_linear, pack_grouped
from headway.kernels.int4_layout import gguf_groups
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.weight import Part, Weight


@dataclass(frozen=True, slots=True)
class GgufBlocks:
    """A weight as a GGUF file has it, in one of the formats whose blocks are 4 bits in groups of 32: Q4_0, Q4_1, Q4_K."""

    blocks: Tensor  # [N, bytes of a row] uint8
    kind: str

    def rows(self, first: int, count: int) -> GgufBlocks:
        return GgufBlocks(self.blocks.narrow(0, first, count), self.kind)

    def groups(self) -> GroupedValues:
        return GroupedValues(*gguf_groups(self.blocks, self.kind), 4)


def grouped(weight: QuantizedValues) -> GroupedValues:
    """4 bits whose larger groups are cut in some of 32 with the same scale, and whose zero points become offsets."""
    assert weight.zero is not None, "4 bits are unsigned"
    assert weight.groups is None, "columns are in order"
    num_groups = -(-weight.shape[1] // GROUP)

    def spread(part: Tensor) -> Tensor:
        times = weight.group_size // GROUP or num_groups
        return part.half().repeat_interleave(times, dim=1)[:, :num_groups]

    return GroupedValues(weight.values, spread(weight.scale), spread(-weight.scale * weight.zero), 4)


class GroupedWeight(Weight):
    """One whose parts stay in 4 bits where the file has them so; all others are rounded to 8."""

    def __init__(
        self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[GroupedValues], int], device: torch.device
    ) -> None:
        super().__init__(shape, parts, finish, dtype=torch.float32, device=device)
        self._finish_groups = finish
        self._loaded: dict[str, GroupedValues] = {}

    def load(self, part: str, tensor: Tensor, copy: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> None:
        """Nothing is copied: the values are rounded, to memory of their own."""
        place = self.parts[part]
        self._take(part, round_to_groups(tensor.narrow(place.dim, place.start, place.length)))

    def load_blocks(self, part: str, blocks: GgufBlocks | QuantizedValues) -> None:
        """As ``load``, of a tensor that keeps its bits."""
        place = self.parts[part]
        groups = grouped(blocks) if isinstance(blocks, QuantizedValues) else blocks.groups()
        self._take(part, groups.narrow(place.dim, place.start, place.length))

    def _take(self, part: str, values: GroupedValues) -> None:
        self._loaded[part] = values
        if len(self._loaded) < len(self.parts):
            return
        in_order = sorted(self._loaded, key=lambda name: self.parts[name].offset)
        whole = stack_rows([self._loaded[name] for name in in_order])
        assert tuple(whole.shape) == self.shape, "a vocabulary that is padded for its ranks is not kept in groups"
        self._loaded = {}
        self.num_bytes = self._finish_groups(whole)


@dataclass(frozen=True)
class GroupedLinear:
    """fp32 between the products. Perplexity of the demo model: see tests/models/test_grouped_model.py."""

    device: torch.device
    name: str

    @property
    def stacks_experts(self) -> bool:
        return False

    def for_gated_input(self) -> GroupedLinear:
        return self

    def create(self, shape: tuple[int, ...], parts: dict[str, Part], finish: Callable[[Tensor | GroupedValues], int]) -> Weight:
        if len(shape) == 2:
            return GroupedWeight(shape, parts, finish, self.device)
        return Weight(shape, parts, finish, dtype=torch.float32, device=self.device)

    def pack(self, weight: Tensor | GroupedValues) -> tuple[PackedGrouped, int]:
        packed = pack_grouped(weight if isinstance(weight, GroupedValues) else round_to_groups(weight))
        return packed, packed.num_bytes

    def apply(self, x: Tensor, packed: PackedGrouped, bias: Tensor | None) -> Tensor:
        return grouped_linear(x, packed, bias)
