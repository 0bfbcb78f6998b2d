"""Which library of attention kernels there is. Nothing falls back: one is used because it was asked for by name."""

from __future__ import annotations

from typing import Literal

import torch

from headway.kernels.attention_library import AttentionLibrary, LibraryInfo, LibraryKind
from headway.kernels.backend import KernelUnavailable
from headway.kernels.libraries import flash_attn, flashinfer

_LEAST_CAPABILITY = (8, 0)  # of all: none has kernels for chips before Ampere


def find_library(backend: Literal["FLASH_ATTN", "FLASHINFER"], capability: tuple[int, int]) -> LibraryInfo:
    """What is installed of ``backend`` for a chip of this compute capability. Raises KernelUnavailable: why there is none."""
    if capability < _LEAST_CAPABILITY:
        raise KernelUnavailable(f"it needs a GPU of compute capability 8.0 or newer, and this one has {capability[0]}.{capability[1]}")
    if backend == "FLASHINFER":
        return flashinfer.found()
    return flash_attn.found(capability)


def open_library(kind: LibraryKind, device: torch.device) -> AttentionLibrary:
    """One that ``find_library`` has told of. Raises KernelUnavailable where this process has none."""
    if kind == "flashinfer":
        return flashinfer.FlashInfer(device)
    return flash_attn.FlashAttention2() if kind == "flash_attn_2" else flash_attn.FlashAttention3()
