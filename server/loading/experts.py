"""A checkpoint whose experts are in stacks as one that has a tensor for each matrix of each expert, read when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import MXFP4
from headway.server.loading.checkpoint import Blocks, Checkpoint, CheckpointTensor
from headway.server.loading.mxfp4 import mxfp4_values
from headway.server.models.base import DecoderConfig
from headway.server.models.expert_names import ExpertStack
from headway.server.models.names import WeightName


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """By their full names: the stacks that a checkpoint may have, and the matrices of experts that are on other ranks."""

    num_experts: int
    stacks: dict[str, ExpertStack]  # whose parts have ``{e}`` alone
    elsewhere: frozenset[str]

    @property
    def scales(self) -> frozenset[str]:
        return frozenset(stack.scales for stack in self.stacks.values())


def expert_names(
    config: DecoderConfig, names: tuple[WeightName, ...], stacks: tuple[ExpertStack, ...], places: Collection[str]
) -> ExpertNames:
    """``places``: the checkpoint's tensors that this rank's model has a place for."""
    num_layers, num_experts = config.num_layers, config.num_experts
    own = (name.checkpoint for pattern in names if "{e}" in pattern.weight for name in pattern.expanded(num_layers, num_experts))
    elsewhere = frozenset(name for name in own if name not in places)
    return ExpertNames(num_experts, {stack.checkpoint: stack for it in stacks for stack in it.expanded(num_layers)}, elsewhere)


class UnstackedCheckpoint:
    """What is of other ranks is left out."""

    def __init__(self, checkpoint: Checkpoint, names: ExpertNames) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._names = names

    def tensors(self) -> list[CheckpointTensor]:
        names, whole = self._names, self._checkpoint.tensors()
        scales = {tensor.name: tensor for tensor in whole if tensor.name in names.scales}
        found: list[CheckpointTensor] = []
        for tensor in whole:
            if stack := names.stacks.get(tensor.name):
                found += self._elements(tensor, stack, scales)
            elif tensor.name not in scales:
                found.append(tensor)
        return [tensor for tensor in found if tensor.name not in names.elsewhere]

    def _elements(self, tensor: CheckpointTensor, stack: ExpertStack, scales: dict[str, CheckpointTensor]) -> Iterator[CheckpointTensor]:
        if len(tensor.shape) < 2 or tensor.shape[0] != self._names.num_experts:
            raise self._misfit(tensor, f"where its first dimension should be the {self._names.num_experts} experts")
        exponents = None
        if stack.scales:
            exponents = scales.get(stack.scales)
            if exponents is None or exponents.shape != tensor.shape[:-1] or tensor.shape[-1] * 2 != MXFP4.group_size:
                raise self._misfit(tensor, f"which needs {stack.scales} of as many blocks, of 16 bytes each")
        for index in range(self._names.num_experts):
            named = [part.replace("{e}", str(index)) for part in stack.parts]
            if not self._names.elsewhere.issuperset(named):
                element = tensor.at(index)
                yield from _parts(element, stack, named, None if exponents is None else exponents.at(index))

    def _misfit(self, tensor: CheckpointTensor, why: str) -> ModelSourceError:
        return ModelSourceError(
            f"The checkpoint {self.origin} has the tensor {tensor.name} of shape {list(tensor.shape)}, {why}; check that config and "
            "weights belong together."
        )


def _parts(element: CheckpointTensor, stack: ExpertStack, names: list[str], scales: CheckpointTensor | None) -> Iterator[CheckpointTensor]:
    """The weights of one expert that an element of a stack holds."""
    shape = element.shape if scales is None else (scales.shape[0], scales.shape[1] * MXFP4.group_size)
    if stack.is_transposed:
        shape = shape[::-1]
    for index, name in enumerate(names):
        rows, num_rows = partial(_rows, stack=stack, index=index), shape[0] // len(names)
        part = replace(element, name=name, shape=(num_rows, *shape[1:]), span=None)
        if scales is None:
            blocks = None if element.read_blocks is None else partial(_read_blocks, element.read_blocks, index * num_rows, num_rows)
            yield replace(part, read=partial(_read, element, rows), read_blocks=blocks)
        else:
            yield replace(part, read=partial(_dequantised, element, scales, rows), read_blocks=partial(_blocks, element, scales, rows))


def _rows(values: Tensor, stack: ExpertStack, index: int) -> Tensor:
    """Those of the part at ``index``."""
    values, count = values.t() if stack.is_transposed else values, len(stack.parts)
    return values[index::count] if stack.alternate else values.chunk(count)[index]


def _read_blocks(read: Callable[[], Blocks], first: int, count: int) -> Blocks:
    """Of a stack whose parts neither alternate nor are transposed: those of GGUF files, which alone have blocks."""
    return read().rows(first, count)


def _read(element: CheckpointTensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
    return rows(element.read())


def _blocks(element: CheckpointTensor, scales: CheckpointTensor, rows: Callable[[Tensor], Tensor]) -> QuantizedValues:
    return mxfp4_values(rows(element.read()), rows(scales.read()))


def _dequantised(element: CheckpointTensor, scales: CheckpointTensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
    return _blocks(element, scales, rows).dequantize()
