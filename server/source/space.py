"""Room on the disk, asked for before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.words import amount


def free_bytes(directory: Path) -> int:
    """What this user may still write on the disk of `directory`, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (directory, *directory.absolute().parents) if place.exists())).free


def require_space(num_bytes: int, directory: Path, what: str, instead: str) -> None:
    """Raises ModelSourceError unless `directory` has room for `num_bytes` more. `instead`: what to do but to free space."""
    free = free_bytes(directory)
    if num_bytes > free:
        raise ModelSourceError(
            f"{what} needs {amount(num_bytes)} more on the disk and {directory} has {amount(free)} free; free space there, or {instead}."
        )
