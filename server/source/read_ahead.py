"""Tells the kernel to read a model's weights into memory, while whoever needs them is not ready yet."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.source.gguf_parts import parts_of
from headway.server.source.weights import weight_files

_MAX_SHARE = 0.5  # of the memory that is free: read ahead into more than there is, and the first pages go before they are used


def read_ahead(files: ModelFiles, available_bytes: int) -> threading.Thread | None:
    """Starts it in a thread, since the call waits where the disk's queue is full. None: too much for the memory, or no such call here.

    Nothing is kept: the pages are the page cache's.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        paths = [path for path in _weights_of(files) if path.is_file()]
        num_bytes = sum(path.stat().st_size for path in paths)
    except (ModelSourceError, OSError):
        return None  # the engine will say what is wrong
    if num_bytes > _MAX_SHARE * available_bytes:
        return None
    thread = threading.Thread(target=_advise, args=(paths,), daemon=True, name="read-ahead")
    thread.start()
    return thread


def _weights_of(files: ModelFiles) -> list[Path]:
    gguf = files.gguf
    return weight_files(files.path) if gguf is None else [gguf.with_name(name) for name in parts_of(gguf.name)]


def _advise(paths: list[Path]) -> None:
    for path in paths:
        try:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # the engine will say what is wrong
