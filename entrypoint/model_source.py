"""Which model to serve when no option names one: the first that there is of a model directory and HF_MODEL_ID."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.server.config.environment import unquoted
from headway.server.errors import ModelSourceError
from headway.server.source.directory import archive_in, model_in, names_in, why_no_model


@dataclass(frozen=True)
class ModelSearch:
    """What a search found: `model` and where from, or None.

    `findings` tells what was looked for in vain, place by place. `advice`: what to do where no model was found.
    """

    model: str | None = None
    source: str = ""
    is_hub_id: bool = False
    findings: tuple[str, ...] = ()
    advice: str = ""

    @property
    def failure(self) -> str:
        """The sentence for a search in vain."""
        return f"no model is found: {'; '.join(('SM_VLLM_MODEL is not set', *self.findings))}; {self.advice}"


def find_model(environ: Mapping[str, str], directory: Path) -> ModelSearch:
    """Looks for a model; what it finds counts only when neither an option nor SM_VLLM_MODEL names one.

    The directory counts if it holds a model: SageMaker also puts archives there that hold code alone. It comes before HF_MODEL_ID,
    as in the vLLM image: what was deployed with the endpoint is what is meant. So a directory that holds a model which can't be
    served, or several, ends the search: another one must not be served in its place unasked.
    """
    try:
        path = _served_from(directory)
    except ModelSourceError as error:
        return ModelSearch(findings=(str(error).removesuffix("."),), advice="or name another model with SM_VLLM_MODEL")
    if path:
        return ModelSearch(str(path), f"directory {directory}")
    finding = why_no_model(directory) if os.path.isdir(directory) else f"{directory} does not exist"
    if hub_id := unquoted(environ.get("HF_MODEL_ID", "")):
        passed_over = f"; {finding}" if names_in(directory) else ""
        return ModelSearch(hub_id, f"environment HF_MODEL_ID{passed_over}", is_hub_id=True)
    return ModelSearch(findings=(finding, "HF_MODEL_ID is not set"), advice="set one of the two (`demo` is a small model to try)")


def _served_from(directory: Path) -> Path | None:
    """The directory with config.json and safetensors, the GGUF file or the archive that a directory holds."""
    if not os.path.isdir(directory):  # unlike Path.is_dir it bears names that are too long and places that are closed to this user
        return None
    files = model_in(directory)
    return files.path if files else archive_in(directory)
