"""The demo model for tests: the real one, fetched once into the user's cache."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from headway.server.source.cache import cache_directory
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model


@cache
def demo_files() -> ModelFiles:
    return resolve_model("demo", cache_dir=cache_directory(os.environ))


def demo_gguf() -> Path:
    """The path of the demo model's GGUF file."""
    return demo_files().path
