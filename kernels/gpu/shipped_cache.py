"""Triton's cache of compiled kernels with a second place to look in, which is only read: what an image ships.

Triton finds a kernel by a key of its source, argument types, options, target and Triton's own version, so that what was compiled on
another machine is found or not, and never wrong. But a cache that was copied is empty to Triton: it notes files by absolute paths. Here
they are looked for beside the note.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triton.runtime.cache import FileCacheManager

# Of the image: `triton/` of a server's cache directory, copied.
SHIPPED = Path(sys.prefix) / "share" / "headway" / "triton"


class ShippedCacheManager(FileCacheManager):  # type: ignore[misc]  # Triton is untyped here
    """Triton makes one for each key when the environment's TRITON_CACHE_MANAGER names it. What is compiled goes where it always does."""

    def get_file(self, filename: str) -> str | None:
        found: str | None = super().get_file(filename)
        return found if found is not None else self._shipped(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        found: dict[str, str] | None = super().get_group(filename)
        return found if found is not None else self._shipped_group(filename)

    def _shipped(self, filename: str) -> str | None:
        path = SHIPPED / self.key / filename
        return str(path) if path.is_file() else None

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
