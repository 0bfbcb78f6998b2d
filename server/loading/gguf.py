"""GGUF: tensors of any ggml format, mapped and dequantised to fp32 one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.ggml_formats import dequantize
from headway.server.models.base import DecoderConfig
from headway.server.models.names import WeightName
from headway.server.source.gguf_metadata import GgufTensor, read_gguf_header

FULL_PRECISION_TYPES = {0: "float32", 1: "float16", 30: "bfloat16"}  # ggml type -> dtype


class GgufFile:
    """An open GGUF file: metadata without arrays, and tensors."""

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self.metadata, self.index = read_gguf_header(path)
        self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")

    def read(self, name: str) -> NDArray[np.float32]:
        """The whole tensor in fp32; raises ModelSourceError where the file is cut off or the format unknown."""
        return self._dequantize(name, self._rows(name))

    def read_reordered(self, name: str, num_heads: int) -> NDArray[np.float32]:
        """Undoes llama.cpp's reordering of each head's rows: (0, 2, 4, ..., 1, 3, 5, ...) of what the file has.

        It stores rotary pairs side by side, ours are half a head apart. Formats quantise along a row, so rows of bytes are moved.
        """
        num_rows = self.index[name].shape[0]
        rows = self._rows(name).reshape(num_rows, -1)  # of a bias: a number a row
        pairs = rows.reshape(num_heads, num_rows // num_heads // 2, 2, rows.shape[1])
        return self._dequantize(name, np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape))

    def _rows(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, [rows, bytes a row]."""
        import gguf

        tensor = self.index[name]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[_format(tensor, name, self.origin)]
        num_rows = int(np.prod(tensor.shape[:-1])) if len(tensor.shape) > 1 else 1
        row_bytes = tensor.shape[-1] // block_size * block_bytes
        end = tensor.offset + num_rows * row_bytes
        if tensor.shape[-1] % block_size or end > len(self._bytes):
            raise ModelSourceError(f"The tensor {name} reaches past the end of {self.origin}: the file is cut off; download it again.")
        return self._bytes[tensor.offset : end].reshape(num_rows, row_bytes)

    def _dequantize(self, name: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        tensor = self.index[name]
        try:
            return dequantize(rows, tensor.type).reshape(tensor.shape)
        except NotImplementedError as error:
            kind = _format(tensor, name, self.origin).name
            raise ModelSourceError(f"The tensor {name} of {self.origin} has the format {kind}, which can't be read.") from error


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


def _format(tensor: GgufTensor, name: str, origin: str) -> Any:
    import gguf

    try:
        return gguf.GGMLQuantizationType(tensor.type)
    except ValueError as error:
        raise ModelSourceError(f"The tensor {name} of {origin} has the unknown ggml type {tensor.type}.") from error
