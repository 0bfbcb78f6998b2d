"""Where something can be written, and the room there: asked for before anything is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.words import amount


def existing(path: Path) -> Path:
    """The nearest that exists of `path` and the directories above it, as far as this user can see."""
    path = path.absolute()
    # Not Path.exists, which raises for a name that is too long and for a directory that is closed to this user.
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def free_bytes(directory: Path) -> int:
    """What this user may still write on the disk of `directory`, which need not exist yet."""
    return shutil.disk_usage(existing(directory)).free


def require_space(num_bytes: int, directory: Path, what: str, instead: str) -> None:
    """Raises ModelSourceError unless `directory` has room for `num_bytes` more. `instead`: what to do but to free space."""
    free = free_bytes(directory)
    if num_bytes > free:
        raise ModelSourceError(
            f"{what} needs {amount(num_bytes)} more on the disk and {directory} has {amount(free)} free; free space there, or {instead}."
        )
