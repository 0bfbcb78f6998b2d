"""Tensors whose memory on a device was given back while their contents wait in the host's memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, UntypedStorage


class HostCopies:
    """Made of tensors that nobody uses until ``restore``. They stay the objects that they are, and share memory as they did before:
    what is emptied and filled again is the storage below them.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Copies everything, then frees it. Raises where the host has no room, and then nothing has changed."""
        storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors) if storage.nbytes()}
        self._copies = [(storage, _copy(storage)) for storage in storages.values()]
        for storage, _ in self._copies:
            storage.resize_(0)

    @property
    def num_bytes(self) -> int:
        return sum(copy.nbytes for _, copy in self._copies)

    def restore(self) -> None:
        """Raises where the device has no room, and then all is as before the call."""
        try:
            for storage, copy in self._copies:
                storage.resize_(copy.nbytes)
                _bytes_of(storage).copy_(copy, non_blocking=True)
        except BaseException:
            for storage, _ in self._copies:
                storage.resize_(0)
            raise


def _copy(storage: UntypedStorage) -> Tensor:
    """Pinned for a GPU: the way back is then as fast as the bus."""
    copy = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=storage.device.type == "cuda")
    return copy.copy_(_bytes_of(storage))


def _bytes_of(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
