"""The runtime's own directory, gone with it: model data and logs. What a runtime that was killed left, the next one removes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "headway-local-"
_LOCK = ".lock"  # held while the runtime lives: the kernel lets go of it when the process dies, however it does
_MIN_AGE_S = 60.0  # between being made and being locked


class WorkDirectory:
    """``path`` is for this user alone. ``left``: how many directories of dead runtimes were removed."""

    def __init__(self) -> None:
        self.left = sum(map(_remove_left, Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = FileLock(self.path / _LOCK)
        self._lock.acquire(timeout=0)

    def remove(self) -> None:
        """Blocks as long as deleting takes."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _remove_left(directory: Path) -> bool:
    """Whether it was a dead runtime's of this user, and is gone."""
    with contextlib.suppress(OSError, Timeout):
        found = directory.lstat()
        lock = directory / _LOCK
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > _MIN_AGE_S and lock.is_file() and not directory.is_symlink():
            with FileLock(lock, timeout=0):
                shutil.rmtree(directory, ignore_errors=True)
            return not directory.exists()
    return False
