"""A model directory's config.json."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.models.raw_config import RawConfig
from headway.server.source.files import ModelFiles

_QUANTIZATION_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}

# transformers names each of them as soon as it reads a config, of whatever model: 20 million take 5 GB and minutes.
_MOST_LABELS = 2**16

Overrides = Mapping[str, Any]
NO_OVERRIDES: Overrides = MappingProxyType({})


def read_config_json(files: ModelFiles, overrides: Overrides) -> dict[str, Any]:
    """With ``overrides`` (--hf-overrides) laid over it, objects member by member. Raises ModelSourceError where there is none that can
    be read."""
    own = _json_object(files.path / "config.json")
    if not own.get("quantization_config"):
        own |= _quantization_beside(files.path)
    values = {**_laid_over(own, overrides), **_changed_rope(own, overrides)}
    labels = values.get("num_labels")
    if isinstance(labels, int) and labels > _MOST_LABELS:
        raise ModelSourceError(
            f"{files.path / 'config.json'} can't be used: num_labels is {reprlib.repr(labels)}, and {_MOST_LABELS} is the most that is "
            "served; a model that generates text has none: remove the key."
        )
    return values


def _json_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path} is missing: a model directory needs it; copy or download the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(f"{path} cannot be read as JSON ({error}); copy or download it again.") from error
    return values if isinstance(values, dict) else {}


def _quantization_beside(directory: Path) -> dict[str, Any]:
    """The first tools wrote the quantization_config into a file of its own, and its method nowhere."""
    for name, method in _QUANTIZATION_FILES.items():
        if (directory / name).is_file():
            return {"quantization_config": {"quant_method": method, **_json_object(directory / name)}}
    return {}


def _laid_over(values: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    changed = dict(values)
    for key, value in overrides.items():
        own = values.get(key)
        changed[key] = _laid_over(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return changed


def _changed_rope(values: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Rope parameters have had two names and rope_theta a place beside them: whatever either side calls them, the overrides' win. Where a
    file has some for each kind of layer, they are meant for those that attend to everything."""
    asked, in_file = ({key: _object(side, key) for key in ("rope_scaling", "rope_parameters")} for side in (overrides, values))
    changes = {**asked["rope_scaling"], **asked["rope_parameters"]}
    if "rope_theta" in overrides:
        changes.setdefault("rope_theta", overrides["rope_theta"])
    if not changes:
        return {}
    own = in_file["rope_parameters"] or in_file["rope_scaling"]
    if any(isinstance(value, dict) for value in own.values()) and not any(isinstance(value, dict) for value in changes.values()):
        changes = {"full_attention": changes}
    return {"rope_parameters": _laid_over(own, changes)}


def _object(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise ModelSourceError(f"{key} in config.json, or laid over it, must be an object, not {value!r}.")
    return value


def architectures_in(values: dict[str, Any]) -> list[str]:
    names = values.get("architectures") or []
    if not isinstance(names, list):
        raise ModelSourceError(f"architectures in config.json, or laid over it, must be a list of names, not {names!r}.")
    return [str(name) for name in names]


def raw_config(files: ModelFiles, values: dict[str, Any]) -> RawConfig:
    return RawConfig(values, f"config.json ({files.path / 'config.json'})")
