"""A tiny mixture whose tokens nearly all go to two experts, which stand beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model

from headway.server.source.files import ModelFiles


def make_skewed_mixture(name: str, directory: Path, **changes: Any) -> ModelFiles:
    """Experts 0 and 1 have routers of opposite signs and large weights: one of them is every token's first."""
    files = make_tiny_model(name, directory, **changes)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for key, tensor in tensors.items():
        if key.endswith((".gate.weight", ".router.weight")):
            tensor[0] *= 500
            tensor[1] = -tensor[0]
    save_file(tensors, path)
    return files
