"""Where headway keeps what it fetches or derives itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str]) -> Path:
    """HEADWAY_CACHE, else `headway` in the user's cache directory."""
    if named := environ.get("HEADWAY_CACHE"):
        return Path(named)
    return Path(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "headway"
