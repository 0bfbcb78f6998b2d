"""A whole model of a few kB for `headway check`, and the command run on it in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from dummy_model import write_dummy_model
from safetensors.numpy import save_file

from headway.container.check.model_files import look_at_model
from headway.container.check.model_look import ModelLook
from headway.container.settings import Settings

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_whole_model(directory: Path, **changes: Any) -> Path:
    """Two shards with their index, a tokenizer and a chat template; ``changes`` to its config."""
    write_dummy_model(directory, **changes)
    shards = {f"model-0000{number}-of-00002.safetensors": f"tensor.{number}" for number in (1, 2)}
    for name, tensor in shards.items():
        save_file({tensor: np.zeros((4, 8), np.float32)}, directory / name)
    index = {"metadata": {}, "weight_map": {tensor: name for name, tensor in shards.items()}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def look_at(name: object, *, words: tuple[str, ...] = (), environ: Mapping[str, str] | None = None, **given: Any) -> ModelLook:
    """``given``: is_offline."""
    settings = Settings(environ or {}, (str(name), *words), None, {})
    return look_at_model(settings.examine()[0].config, settings, **given)
