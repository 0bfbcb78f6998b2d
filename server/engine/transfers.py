"""Copies between the host and the device that neither waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on the device. A GPU copies on its own only out of pinned memory, of which torch keeps some ready."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Arrival:
    """Tensors on their way to the host. Made right behind the work that fills them, and does not wait for any that comes later."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """All on one device. A GPU's may be overwritten by later work; a CPU's are there already, and must be left alone."""
        self._event: torch.cuda.Event | None = None
        self._tensors = list(tensors)
        if tensors and tensors[0].is_cuda:
            self._tensors = [_pinned(tensor).copy_(tensor, non_blocking=True) for tensor in tensors]
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def _pinned(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
