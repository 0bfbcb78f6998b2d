"""An open GGUF file: its metadata, and tensors of any ggml format, mapped and dequantised to fp32 one by one. No torch."""

from __future__ import annotations

import contextlib
import math
import mmap
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.server.errors import ModelSourceError
from headway.server.loading.ggml_formats import dequantize
from headway.server.source.gguf_metadata import GgufTensor, read_gguf_header
from headway.server.source.gguf_parts import parts_of

FULL_PRECISION_TYPES = {0: "float32", 1: "float16", 30: "bfloat16"}  # ggml type -> dtype
_MAX_DIMENSIONS = 4  # of ggml
# Whose blocks have a scale and an offset for 32 weights, which they need no rounding to be kept in.
FOUR_BIT_TYPES = {2: "Q4_0", 3: "Q4_1", 12: "Q4_K"}
GROUPED_TYPES = FOUR_BIT_TYPES | {6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 13: "Q5_K"}


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Elements of a tensor's first dimension."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class _Mapped:
    """The bytes of a file."""

    path: Path
    memory: mmap.mmap
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, path: Path) -> _Mapped:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(path, memory, np.frombuffer(memory, dtype=np.uint8))


class GgufFile:
    """Metadata without arrays, and tensors, of all parts where there are several: see source/gguf_parts.py."""

    def __init__(self, path: Path) -> None:
        """``path``: the first part. Raises ModelSourceError where parts are not of one model."""
        self.origin = str(path)
        self.metadata, self.index = read_gguf_header(path)
        self._mapped: dict[str, _Mapped] = dict.fromkeys(self.index, _Mapped.of(path))
        names = parts_of(path.name)
        _check_part(path, self.metadata, 0, len(names))
        for number, name in enumerate(names[1:], 1):
            part = path.with_name(name)
            metadata, index = read_gguf_header(part)
            _check_part(part, metadata, number, len(names))
            if twice := next(iter(index.keys() & self.index.keys()), None):
                raise ModelSourceError(f"The tensor {twice} is in {part} and in another part of the model; download them again.")
            self.index |= index
            self._mapped |= dict.fromkeys(index, _Mapped.of(part))
        for name, tensor in self.index.items():
            if not 1 <= len(tensor.shape) <= _MAX_DIMENSIONS or min(tensor.shape) < 1:
                shape = reprlib.repr(list(tensor.shape))
                raise ModelSourceError(
                    f"The tensor {name[:200]} of {self.origin} has the shape {shape}: the file is damaged; download it again."
                )

    def in_order(self) -> list[tuple[str, GgufTensor]]:
        """The tensors as they lie in the files."""
        return sorted(self.index.items(), key=lambda item: (self._mapped[item[0]].path.name, item[1].offset))

    def require_whole(self) -> None:
        """Raises ModelSourceError where the file ends before a tensor does, or holds one in an unknown format."""
        for name in self.index:
            self._rows(name)

    def read(self, name: str, num_heads: int | None = None) -> NDArray[np.float32]:
        """The whole tensor in fp32, its rows as ``rows`` has them; raises ModelSourceError where the format is unknown, or as ``rows``."""
        return self._values(name, self.rows(name, num_heads), self.index[name].shape)

    def read_span(self, name: str, span: RowSpan) -> NDArray[np.float32]:
        """As ``read``, [count, ...]."""
        return self._values(name, self.span_rows(name, span), (span.count, *self.index[name].shape[1:]))

    def span_rows(self, name: str, span: RowSpan) -> NDArray[np.uint8]:
        """As ``rows``, of a span of them."""
        rows, num_elements = self._rows(name), self.index[name].shape[0]
        if len(self.index[name].shape) == 1:
            return rows  # a vector is one row of the file, and read as a whole
        size = len(rows) // num_elements
        return rows[span.first * size : (span.first + span.count) * size]

    def give_back(self, name: str, span: RowSpan | None = None) -> None:
        """The pages of the tensor, or of a span of it, are this process's no more; who reads it again finds the same."""
        rows = self._rows(name) if span is None else self.span_rows(name, span)
        mapped = self._mapped[name]
        start = rows.ctypes.data - mapped.data.ctypes.data
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        with contextlib.suppress(OSError):  # only advice, as of safetensors
            mapped.memory.madvise(mmap.MADV_DONTNEED, page, start + rows.nbytes - page)

    def _values(self, name: str, rows: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = self.index[name]
        try:
            return dequantize(rows, tensor.type).reshape(shape)
        except NotImplementedError as error:
            kind = _format(tensor, name, self.origin).name
            raise ModelSourceError(f"The tensor {name} of {self.origin} has the format {kind}, which can't be read.") from error

    def rows(self, name: str, num_heads: int | None = None) -> NDArray[np.uint8]:
        """The tensor's bytes, [rows, bytes a row]; raises ModelSourceError where the file is cut off.

        ``num_heads`` undoes llama.cpp's reordering of each head's rows: (0, 2, 4, ..., 1, 3, 5, ...) of what the file has. It stores
        rotary pairs side by side, ours are half a head apart. Formats quantise along a row, so rows of bytes are moved.
        """
        rows = self._rows(name)
        if num_heads is None:
            return rows
        num_rows = self.index[name].shape[0]
        by_row = rows.reshape(num_rows, -1)  # of a bias: a number a row
        pairs = by_row.reshape(num_heads, num_rows // num_heads // 2, 2, by_row.shape[1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(by_row.shape)

    def _rows(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, [rows, bytes a row]."""
        import gguf

        tensor, mapped = self.index[name], self._mapped[name]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[_format(tensor, name, self.origin)]
        num_rows = math.prod(tensor.shape[:-1])
        row_bytes = tensor.shape[-1] // block_size * block_bytes
        end = tensor.offset + num_rows * row_bytes
        if tensor.shape[-1] % block_size or end > len(mapped.data):
            raise ModelSourceError(f"The tensor {name} reaches past the end of {mapped.path}: the file is cut off; download it again.")
        return mapped.data[tensor.offset : end].reshape(num_rows, row_bytes)


def _check_part(path: Path, metadata: dict[str, Any], number: int, count: int) -> None:
    """That the file says of itself what its name says."""
    own_number, own_count = metadata.get("split.no", 0), metadata.get("split.count", 0) or 1
    if (own_number, own_count) != (number, count):
        name = f"part {number + 1} of {count} of a model" if count > 1 else "a whole model"
        raise ModelSourceError(
            f"{path} has the name of {name} and the content of part {_part(own_number, 1)} of {_part(own_count, 0)}: "
            "give all parts the names that they were made with, NAME-00001-of-00003.gguf and so on, in one directory."
        )


def _part(value: Any, offset: int) -> str:
    """As people count; whatever else may stand in a file as it stands there, cut."""
    return str(value + offset) if type(value) is int else reprlib.repr(value)


def _format(tensor: GgufTensor, name: str, origin: str) -> Any:
    import gguf

    try:
        return gguf.GGMLQuantizationType(tensor.type)
    except ValueError as error:
        raise ModelSourceError(f"The tensor {name} of {origin} has the unknown ggml type {tensor.type}.") from error
