"""GGUF files as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.gguf_file import GgufFile
from headway.server.models.base import DecoderConfig
from headway.server.models.names import WeightName


class GgufCheckpoint:
    """A GGUF file under the loader's protocol; ``names`` and ``config`` say which tensors were reordered and for how many heads."""

    def __init__(self, file: GgufFile, names: tuple[WeightName, ...], config: DecoderConfig) -> None:
        self.origin = file.origin
        self._file = file
        self._num_heads = {
            name.checkpoint.replace("{i}", str(i)): config.num_heads if name.interleaved_heads == "q" else config.num_kv_heads
            for name in names
            if name.interleaved_heads
            for i in range(config.num_layers)
        }

    def tensors(self) -> list[CheckpointTensor]:
        in_file_order = sorted(self._file.index.items(), key=lambda item: item[1].offset)
        return [CheckpointTensor(name, tensor.shape, partial(_tensor, self._reader(name))) for name, tensor in in_file_order]

    def _reader(self, name: str) -> Callable[[], NDArray[np.float32]]:
        if name in self._num_heads:
            return partial(self._file.read_reordered, name, self._num_heads[name])
        return partial(self._file.read, name)


def _tensor(read: Callable[[], NDArray[np.float32]]) -> Tensor:
    values = read()
    # fp32 tensors come as views of the read-only mapping, which torch warns about; they are small (norms).
    return torch.from_numpy(values if values.flags.writeable else values.copy())
