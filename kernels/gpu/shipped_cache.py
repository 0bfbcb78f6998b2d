"""Triton's cache of compiled kernels with a second place to look in, which is only read: what an image ships.

Triton finds a kernel by a key of its source, argument types, options, target and Triton's own version, so that what was compiled on
another machine is found or not, and never wrong. But a cache that was copied is empty to Triton: it notes files by absolute paths. Here
they are looked for beside the note.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from triton.runtime.cache import FileCacheManager

from headway.kernels.kernel_tally import TALLY

log = logging.getLogger(__name__)

# Of the image: `triton/` of a server's cache directory, copied.
SHIPPED = Path(sys.prefix) / "share" / "headway" / "triton"


class ShippedCacheManager(FileCacheManager):  # type: ignore[misc]  # Triton is untyped here
    """Triton makes one for each key when the environment's TRITON_CACHE_MANAGER names it. What is compiled goes where it always does,
    or, once that can't be written, into a temporary directory: a kernel may be compiled under a request, which a full disk need not end."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        try:
            super().__init__(key, override=override, dump=dump)
        except OSError as problem:
            self._move(problem)

    def put(self, data: object, filename: str, binary: bool = True) -> str:
        try:
            path: str = super().put(data, filename, binary)
        except OSError as problem:
            self._move(problem)
            path = super().put(data, filename, binary)
        return path

    def _move(self, problem: OSError) -> None:
        log.warning("A compiled kernel can't be kept (%s); it is compiled anew by the next start", problem)
        self.cache_dir = os.path.join(_temporary().name, self.key)
        self.lock_path = os.path.join(self.cache_dir, "lock")
        os.makedirs(self.cache_dir, exist_ok=True)

    def get_file(self, filename: str) -> str | None:
        found: str | None = super().get_file(filename)
        return found if found is not None else self._shipped(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Asked once for each kernel that a process uses."""
        kept: dict[str, str] | None = super().get_group(filename)
        shipped = self._shipped_group(filename) if kept is None else None
        TALLY.kept += kept is not None
        TALLY.shipped += shipped is not None
        TALLY.compiled += kept is None and shipped is None
        return kept if kept is not None else shipped

    def _shipped(self, filename: str) -> str | None:
        path = SHIPPED / self.key / filename
        try:
            if not path.is_file():
                return None
        except OSError:  # a folder that keeps the rights that its server gave it is closed to other users
            _tell_closed(SHIPPED)
            return None
        if not os.access(path, os.R_OK):
            _tell_closed(SHIPPED)
            return None
        return str(path)

    def _shipped_group(self, filename: str) -> dict[str, str] | None:
        note = self._shipped(f"__grp__{filename}")
        if note is None:
            return None
        try:
            names = json.loads(Path(note).read_text())["child_paths"]
        except (OSError, ValueError, KeyError):
            return None  # then it is compiled anew
        files = {name: self._shipped(name) for name in names}
        return {name: path for name, path in files.items() if path is not None} if None not in files.values() else None


@functools.cache
def _tell_closed(shipped: Path) -> None:
    """Once."""
    log.warning("The image's compiled kernels in %s can't be read by this user, and are compiled anew: chmod -R a+rX them", shipped)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Of this process, gone when it ends."""
    return tempfile.TemporaryDirectory(prefix="headway-kernels-")
