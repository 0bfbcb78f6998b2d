"""Which model to serve when no option names one: the first that there is of a model directory and HF_MODEL_ID."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headway.server.config.environment import unquoted


def find_model(environ: Mapping[str, str], directory: Path) -> tuple[str, str] | None:
    """(model, where from), or None. Asked for only when neither an option nor SM_VLLM_MODEL names a model.

    The directory counts if it holds a model: SageMaker also puts archives there that hold code alone. It comes before HF_MODEL_ID,
    as in the vLLM image: what was deployed with the endpoint is what is meant.
    """
    if place := model_in(directory):
        return str(place), f"directory {directory}"
    if hub_id := unquoted(environ.get("HF_MODEL_ID", "")):
        return hub_id, "environment HF_MODEL_ID"
    return None


def model_in(directory: Path) -> Path | None:
    """The model in ``directory`` or in its only sub-directory that holds one: a directory with config.json and safetensors, or a
    GGUF file. None where there is none, or more than one that it could be."""
    try:
        if place := _model_right_in(directory):
            return place
        below = [_model_right_in(child) for child in sorted(directory.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    except OSError:
        return None
    places = [place for place in below if place]
    return places[0] if len(places) == 1 else None


def _model_right_in(directory: Path) -> Path | None:
    names = sorted(child.name for child in directory.iterdir())
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return directory
    ggufs = [name for name in names if name.endswith(".gguf")]
    # A GGUF in parts is opened by its first part.
    firsts = [name for name in ggufs if "-of-" not in name or "-00001-of-" in name]
    return directory / firsts[0] if len(firsts) == 1 else None
