"""GGUF files as checkpoints."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.server.layers.quant.grouped import GgufBlocks
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.gguf_file import FOUR_BIT_TYPES, GgufFile
from headway.server.models.base import DecoderConfig
from headway.server.models.names import WeightName
from headway.server.source.gguf_metadata import GgufTensor


class GgufCheckpoint:
    """A GGUF file under the loader's protocol; ``names`` and ``config`` say which tensors were reordered and for how many heads.

    ``in_blocks``: tensors that are wanted as they are in the file, where that is 4 bits in groups of 32."""

    def __init__(
        self, file: GgufFile, names: tuple[WeightName, ...], config: DecoderConfig, in_blocks: frozenset[str] = frozenset()
    ) -> None:
        self.origin = file.origin
        self._file = file
        self._in_blocks = in_blocks
        self._num_heads = {
            name.checkpoint.replace("{i}", str(i)): config.num_heads if name.interleaved_heads == "q" else config.num_kv_heads
            for name in names
            if name.interleaved_heads
            for i in range(config.num_layers)
        }

    def tensors(self) -> list[CheckpointTensor]:
        in_file_order = sorted(self._file.index.items(), key=lambda item: item[1].offset)
        return [self._tensor(name, tensor) for name, tensor in in_file_order]

    def _tensor(self, name: str, tensor: GgufTensor) -> CheckpointTensor:
        num_heads, kind = self._num_heads.get(name), FOUR_BIT_TYPES.get(tensor.type)
        read_blocks = None
        if kind is not None and name in self._in_blocks:
            read_blocks = partial(_blocks, self._file, name, num_heads, kind)
        return CheckpointTensor(name, tensor.shape, partial(_tensor, self._file, name, num_heads), read_blocks=read_blocks)


def _blocks(file: GgufFile, name: str, num_heads: int | None, kind: str) -> GgufBlocks:
    return GgufBlocks(_own(file.rows(name, num_heads)), kind)


def _tensor(file: GgufFile, name: str, num_heads: int | None) -> Tensor:
    return _own(file.read(name, num_heads))


def _own(values: NDArray[Any]) -> Tensor:
    # fp32 tensors and blocks come as views of the read-only mapping, which torch warns about; they are small.
    return torch.from_numpy(values if values.flags.writeable else values.copy())
