"""The key-value header of a GGUF file, read without touching the tensors.

The `gguf` package's GGUFReader keeps a numpy view for every string of every array: 2.0 s for the 98,000 strings of a
49,152-token vocabulary on a 2-core machine. This one takes 0.04 s (2026-11-24), of a start that may take ten.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from headway.server.errors import ModelSourceError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
# GGUF value type -> struct code
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def read_gguf_metadata(path: Path, *, arrays: bool | Collection[str] = True) -> dict[str, Any]:
    """The metadata of a GGUF file as plain Python values: str, int, float, bool and lists of these.

    `arrays`: read all arrays, none, or those keys only; an array that isn't read is absent from the result.
    Raises ModelSourceError where the file is not a readable little-endian GGUF of version 2 or 3.
    """
    return _read(path, arrays, _Header.read)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. ``shape`` is row-major, outermost first; ``type`` is the number that ggml gives the format."""

    shape: tuple[int, ...]
    type: int
    offset: int  # bytes from the beginning of the file


def read_gguf_header(path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """The metadata without its arrays, and the tensors by name. Raises as read_gguf_metadata does."""
    return _read(path, False, lambda header: (header.read(), header.tensors()))


_T = TypeVar("_T")


def _read(path: Path, arrays: bool | Collection[str], do: Callable[[_Header], _T]) -> _T:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return do(_Header(data, arrays))
    except OSError as error:
        raise ModelSourceError(f"The GGUF file {path} cannot be read: {error.strerror or error}.") from error
    except _NotGguf as error:
        raise ModelSourceError(f"{path} is not a usable GGUF file: {error}; download it again or convert the model anew.") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise ModelSourceError(f"The header of the GGUF file {path} is damaged or cut off ({error}); download it again.") from error


class _NotGguf(Exception):
    pass


class _Header:
    """A cursor over the mapped file."""

    def __init__(self, data: mmap.mmap, arrays: bool | Collection[str]) -> None:
        self.data = data
        self.arrays = arrays
        self.at = 0
        self.alignment = 32

    def read(self) -> dict[str, Any]:
        if self.data[:4] != _MAGIC:
            raise _NotGguf(f"it does not begin with {_MAGIC.decode()}")
        (version,) = _U32.unpack_from(self.data, 4)
        if version not in (2, 3):
            raise _NotGguf(f"version {version if version < 65536 else 'of a big-endian machine'} is not supported, 2 and 3 are")
        (num_keys,) = _U64.unpack_from(self.data, 16)
        self.at = 24
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            kind = self._u32()
            if kind != _ARRAY:
                metadata[key] = self._value(kind)
            elif self.arrays is True or (self.arrays is not False and key in self.arrays):
                metadata[key] = self._array()
            else:
                self._skip_array()
        self.alignment = metadata.get("general.alignment", 32)
        if not isinstance(self.alignment, int) or self.alignment < 1:
            raise _NotGguf(f"its general.alignment is {self.alignment!r}")
        return metadata

    def tensors(self) -> dict[str, GgufTensor]:
        """What follows the metadata; ``read`` comes first."""
        (num_tensors,) = _U64.unpack_from(self.data, 8)
        found: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(num_tensors):
            name = self._string()
            shape = tuple(self._numbers(10, self._u32()))[::-1]
            found[name] = (shape, self._u32(), self._u64())
        start = -(-self.at // self.alignment) * self.alignment
        return {name: GgufTensor(shape, kind, start + offset) for name, (shape, kind, offset) in found.items()}

    def _u32(self) -> int:
        (number,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(number)

    def _u64(self) -> int:
        (number,) = _U64.unpack_from(self.data, self.at)
        self.at += 8
        return int(number)

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        data, at, unpack = self.data, self.at, _U64.unpack_from
        strings = []
        for _ in range(count):
            end = at + 8 + unpack(data, at)[0]
            if end > len(data):
                raise ValueError("a string reaches past the end of the file")
            # Token strings of a few models are no valid UTF-8; they must stay distinguishable all the same.
            strings.append(data[at + 8 : end].decode("utf-8", "surrogateescape"))
            at = end
        self.at = at
        return strings

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        return self._numbers(kind, 1)[0]

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        numbers = struct.Struct(f"<{count}{_SCALARS[kind]}")
        values = numbers.unpack_from(self.data, self.at)
        self.at += numbers.size
        return list(values)

    def _array(self) -> list[Any]:
        kind, count = self._u32(), self._u64()
        if count > len(self.data):
            raise ValueError(f"an array of {count} values is longer than the file")
        if kind == _STRING:
            return self._strings(count)
        if kind == _ARRAY:
            return [self._array() for _ in range(count)]
        return self._numbers(kind, count)

    def _skip_array(self) -> None:
        (kind,) = _U32.unpack_from(self.data, self.at)
        if kind in _SCALARS:
            self.at += 4
            num_bytes = self._u64() * struct.calcsize(f"<{_SCALARS[kind]}")
            self.at += num_bytes
        else:
            self._array()
