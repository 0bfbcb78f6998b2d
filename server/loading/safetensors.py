"""Safetensors: one file, or shards named by an index. Tensors are views of the mapped files, so bytes go to their place once."""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.source.weights import weight_files

# The kernel need not keep memory ready for a copy of the file, which nobody writes to: a model larger than the host's memory may be on
# its way to a GPU. Python's mmap has no name for it yet; Linux has this number on all machines that torch runs on.
_MAP_NORESERVE = 0x4000
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _Entry(NamedTuple):
    name: str
    dtype: str  # a key of _DTYPES
    shape: tuple[int, ...]
    start: int  # in the file
    end: int

    def at(self, index: int) -> _Entry:
        """Element ``index`` of the first dimension."""
        return self.span(index, 1)._replace(name=f"{self.name}[{index}]", shape=self.shape[1:])

    def span(self, first: int, count: int) -> _Entry:
        """``count`` elements of the first dimension from ``first`` on."""
        size = (self.end - self.start) // self.shape[0]
        start = self.start + first * size
        return _Entry(self.name, self.dtype, (count, *self.shape[1:]), start, start + count * size)


class SafetensorsCheckpoint:
    """The files stay mapped as long as this or a tensor lives; a tensor's pages are given back once it is ``done``."""

    def __init__(self, directory: Path) -> None:
        self.origin = str(directory)
        self._files = [_File(path) for path in weight_files(directory)]

    def tensors(self) -> list[CheckpointTensor]:
        found: dict[str, CheckpointTensor] = {}
        for file in self._files:
            for entry in file.entries:
                if entry.name in found:
                    raise ModelSourceError(
                        f"The tensor {entry.name} is in more than one file of {self.origin}; remove the files that don't belong."
                    )
                found[entry.name] = _tensor(file, entry)
        return list(found.values())


class _File:
    """``entries`` in the file's order, in which a disk reads best."""

    def __init__(self, path: Path) -> None:
        with _readable(path):
            # By the library: whether header and length of the file are right, and every tensor has the bytes that its shape asks for. Its
            # mapping for numpy needs no memory kept ready; that for torch asks for as much as the file has.
            with safe_open(path, framework="np"):
                pass
            with open(path, "rb") as file:
                (header_bytes,) = struct.unpack("<Q", file.read(8))
                self.entries = sorted(_entries(json.loads(file.read(header_bytes)), 8 + header_bytes, path), key=lambda entry: entry.start)
                # Writable, as torch wants its memory; private, so that the file can't change.
                flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
                self._map = mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
            if any(entry.end > len(self._map) for entry in self.entries):
                raise ValueError("it became shorter while it was opened")

    def read(self, entry: _Entry) -> Tensor:
        """A view; the disk starts to read what is not in memory."""
        dtype = _DTYPES[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        self._advise(mmap.MADV_WILLNEED, entry)
        return (
            torch.frombuffer(self._map, dtype=torch.uint8, offset=entry.start, count=entry.end - entry.start).view(dtype).view(entry.shape)
        )

    def give_back(self, entry: _Entry) -> None:
        """Its pages are this process's no more, but still the page cache's: who reads the view again finds the same."""
        if entry.start < entry.end:
            self._advise(mmap.MADV_DONTNEED, entry)

    def _advise(self, what: int, entry: _Entry) -> None:
        start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
        with contextlib.suppress(OSError):  # only advice: some file systems and sandboxes know nothing of it, and locked pages stay
            self._map.madvise(what, start, entry.end - start)


def _tensor(file: _File, entry: _Entry) -> CheckpointTensor:
    read, done = partial(file.read, entry), partial(file.give_back, entry)
    return CheckpointTensor(
        entry.name,
        entry.shape,
        read,
        done,
        at=lambda index: _tensor(file, entry.at(index)),
        span=lambda first, count: _tensor(file, entry.span(first, count)),
    )


def _entries(header: dict[str, dict[str, object]], data_start: int, path: Path) -> Iterator[_Entry]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[misc]
        if dtype not in _DTYPES:
            raise ModelSourceError(f"The tensor {name} of {path} has the dtype {dtype}, which can't be read.")
        yield _Entry(name, str(dtype), tuple(shape), data_start + start, data_start + end)  # type: ignore[arg-type,has-type]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What opening a file raises becomes one ModelSourceError; a file may also be replaced meanwhile, so that its header is another."""
    try:
        yield
    except FileNotFoundError as error:
        raise ModelSourceError(f"The weight file {path} is missing; copy or download the model again.") from error
    except OSError as error:
        why = error.strerror or error
        raise ModelSourceError(f"The weight file {path} can't be read ({why}); check its permissions and its disk.") from error
    except (SafetensorError, struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelSourceError(f"The weight file {path} is damaged or cut off ({error}); copy or download it again.") from error
