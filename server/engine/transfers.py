"""Copies between the host and the device that neither waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on the device. A GPU copies on its own only out of pinned memory, of which torch keeps some ready."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
