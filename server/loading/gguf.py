"""GGUF files as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.server.layers.quant.grouped import GgufBlocks
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.gguf_file import GROUPED_TYPES, GgufFile, RowSpan
from headway.server.loading.gguf_latents import with_whole_latents
from headway.server.models.base import DecoderConfig
from headway.server.models.names import WeightName
from headway.server.source.gguf_metadata import GgufTensor

# Matrices of one row, which llama.cpp's converter wrote as vectors until 2025.
_OF_ONE_ROW = (".ffn_gate_inp_shexp.weight",)


class GgufCheckpoint:
    """A GGUF file under the loader's protocol; ``names`` and ``config`` say which tensors were reordered and for how many heads."""

    def __init__(self, file: GgufFile, names: tuple[WeightName, ...], config: DecoderConfig) -> None:
        self.origin = file.origin
        self._file = file
        self._has_latents = config.latent is not None
        self._num_heads = {
            name.checkpoint.replace("{i}", str(i)): config.num_heads if name.interleaved_heads == "q" else config.num_kv_heads
            for name in names
            if name.interleaved_heads
            for i in range(config.num_layers)
        }

    def tensors(self) -> list[CheckpointTensor]:
        found = [self._tensor(name, tensor) for name, tensor in self._file.in_order()]
        return with_whole_latents(found, self.origin) if self._has_latents else found

    def _tensor(self, name: str, tensor: GgufTensor) -> CheckpointTensor:
        file, num_heads = self._file, self._num_heads.get(name)
        if name.endswith(_OF_ONE_ROW) and len(tensor.shape) == 1:
            return CheckpointTensor(name, (1, *tensor.shape), lambda: _own(file.read(name)).unsqueeze(0))
        if num_heads is None:
            return self._of_rows(name, tensor, RowSpan(0, tensor.shape[0]))
        return CheckpointTensor(
            name,
            tensor.shape,
            lambda: _own(file.read(name, num_heads)),
            partial(file.give_back, name),
            _blocks(tensor, partial(file.rows, name, num_heads)),
        )

    def _of_rows(self, name: str, tensor: GgufTensor, span: RowSpan) -> CheckpointTensor:
        """Elements of the first dimension."""
        file = self._file
        return CheckpointTensor(
            name,
            (span.count, *tensor.shape[1:]),
            lambda: _own(file.read_span(name, span)),
            partial(file.give_back, name, span),
            _blocks(tensor, partial(file.span_rows, name, span)),
            at=partial(self._element, name, tensor),
            span=lambda first, count: self._of_rows(name, tensor, RowSpan(span.first + first, count)),
        )

    def _element(self, name: str, tensor: GgufTensor, index: int) -> CheckpointTensor:
        one = self._of_rows(name, tensor, RowSpan(index, 1))
        return replace(one, name=f"{name}[{index}]", shape=tensor.shape[1:], read=lambda: one.read()[0], span=None)


def _blocks(tensor: GgufTensor, rows: Callable[[], NDArray[Any]]) -> Callable[[], GgufBlocks] | None:
    """What reads the tensor as it is in the file, where that is in groups of 32."""
    kind = GROUPED_TYPES.get(tensor.type)
    return None if kind is None else lambda: GgufBlocks(_own(rows()), kind)


def _own(values: NDArray[Any]) -> Tensor:
    # fp32 tensors and blocks come as views of the read-only mapping, which torch warns about; they are small.
    return torch.from_numpy(values if values.flags.writeable else values.copy())
