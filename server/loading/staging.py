"""Copies into a device's memory: on a GPU through pinned buffers, so that the next piece is read while this one is on its way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Copy = Callable[[Tensor, Tensor], object]  # (target, source) of one shape; converts the dtype

_BUFFER_BYTES = 32 * 2**20
_NUM_BUFFERS = 3


def copy_for(device: torch.device) -> Copy:
    """The copy that fills weights on ``device``, in the order of its current stream."""
    return StagedCopy(device) if device.type == "cuda" else Tensor.copy_


class StagedCopy:
    """A tensor of the host goes in pieces of some rows, each converted into the next free buffer and sent without waiting for it.

    From pageable memory the driver would copy each piece into a buffer of its own and wait. The buffers end with this object; torch
    waits for the copies out of their memory, and keeps it pinned for what it pins next.
    """

    def __init__(self, device: torch.device, buffer_bytes: int = _BUFFER_BYTES, num_buffers: int = _NUM_BUFFERS) -> None:
        self._buffers = [_Buffer(device, buffer_bytes) for _ in range(num_buffers)]
        self._buffer_bytes = buffer_bytes
        self._next = 0

    def __call__(self, target: Tensor, source: Tensor) -> None:
        row_bytes = math.prod(target.shape[1:]) * target.element_size()
        if source.device.type != "cpu" or target.dim() == 0 or row_bytes > self._buffer_bytes:
            target.copy_(source)
            return
        for rows in pieces(len(target), max(row_bytes, 1), self._buffer_bytes):
            self._buffers[self._next].send(target[rows], source[rows])
            self._next = (self._next + 1) % len(self._buffers)


class _Buffer:
    def __init__(self, device: torch.device, num_bytes: int) -> None:
        is_cuda = device.type == "cuda"
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._sent = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]

    def send(self, target: Tensor, source: Tensor) -> None:
        if self._sent is not None:
            self._sent.synchronize()  # what was sent from here before
        piece = self._memory[: target.numel() * target.element_size()].view(target.dtype).view(target.shape)
        piece.copy_(source)
        target.copy_(piece, non_blocking=True)
        if self._sent is not None:
            self._sent.record()


def pieces(num_rows: int, row_bytes: int, piece_bytes: int) -> Iterator[slice]:
    """All rows in order, as many at a time as ``piece_bytes`` hold, which is one at least."""
    step = piece_bytes // row_bytes
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
