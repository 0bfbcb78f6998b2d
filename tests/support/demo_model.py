"""The demo model for tests: the real one, fetched once into the user's cache."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model


@cache
def demo_files() -> ModelFiles:
    return resolve_model("demo")


def demo_gguf() -> Path:
    """The path of the demo model's GGUF file."""
    return demo_files().path
