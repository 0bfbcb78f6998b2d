"""The bytes of blocks, copied between a rank's KV pages and buffers in the host's memory, beside its steps.

::

    buffer of a block   [ layer 0: keys | values | layer 1: keys | values | ... ]
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from headway.server.engine.kv.transfer.orders import MAX_SAVED_BLOCKS
from headway.server.engine.transfers import upload
from headway.server.errors import ConfigError
from headway.server.layers.forward import LayerKV
from headway.server.machine import zeroed_memory


class BlockPages(Protocol):
    """Called from one thread, but for ``mark``."""

    block_bytes: int

    def mark(self) -> torch.cuda.Event | None:
        """Called where steps are begun: what was begun until now comes before a copy with this mark."""
        ...

    def read(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        """Fills buffers, at most ``MAX_SAVED_BLOCKS``; they are filled when it returns."""
        ...

    def write(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        """Fills blocks; they are filled when it returns."""
        ...


class HostPages:
    """Of a CPU, whose steps are over when the next order comes. Copied by NumPy: torch would start threads of its own beside those that
    compute."""

    def __init__(self, kv: Sequence[LayerKV]) -> None:
        self._pages = [pages.numpy() for pages in _as_bytes(kv)]
        self._parts, self.block_bytes = _parts([pages.shape[1] for pages in self._pages])

    def mark(self) -> None:
        return None

    def read(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        for block_id, buffer in zip(block_ids, buffers, strict=True):
            block = buffer.numpy()
            for part, pages in zip(self._parts, self._pages, strict=True):
                block[part] = pages[block_id]

    def write(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        for block_id, buffer in zip(block_ids, buffers, strict=True):
            block = buffer.numpy()
            for part, pages in zip(self._parts, self._pages, strict=True):
                pages[block_id] = block[part]


class DevicePages:
    """Of a GPU, on a stream beside that of the steps. The blocks are gathered on the device first: one long copy each over the bus."""

    def __init__(self, kv: Sequence[LayerKV]) -> None:
        self._pages = list(_as_bytes(kv))
        self._device = self._pages[0].device
        self._parts, self.block_bytes = _parts([pages.shape[1] for pages in self._pages])
        self._gathered = torch.empty((MAX_SAVED_BLOCKS, self.block_bytes), dtype=torch.uint8, device=self._device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def read(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        with torch.cuda.stream(self._stream):
            ids, gathered = self._begin(block_ids, mark)
            for part, pages in zip(self._parts, self._pages, strict=True):
                gathered[:, part] = pages[ids]
            for buffer, block in zip(buffers, gathered, strict=True):
                buffer.copy_(block, non_blocking=True)
        self._stream.synchronize()

    def write(self, block_ids: Sequence[int], buffers: Sequence[Tensor], mark: torch.cuda.Event | None) -> None:
        with torch.cuda.stream(self._stream):
            ids, gathered = self._begin(block_ids, mark)
            for buffer, block in zip(buffers, gathered, strict=True):
                block.copy_(buffer, non_blocking=True)
            for part, pages in zip(self._parts, self._pages, strict=True):
                pages[ids] = gathered[:, part]
        self._stream.synchronize()

    def _begin(self, block_ids: Sequence[int], mark: torch.cuda.Event | None) -> tuple[Tensor, Tensor]:
        assert mark is not None, "copies of a GPU come behind what was begun before them"
        self._stream.wait_event(mark)
        return upload(torch.tensor(block_ids, dtype=torch.int64), self._device), self._gathered[: len(block_ids)]


class HostBlocks:
    """``num_blocks`` buffers of a block in the host's memory: pinned where the pages are a GPU's, which copies on its own only there."""

    def __init__(self, num_blocks: int, block_bytes: int, *, is_pinned: bool) -> None:
        """Raises ConfigError where the system does not let that much be pinned."""
        self._memory: mmap.mmap = zeroed_memory(num_blocks * block_bytes)
        self._blocks = torch.frombuffer(self._memory, dtype=torch.uint8).view(num_blocks, block_bytes)
        self._is_pinned = is_pinned
        # Not torch's own pinned memory: it takes the next power of two.
        if is_pinned and int(_runtime().cudaHostRegister(self._blocks.data_ptr(), self._blocks.nbytes, 0)) != 0:
            size = f"{num_blocks * block_bytes} bytes"
            raise ConfigError([f"KV offload: the system does not let {size} of memory be pinned: lower --kv-offloading-size"])

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index]

    def close(self) -> None:
        if self._is_pinned:
            _runtime().cudaHostUnregister(self._blocks.data_ptr())


def pages_of(kv: Sequence[LayerKV]) -> BlockPages:
    return DevicePages(kv) if kv[0].k.is_cuda else HostPages(kv)


def _as_bytes(kv: Sequence[LayerKV]) -> Iterator[Tensor]:
    """Of each layer's keys, then its values where they are apart: [blocks, bytes]."""
    for layer in kv:
        for pages in layer.tensors:
            yield pages.view(pages.shape[0], -1).view(torch.uint8)


def _parts(sizes: Sequence[int]) -> tuple[list[slice], int]:
    """Where pages of these bytes lie in a buffer, and its bytes."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)], ends[-1]


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
