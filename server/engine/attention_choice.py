"""Whose attention kernels run: what --attention-backend asks for, found on this machine or refused."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, cast

import torch

from headway.kernels.attention_library import AttentionLibrary, LibraryInfo
from headway.kernels.backend import KernelUnavailable
from headway.kernels.libraries.installed import find_library, open_library
from headway.server.config.attention import AttentionKind
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError


def chosen_library(config: ServerConfig, device: torch.device) -> LibraryInfo | None:
    """On a GPU, if any is asked for. None: Headway's own. Raises ConfigError where what was asked for by name can't be had."""
    asked = config.attention.attention_backend
    if asked == "auto":
        return None
    if not config.attention.asks_for_library:
        if find_spec("triton") is None:
            raise ConfigError([f"--attention-backend {asked}: the package triton is not installed: install it, or leave the option out"])
        return None
    try:
        return find_library(cast(Literal["FLASH_ATTN", "FLASHINFER"], asked), torch.cuda.get_device_capability(device))
    except KernelUnavailable as problem:
        raise ConfigError(
            [f"--attention-backend {asked}: {problem}: leave it out, or add what it needs as docs/kernels.md says"]
        ) from problem


def opened_library(kind: AttentionKind, device: torch.device) -> AttentionLibrary | None:
    """That of a plan, in the process of a rank. Raises ConfigError on a host that lacks what the engine's has."""
    if kind == "own":
        return None
    try:
        return open_library(kind, device)
    except KernelUnavailable as problem:
        raise ConfigError([f"--attention-backend: {problem} where this rank runs; install it on every host"]) from problem
