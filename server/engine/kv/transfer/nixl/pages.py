"""A rank's KV pages as memory: where each block of each layer lies, and what is in it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headway.server.layers.forward import LayerKV

Spans = NDArray[np.uint64]  # [n, 3]: address, bytes, device: what NIXL takes


class Pages:
    """``addresses``: of each layer's keys, then its values where they are apart."""

    def __init__(self, kv: Sequence[LayerKV]) -> None:
        self._tensors = [pages for layer in kv for pages in layer.tensors]
        self.num_layers = len(kv)
        self._per_layer = len(self._tensors) // len(kv)
        first = self._tensors[0]
        self.num_blocks = first.shape[0]
        self.block_bytes = first[0].nbytes
        self.addresses = [pages.data_ptr() for pages in self._tensors]
        self.memory = "VRAM" if first.is_cuda else "DRAM"
        self.device = first.device.index or 0
        self._nbytes = first.nbytes

    @property
    def regions(self) -> list[tuple[int, int, int, str]]:
        """All of it, as NIXL registers memory."""
        return [(address, self._nbytes, self.device, "") for address in self.addresses]

    def mark(self) -> torch.cuda.Event | None:
        """Called where steps are begun: once the device has passed it, nothing writes pages that was begun before. None: of a CPU, where
        nothing does."""
        if self.memory == "DRAM":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def of_layer(self, addresses: Sequence[int], layer: int) -> Sequence[int]:
        """Of ``addresses`` laid out as these pages' own those of one layer."""
        return addresses[self._per_layer * layer : self._per_layer * (layer + 1)]

    def checksums(self, block_ids: Sequence[int], first_layer: int, end_layer: int) -> list[int]:
        """A CRC-32 of each block, over these layers."""
        tensors = self._tensors[self._per_layer * first_layer : self._per_layer * end_layer]
        return [self._checksum(block_id, tensors) for block_id in block_ids]

    def _checksum(self, block_id: int, tensors: Sequence[torch.Tensor]) -> int:
        total = 0
        for pages in tensors:
            total = zlib.crc32(pages[block_id].reshape(-1).view(torch.uint8).cpu().numpy().tobytes(), total)
        return total


def runs_of(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int, int]]:
    """(our first block, their first block, how many) for stretches in which both go up by one: each is one piece of memory."""
    runs: list[tuple[int, int, int]] = []
    for our, their in zip(ours, theirs, strict=True):
        if runs and our == runs[-1][0] + runs[-1][2] and their == runs[-1][1] + runs[-1][2]:
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((our, their, 1))
    return runs


def spans(addresses: Sequence[int], starts: Sequence[int], counts: Sequence[int], block_bytes: int, device: int) -> Spans:
    """The memory of runs of blocks in each of ``addresses``."""
    pieces = [
        (address + start * block_bytes, count * block_bytes, device)
        for address in addresses
        for start, count in zip(starts, counts, strict=True)
    ]
    return np.array(pieces, dtype=np.uint64)
