"""A model directory's config.json."""

from __future__ import annotations

import json
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.models.raw_config import RawConfig
from headway.server.source.files import ModelFiles


def read_config_json(files: ModelFiles) -> dict[str, Any]:
    """Raises ModelSourceError where there is none that can be read."""
    path = files.path / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path} is missing: a model directory needs it; copy or download the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(f"{path} cannot be read as JSON ({error}); copy or download it again.") from error
    return values if isinstance(values, dict) else {}


def architectures_in(values: dict[str, Any]) -> list[str]:
    return [str(name) for name in values.get("architectures") or []]


def raw_config(files: ModelFiles, values: dict[str, Any]) -> RawConfig:
    return RawConfig(values, f"config.json ({files.path / 'config.json'})")
