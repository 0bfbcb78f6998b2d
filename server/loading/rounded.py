"""A checkpoint whose linear weights are rounded to few bits as they are read, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from headway.kernels.hadamard import block_of
from headway.server.layers.quant.grouped import GroupedWeight
from headway.server.layers.quant.kept import QuantizedWeight
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.rounding import round_weight
from headway.server.layers.quant.scheme import WeightScheme
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor
from headway.server.loading.filling import Place
from headway.server.models.names import HEAD


class RoundedCheckpoint:
    """All that goes to linears, whatever the checkpoint has it in, but the head: its rows decide between tokens that are close."""

    def __init__(self, checkpoint: Checkpoint, scheme: WeightScheme, places: Mapping[str, Sequence[Place]]) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._scheme = scheme
        self._places = places

    def tensors(self) -> list[CheckpointTensor]:
        return [self._rounded(tensor) for tensor in self._checkpoint.tensors()]

    def _rounded(self, tensor: CheckpointTensor) -> CheckpointTensor:
        places = self._places.get(tensor.name, ())
        if not places or any(place.name == HEAD or not isinstance(place.weight, GroupedWeight | QuantizedWeight) for place in places):
            return _plain(tensor)
        # Of this rank's columns, so that no block reaches into another's.
        block = block_of(places[0].weight.shape[1], self._scheme.spread)
        read = partial(_read, tensor, self._scheme, is_transposed=places[0].source.is_transposed, block=block)
        return replace(tensor, read_blocks=read, span=None)


def _plain(tensor: CheckpointTensor) -> CheckpointTensor:
    """Without the blocks that its file may have."""
    span = tensor.span
    return replace(tensor, read_blocks=None, span=None if span is None else lambda first, count: _plain(span(first, count)))


def _read(tensor: CheckpointTensor, scheme: WeightScheme, *, is_transposed: bool, block: int) -> QuantizedValues:
    weight = tensor.read()
    values = round_weight(weight.t() if is_transposed else weight, scheme, block)
    tensor.done()  # now, not when its turn to be packed has come: what is read ahead is then held in few bits only
    return values
